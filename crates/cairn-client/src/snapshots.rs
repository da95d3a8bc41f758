//! Snapshots of directory trees: taken, listed, deleted. What is in one is read like anything else, below
//! `.snapshots/NAME` of its directory.

use crate::client::DfsClient;
use crate::error::{Cause, Error};
use crate::namespace::at;
use cairn_proto::InodeId;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::{Code, Status};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory tree as it was at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Counts the snapshots of the cluster; never reused.
    pub number: u64,
    /// Its name in `.snapshots` of its directory. A hold has none: nobody can look into it.
    pub name: Option<OsString>,
    /// By which path its directory was named when it was taken.
    pub path: PathBuf,
    /// When it was taken, nanoseconds since 1970.
    pub taken_ns: i64,
    /// Who asked for it; may be empty.
    pub owner: String,
    /// It is deleted when it was not renewed for so long.
    pub ttl: Option<Duration>,
    /// The backup that it is the hold of.
    pub backup: Option<String>,
    /// Its backup is not whole yet, or never will be.
    pub unsettled: bool,
}

impl Snapshot {
    fn from_pb(snapshot: pb::Snapshot) -> Self {
        let name = (!snapshot.name.is_empty()).then(|| OsString::from_vec(snapshot.name.to_vec()));
        let path = OsStr::from_bytes(&snapshot.path);
        Self {
            number: snapshot.number,
            name,
            path: Path::new("/").join(path),
            taken_ns: snapshot.taken_ns,
            owner: snapshot.owner,
            ttl: (snapshot.ttl_ms > 0).then(|| Duration::from_millis(snapshot.ttl_ms)),
            backup: (!snapshot.backup.is_empty()).then_some(snapshot.backup),
            unsettled: snapshot.unsettled,
        }
    }

    /// Where it is found.
    pub fn location(&self) -> Option<PathBuf> {
        self.name.as_ref().map(|name| self.path.join(".snapshots").join(name))
    }
}

/// `ReadOnly` for an inode in a snapshot. The server would refuse its commit, after all blocks were sent.
pub(crate) fn check_changeable(inode: InodeId) -> Result<(), Error> {
    if inode.is_past() {
        let status = Status::new(Code::ReadOnly, "it lies in a snapshot, which cannot be changed");
        return Err(Error::new("write", Cause::Status(status)));
    }
    Ok(())
}

impl DfsClient {
    pub(crate) async fn take_snapshot(&self, create: pb::CreateSnapshot) -> Result<Snapshot, Error> {
        match self.mutate(request::Kind::CreateSnapshot(create), Some(false)).await? {
            response::Kind::CreateSnapshot(snapshot) => Ok(Snapshot::from_pb(snapshot)),
            _ => Err(self.inner.unexpected("create_snapshot")),
        }
    }

    /// Takes a snapshot of the directory at `path`, at once however large it is. It shows everything that was
    /// acknowledged before this call, below `path/.snapshots/name`, until it is deleted; and it keeps the space of what
    /// is changed or removed meanwhile.
    ///
    /// # Errors
    /// `AlreadyExists` when the directory has a snapshot of that name; `NotFound`, `NotADirectory`; `ReadOnly` inside of
    /// a snapshot; `InvalidInput` for a name with a slash; `Conflict` when there are too many.
    pub async fn snapshot(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<Snapshot, Error> {
        let (path, name) = (path.as_ref(), name.as_ref());
        let work = async {
            if name.is_empty() {
                return Err(Error::invalid("snapshot", "a snapshot needs a name"));
            }
            let name = name.as_bytes().to_vec().into();
            self.take_snapshot(pb::CreateSnapshot { at: Some(at(path)?), name, ..Default::default() }).await
        };
        self.operation("snapshot", path, work).await
    }

    /// Deletes a snapshot of the directory at `path`. Space that only it kept becomes free in the background.
    ///
    /// # Errors
    /// `NotFound` when there is no such snapshot.
    pub async fn delete_snapshot(&self, path: impl AsRef<Path>, name: impl AsRef<OsStr>) -> Result<(), Error> {
        let path = path.as_ref();
        let work = async {
            let name = name.as_ref().as_bytes().to_vec().into();
            let delete = pb::DeleteSnapshot { number: 0, at: Some(at(path)?), name };
            self.mutate(request::Kind::DeleteSnapshot(delete), Some(false)).await.map(|_| ())
        };
        self.operation("delete_snapshot", path, work).await
    }

    /// Snapshots in the order in which they were taken: of the directory at `path`, or all; holds only if asked for.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, `Unavailable`.
    pub async fn snapshots(&self, path: Option<&Path>, holds: bool) -> Result<Vec<Snapshot>, Error> {
        let work = async {
            let inner = &self.inner;
            let dir = path.map(at).transpose()?;
            let mut found: Vec<Snapshot> = Vec::new();
            loop {
                let after = found.last().map_or(0, |snapshot| snapshot.number);
                let ask = pb::ListSnapshots { at: dir.clone(), holds, after, limit: 0 };
                let deadline = inner.deadline(inner.config.meta_timeout);
                match inner.meta_read(request::Kind::ListSnapshots(ask), deadline).await? {
                    response::Kind::ListSnapshots(page) => {
                        let moved = !page.snapshots.is_empty();
                        found.extend(page.snapshots.into_iter().map(Snapshot::from_pb));
                        if page.end || !moved {
                            return Ok(found);
                        }
                    }
                    _ => return Err(inner.unexpected("list_snapshots")),
                }
            }
        };
        self.operation("snapshots", path.unwrap_or(Path::new("/")), work).await
    }

    /// Keeps all that stands in the cluster at this moment, for a backup: blocks stay readable by their ids, and history
    /// stays in metadata. Nobody sees a hold; it ends by [`DfsClient::release`], or when it was not renewed for `ttl`
    /// (at least a second).
    ///
    /// # Errors
    /// `InvalidInput`, `Conflict` when there are too many snapshots, `Unavailable`.
    pub async fn hold(&self, owner: &str, ttl: Duration) -> Result<Snapshot, Error> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let create = pb::CreateSnapshot { owner: owner.to_owned(), ttl_ms, ..Default::default() };
        self.operation("hold", Path::new("/"), self.take_snapshot(create)).await
    }

    /// Gives a hold, or a snapshot that runs out, its whole time again.
    ///
    /// # Errors
    /// `NotFound` when it is over already: what it kept may be gone.
    pub async fn renew(&self, held: &Snapshot) -> Result<(), Error> {
        let renew = request::Kind::RenewSnapshot(pb::RenewSnapshot { number: held.number, settle: None });
        self.operation("renew", &held.path, async { self.mutate(renew, Some(false)).await.map(|_| ()) }).await
    }

    /// Ends a hold, or deletes a snapshot by its number.
    ///
    /// # Errors
    /// `NotFound` when it is over already.
    pub async fn release(&self, held: &Snapshot) -> Result<(), Error> {
        let delete = pb::DeleteSnapshot { number: held.number, ..Default::default() };
        let delete = request::Kind::DeleteSnapshot(delete);
        self.operation("release", &held.path, async { self.mutate(delete, Some(false)).await.map(|_| ()) }).await
    }
}
