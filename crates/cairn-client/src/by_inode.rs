//! Opening for faces that know inodes: what metadata told a moment ago is not asked again.

use crate::client::DfsClient;
use crate::error::Error;
use crate::file::File;
use crate::namespace::{FileKind, Metadata};
use crate::nodes::Rights;
use crate::options::OpenOptions;
use crate::place::Place;
use cairn_proto::pb::{self, request, response};

/// Bytes of a file whose map is asked for before it is opened: that of a small file is whole.
const MAP_LEN: u64 = 4 * 1024 * 1024;

/// What was found where a file is about to be opened.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Attributes.
    pub metadata: Metadata,
    /// The map of the file's beginning; `None` for what is no file.
    map: Option<pb::GetExtentsReply>,
}

impl File {
    /// Takes over what was found out about the content when the file was looked at: reads of its beginning that need not
    /// be [validated](crate::Consistency::Validated) save a request.
    pub fn learn(&self, looked: &Looked) {
        if let Some(map) = looked.map.as_ref().filter(|_| looked.metadata.inode == self.inode().0) {
            self.learn_map(map.clone());
        }
    }
}

impl DfsClient {
    /// Looks at what is to be opened, and at where its content lies, in one request. With `rights`, the user that the
    /// client acts for has to have them. A symbolic link is not followed.
    ///
    /// # Errors
    /// As [`DfsClient::access`].
    pub async fn look_to_open(&self, place: impl Into<Place>, rights: Option<Rights>) -> Result<Looked, Error> {
        let place = place.into();
        let work = async {
            let (at, follow, map_len) = (Some(place.at()?), false, MAP_LEN);
            let kind = match rights {
                Some(rights) => request::Kind::Access(pb::Access { at, follow, want: rights.bits(), map_len }),
                None => request::Kind::Stat(pb::Stat { at, follow, count_links: false, map_len }),
            };
            match self.look(kind).await? {
                response::Kind::Attr(mut attr) => {
                    let map = attr.map.take();
                    Ok(Looked { metadata: Metadata::from_pb(attr), map })
                }
                _ => Err(self.inner.unexpected("stat")),
            }
        };
        self.operation("look_to_open", place.shown(), work).await
    }

    /// A handle to the file that `metadata` describes, without a look at it: whoever has just looked, or made it, saves the
    /// request. What the options say of creating and of rights is not regarded; with
    /// [`sustained`](OpenOptions::sustained), metadata is asked to keep the file.
    ///
    /// # Errors
    /// `InvalidInput` for what is no regular file; `NotFound` when it is gone and was to be kept.
    pub async fn open_known(&self, metadata: &Metadata, options: OpenOptions) -> Result<File, Error> {
        let place = Place::inode(metadata.inode);
        let work = async {
            if metadata.kind != FileKind::File {
                return Err(Error::invalid("open", "only a regular file has content to open"));
            }
            let hold = if options.sustained { Some(self.sustain_quietly(metadata.inode).await?) } else { None };
            let policy = pb::Policy {
                replicas: metadata.replicas,
                block_len: metadata.block_len,
                relaxed: metadata.relaxed,
                trash_s: 0,
            };
            let attr = pb::Attr {
                inode: metadata.inode,
                kind: pb::Kind::File as i32,
                size: metadata.size,
                policy: Some(policy),
                ..Default::default()
            };
            self.open_held(place.shown(), attr, &options, hold).await
        };
        self.operation("open", place.shown(), work).await
    }

    /// Makes a file, or finds the one that has the name already, in one request, and tells what it is. With
    /// [`create_new`](OpenOptions::create_new) it has to be new. Nothing is truncated.
    ///
    /// # Errors
    /// As [`DfsClient::open`]; `AlreadyExists` with `create_new`.
    pub async fn create_file(&self, place: impl Into<Place>, options: OpenOptions) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let create = pb::Create {
                at: Some(place.at()?),
                attr: Some(options.attributes.to_pb(0o644)),
                exclusive: options.exclusive,
                follow: false,
                want: options.want(),
            };
            self.mutate_attr(request::Kind::Create(create), options.relaxed).await
        };
        self.operation("create_file", place.shown(), work).await
    }

    /// As [`DfsClient::remove_file`], and tells the time of change that the directory was given, nanoseconds since 1970;
    /// `None` by a server that does not tell.
    ///
    /// # Errors
    /// As [`DfsClient::remove_file`].
    pub async fn remove_file_told(&self, place: impl Into<Place>) -> Result<Option<i64>, Error> {
        let place = place.into();
        let work = async {
            let unlink = pb::Unlink { at: Some(place.at()?), no_trash: false };
            match self.mutate(request::Kind::Unlink(unlink), None).await? {
                response::Kind::Empty(done) => Ok(Some(done.time_ns).filter(|time| *time != 0)),
                _ => Err(self.inner.unexpected("unlink")),
            }
        };
        self.operation("remove_file", place.shown(), work).await
    }

    /// Returns once every change of names and attributes that has returned is on disk, also those that were relaxed.
    ///
    /// # Errors
    /// `NotFound` when the place is gone; `Unavailable`, `Indeterminate`.
    pub async fn sync_names(&self, place: impl Into<Place>) -> Result<(), Error> {
        let place = place.into();
        let work = async {
            // A durable transaction behind the relaxed ones brings them to disk with it.
            let set = pb::SetAttr { at: Some(place.at()?), ..Default::default() };
            self.mutate(request::Kind::SetAttr(set), Some(false)).await.map(|_| ())
        };
        self.operation("sync_names", place.shown(), work).await
    }

    /// As [`DfsClient::create_unnamed`], and tells what was made.
    ///
    /// # Errors
    /// As [`DfsClient::create_unnamed`].
    pub async fn create_unnamed_told(
        &self,
        dir: impl Into<Place>,
        options: OpenOptions,
    ) -> Result<(File, Metadata), Error> {
        let dir = dir.into();
        let work = async {
            let inner = &self.inner;
            let deadline = inner.deadline(inner.config.meta_timeout);
            let inode = inner.sessions.inode(inner, deadline).await?.0;
            let attr = Some(options.attributes.to_pb(0o600));
            let kind = request::Kind::CreateUnnamed(pb::CreateUnnamed { inode, dir: Some(dir.at()?), attr });
            let relaxed = options.relaxed.or(inner.config.relaxed).unwrap_or(false);
            let made = inner.sessions.mutate_told(inner, self.call(kind), relaxed, deadline).await?;
            let (response::Kind::Attr(attr), session) = made else { return Err(inner.unexpected("create_unnamed")) };
            // The hold that made it is the handle's, however the options are.
            let hold = self.adopt(session, inode);
            let metadata = Metadata::from_pb(attr.clone());
            self.open_held(dir.shown(), attr, &options, Some(hold)).await.map(|file| (file, metadata))
        };
        self.operation("create_unnamed", dir.shown(), work).await
    }
}
