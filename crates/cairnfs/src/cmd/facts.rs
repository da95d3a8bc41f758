//! What is known of a file, as JSON; and directories in order.

use std::path::Path;

use cairn_client::{DfsClient, DirEntry, Metadata};
use serde::Serialize;

use super::policy::durability;
use crate::{failure::Failure, output::JsonPath, text};

/// A file in JSON.
#[derive(Debug, Serialize)]
pub(super) struct FileJson {
    #[serde(flatten)]
    path: JsonPath,
    kind: &'static str,
    /// In octal.
    mode: String,
    uid: u32,
    gid: u32,
    nlink: u64,
    size: u64,
    inode: u64,
    version: u64,
    replicas: u64,
    block_len: u64,
    durability: &'static str,
    atime: String,
    mtime: String,
    mtime_ns: i64,
    ctime: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    btime: Option<String>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    has_xattrs: bool,
    has_acl: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl FileJson {
    pub(super) fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: JsonPath::from(path),
            kind: text::kind(metadata.kind),
            mode: format!("{:04o}", metadata.mode & 0o7777),
            uid: metadata.uid,
            gid: metadata.gid,
            nlink: u64::from(metadata.nlink),
            size: metadata.size,
            inode: metadata.inode,
            version: metadata.version,
            replicas: u64::from(metadata.replicas),
            block_len: u64::from(metadata.block_len),
            durability: durability(metadata),
            atime: text::rfc3339(metadata.atime_ns),
            mtime: text::rfc3339(metadata.mtime_ns),
            mtime_ns: metadata.mtime_ns,
            ctime: text::rfc3339(metadata.ctime_ns),
            btime: (metadata.btime_ns != 0).then(|| text::rfc3339(metadata.btime_ns)),
            device: (metadata.rdev != 0).then(|| text::device(metadata.rdev)),
            has_xattrs: metadata.has_xattrs,
            has_acl: metadata.has_acl,
            target: metadata.target.as_ref().map(|target| target.to_string_lossy().into_owned()),
        }
    }
}

/// All entries of a directory, sorted by name.
pub(super) async fn sorted_dir(client: &DfsClient, path: &Path) -> Result<Vec<DirEntry>, Failure> {
    let failed = |error| Failure::client(path, &error);
    let mut listing = client.read_dir(path).await.map_err(failed)?;
    let mut entries = Vec::new();
    while let Some(entry) = listing.next_entry().await.map_err(failed)? {
        entries.push(entry);
    }
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}
