//! Clones: a file that shares the blocks of another until one of the two is changed.

use crate::atomic::parent;
use crate::client::DfsClient;
use crate::error::{Cause, Error};
use crate::namespace::{Metadata, at, at_inode};
use crate::options::CreateOptions;
use cairn_proto::InodeId;
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::{Code, Status};
use std::path::Path;

/// Times that the source may change while it is cloned; the next time it is cloned as of one moment.
const TRIES: usize = 3;
/// Until a clone that is under way must have made a step.
const HOLD_TTL_MS: u64 = 60_000;

impl DfsClient {
    /// Makes `to` a copy of the file `from` at one moment, which shares its blocks: no bytes are moved, and none take
    /// space twice until one of the two is written. `from` may lie in a snapshot. The copy gets the mode of the source
    /// unless the options say another, and appears whole or not at all.
    ///
    /// Files are cloned in steps of a bounded number of extents. When the source is written meanwhile, it begins again,
    /// and after a few times clones it as it was at one moment, behind a hold of its own.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`; `AlreadyExists` unless the options allow to replace `to`; `ReadOnly` when `to` lies in
    /// a snapshot; `Unavailable`. Then `to` is as it was.
    pub async fn clone_file(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        options: CreateOptions,
    ) -> Result<Metadata, Error> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.operation("clone_file", from, self.clone_quietly(from, to, &options)).await
    }

    async fn clone_quietly(&self, from: &Path, to: &Path, options: &CreateOptions) -> Result<Metadata, Error> {
        let inner = &self.inner;
        let mut source = self.source(at(from)?).await?;
        let inode = inner.sessions.inode(inner, inner.deadline(inner.config.meta_timeout)).await?.0;
        let policy = source.policy.unwrap_or_default();
        let (replicas, block_len) = (policy.replicas, policy.block_len);
        let attr = Some(pb::NewAttr { replicas, block_len, ..options.to_pb(source.mode) });
        let name = at(to)?;
        let create = pb::CreateUnnamed { inode, dir: Some(parent(&name)), attr };
        self.mutate(request::Kind::CreateUnnamed(create), options.relaxed).await?;
        let mut filled = self.fill(&source, inode).await;
        for _ in 1..TRIES {
            if !is_moved(&filled) {
                break;
            }
            self.empty(inode).await?;
            source = self.source(at_inode(InodeId(source.inode))).await?;
            filled = self.fill(&source, inode).await;
        }
        if is_moved(&filled) {
            self.empty(inode).await?;
            filled = self.fill_as_of_now(&mut source, inode).await;
        }
        let publish = pb::Publish {
            inode,
            at: Some(name),
            attr,
            unnamed: true,
            replace: options.replace,
            size: source.size,
            ..Default::default()
        };
        let named = match filled {
            Ok(()) => self.mutate(request::Kind::Publish(publish), options.relaxed).await,
            Err(error) => Err(error),
        };
        match named {
            Ok(response::Kind::Attr(attr)) => Ok(Metadata::from_pb(attr)),
            Ok(_) => Err(inner.unexpected("publish")),
            Err(error) => {
                // What is without a name goes with the session; what it refers to goes now, if that can be told.
                let _ = self.empty(inode).await;
                Err(error)
            }
        }
    }

    /// The attributes of a file that is to be cloned.
    async fn source(&self, place: pb::At) -> Result<pb::Attr, Error> {
        let inner = &self.inner;
        let stat = request::Kind::Stat(pb::Stat { at: Some(place), follow: true, ..Default::default() });
        let response::Kind::Attr(attr) = inner.meta_read(stat, inner.deadline(inner.config.meta_timeout)).await? else {
            return Err(inner.unexpected("stat"));
        };
        match attr.kind() {
            pb::Kind::File => Ok(attr),
            pb::Kind::Directory => {
                let status = Status::new(Code::IsADirectory, "only files can be cloned");
                Err(Error::new("clone_file", Cause::Status(status)))
            }
            _ => Err(Error::invalid("clone_file", "only files can be cloned")),
        }
    }

    /// Takes all extents of `source`, which must not change meanwhile.
    async fn fill(&self, source: &pb::Attr, to: u64) -> Result<(), Error> {
        let mut offset = 0;
        loop {
            let step = pb::CloneRange { from: source.inode, from_version: source.version, to, offset };
            match self.mutate(request::Kind::CloneRange(step), None).await? {
                response::Kind::CloneRange(reply) if reply.end => return Ok(()),
                response::Kind::CloneRange(reply) if reply.next_offset > offset => offset = reply.next_offset,
                _ => return Err(self.inner.unexpected("clone_range")),
            }
        }
    }

    /// Takes all extents of `source` as they are at one moment, behind a hold.
    async fn fill_as_of_now(&self, source: &mut pb::Attr, to: u64) -> Result<(), Error> {
        let hold = pb::CreateSnapshot { owner: "clone".into(), ttl_ms: HOLD_TTL_MS, ..Default::default() };
        let hold = self.take_snapshot(hold).await?;
        let work = async {
            let past = InodeId(source.inode).in_snapshot(hold.number);
            let past = past.ok_or_else(|| Error::invalid("clone_file", "its number is too high for a snapshot"))?;
            *source = self.source(at_inode(past)).await?;
            self.fill(source, to).await
        };
        let filled = work.await;
        // Not released, it runs out.
        let delete = pb::DeleteSnapshot { number: hold.number, ..Default::default() };
        let _ = self.mutate(request::Kind::DeleteSnapshot(delete), Some(false)).await;
        filled
    }

    /// Lets go of what an unfinished clone refers to.
    async fn empty(&self, inode: u64) -> Result<(), Error> {
        let truncate = pb::Truncate { inode, size: 0, ..Default::default() };
        self.mutate(request::Kind::Truncate(truncate), None).await.map(|_| ())
    }
}

/// The source was changed meanwhile.
fn is_moved(filled: &Result<(), Error>) -> bool {
    matches!(filled, Err(error) if error.code() == Some(Code::Conflict))
}
