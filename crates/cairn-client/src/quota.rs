//! Quotas of directories.

use crate::client::DfsClient;
use crate::error::Error;
use crate::namespace::at;
use cairn_proto::pb::{self, request, response};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What may lie below a directory, and what does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The directory.
    pub root: u64,
    /// Where it is; `None` where that cannot be told.
    pub path: Option<PathBuf>,
    /// Bytes of all files; 0 = no limit.
    pub bytes: u64,
    /// Files, directories and links, the directory itself included; 0 = no limit.
    pub inodes: u64,
    /// Bytes of all files, those in the trash included.
    pub used_bytes: u64,
    /// Inodes, those in the trash included.
    pub used_inodes: u64,
    /// What is below is still being counted: usage is not complete, and nothing is refused.
    pub counting: bool,
}

/// What to change about a quota; absent limits stay, 0 takes one away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaChange {
    /// Bytes of all files.
    pub bytes: Option<u64>,
    /// Files, directories and links.
    pub inodes: Option<u64>,
}

fn from_pb(info: pb::QuotaInfo) -> Quota {
    let path = (!info.path.is_empty()).then(|| PathBuf::from(OsString::from_vec(info.path.to_vec())));
    let (bytes, inodes, used_bytes, used_inodes) = (info.bytes, info.inodes, info.used_bytes, info.used_inodes);
    Quota { root: info.root, path, bytes, inodes, used_bytes, used_inodes, counting: info.counting }
}

impl DfsClient {
    /// Sets or changes the quota of a directory. What is below it already is counted in the background.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; `Conflict` while a count is under way that this one would meet.
    pub async fn set_quota(&self, path: impl AsRef<Path>, change: QuotaChange) -> Result<(), Error> {
        let path = path.as_ref();
        let work = async {
            let set = pb::SetQuota { at: Some(at(path)?), bytes: change.bytes, inodes: change.inodes, remove: false };
            self.mutate(request::Kind::SetQuota(set), None).await.map(|_| ())
        };
        self.operation("set_quota", path, work).await
    }

    /// Removes the quota of a directory; what is below counts against the next one above, if there is one.
    ///
    /// # Errors
    /// `NotFound` when it has none; `Conflict` while anything is being counted.
    pub async fn remove_quota(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        let work = async {
            let set = pb::SetQuota { at: Some(at(path)?), remove: true, ..Default::default() };
            self.mutate(request::Kind::SetQuota(set), None).await.map(|_| ())
        };
        self.operation("remove_quota", path, work).await
    }

    /// The quota that what is at `path` counts against.
    ///
    /// # Errors
    /// `NotFound` and others of the path.
    pub async fn quota(&self, path: impl AsRef<Path>) -> Result<Option<Quota>, Error> {
        let path = path.as_ref();
        let work = async {
            let inner = &self.inner;
            let kind = request::Kind::GetQuota(pb::GetQuota { at: Some(at(path)?) });
            match inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await? {
                response::Kind::GetQuota(reply) => Ok(reply.quota.map(from_pb)),
                _ => Err(inner.unexpected("quota")),
            }
        };
        self.operation("quota", path, work).await
    }

    /// Every quota there is.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn list_quotas(&self) -> Result<Vec<Quota>, Error> {
        let work = async {
            let inner = &self.inner;
            let (mut quotas, mut after) = (Vec::new(), 0);
            loop {
                let kind = request::Kind::ListQuotas(pb::ListQuotas { after });
                let response::Kind::ListQuotas(page) =
                    inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await?
                else {
                    return Err(inner.unexpected("list_quotas"));
                };
                after = page.quotas.last().map_or(after, |last| last.root);
                quotas.extend(page.quotas.into_iter().map(from_pb));
                if page.end {
                    return Ok(quotas);
                }
            }
        };
        self.operation("list_quotas", Path::new("/"), work).await
    }
}
