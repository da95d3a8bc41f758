//! Attributes: asked for and changed.

use super::{Done, Face};
use crate::errno;
use crate::kernel::reply::{self, Answer, StatFs};
use crate::kernel::request::{Request, SetAttr, Time};
use crate::node::Node;
use cairn_client::{Metadata, Place, Rights, SetAttributes, SetTime, Symlinks};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Inodes that may be added, as far as anybody can tell.
const FREE_INODES: u64 = 1 << 40;
/// Bytes that room is counted in.
const UNIT: u64 = 4096;

impl Face {
    /// Metadata of the inode that a request is about.
    async fn look(&self, request: &Request) -> Result<Metadata, Errno> {
        // Who has come as far as the inode may see its attributes.
        self.client.symlink_metadata(self.place(request)).await.map_err(|error| errno::of_inode(&error))
    }

    /// The attributes of what a request is about, and how long to believe them: those of an open file, or of a directory
    /// that is worked in, were asked for a moment ago.
    async fn current(&self, request: &Request) -> Result<(Metadata, Duration), Errno> {
        let (names, asked) = (self.names.load(Ordering::Relaxed), Instant::now());
        if let Some(known) = self.ahead.attributes(self.inode(request.node)) {
            return Ok(known);
        }
        if let Some(node) = self.open_node(self.inode(request.node)).filter(|_| !self.options.strict)
            && let Some(metadata) = node.fresh_metadata(self.ttl(), names)
        {
            return Ok((metadata, self.ttl()));
        }
        let metadata = self.look(request).await?;
        self.ahead.learn_attributes(&metadata, asked);
        self.notice(&metadata).await;
        if let Some(node) = self.open_node(metadata.inode) {
            node.hear(names);
        }
        Ok((metadata, self.ttl()))
    }

    pub(super) async fn get_attr(&self, request: &Request) -> Done {
        let (metadata, ttl) = self.current(request).await?;
        Ok(reply::attr(&self.attr(metadata), ttl))
    }

    pub(super) async fn statx(&self, request: &Request) -> Done {
        let (metadata, ttl) = self.current(request).await?;
        Ok(reply::statx(&self.attr(metadata), ttl))
    }

    pub(super) async fn set_attr(&self, request: &Request, change: &SetAttr) -> Done {
        let node = self.open_node(self.inode(request.node));
        let sets_time = change.mtime.is_some() || change.atime.is_some();
        if let Some(node) = node.as_ref().filter(|_| sets_time) {
            // A commit afterwards would set the time of modification again.
            node.commit().await?;
        }
        let set = self.attributes(request, change).await?;
        let by_handle = change.handle.is_some() && set.mode.is_none() && set.uid.is_none() && set.gid.is_none();
        // Whoever has it open for writing may set its length, whatever its mode is by now.
        let client = if by_handle && set.size.is_some() && !sets_time {
            self.client.clone()
        } else {
            self.identity.client(request)
        };
        let place = self.place(request);
        let drops = set.uid.is_some() || set.gid.is_some() || set.size.is_some();
        let metadata = match (node, set.size) {
            (Some(node), Some(size)) => {
                let change = async move { client.set_attributes(place, set).await };
                node.truncate(size, change).await?
            }
            _ => client.set_attributes(place, set).await.map_err(|error| errno::of_inode(&error))?,
        };
        if drops && metadata.has_xattrs {
            self.drop_capabilities(metadata.inode).await;
        }
        Ok(reply::attr(&self.attr(metadata), self.ttl()))
    }

    /// What is to be set, in the words of the client.
    async fn attributes(&self, request: &Request, change: &SetAttr) -> Result<SetAttributes, Errno> {
        let time = |time: Option<Time>| {
            time.map(|time| match time {
                Time::Now => SetTime::Now,
                Time::At(ns) => SetTime::At(ns),
            })
        };
        let mut set = SetAttributes {
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            atime: time(change.atime),
            mtime: time(change.mtime),
            size: change.size,
        };
        if change.drop_privileges && change.size.is_some() && set.mode.is_none() {
            let metadata = self.look(request).await?;
            set.mode = privileged(metadata.mode).then(|| without_privileges(metadata.mode));
        }
        Ok(set)
    }

    /// Takes from a file what lends its writers the rights of others: set-id bits, and capabilities.
    pub(super) async fn drop_privileges(&self, node: &Arc<Node>) -> Result<(), Errno> {
        let metadata = node.metadata();
        if privileged(metadata.mode) {
            let set = SetAttributes { mode: Some(without_privileges(metadata.mode)), ..SetAttributes::default() };
            let changed = self.client.set_attributes(Place::inode(node.inode()), set).await;
            self.ahead.touch(node.inode());
            let mut changed = changed.map_err(|error| errno::of_inode(&error))?;
            node.show(&mut changed);
            self.messages.forget_attributes(self.node_number(node.inode())).await;
        }
        Ok(())
    }

    /// A file whose content or owner changes has no capabilities any more.
    pub(super) async fn drop_capabilities(&self, inode: u64) {
        // Most have none; and that it could not be asked concerns the change itself, too.
        let _ = self.client.remove_xattr(Place::inode(inode), "security.capability", Symlinks::Keep).await;
        self.ahead.touch(inode);
    }

    /// The content that the kernel has of a file may be of another version than it is now.
    pub(super) async fn notice(&self, metadata: &Metadata) {
        let Some(node) = self.open_node(metadata.inode) else { return };
        node.show(&mut metadata.clone());
        if node.take_stale() {
            self.messages.forget_content(self.node_number(metadata.inode)).await;
        }
    }

    pub(super) async fn access(&self, request: &Request, mask: u32) -> Done {
        let rights = Rights { read: mask & 4 != 0, write: mask & 2 != 0, execute: mask & 1 != 0 };
        let client = self.identity.client(request);
        let asked = client.access(self.place(request), rights, Symlinks::Keep).await;
        asked.map(|_| Answer::Empty).map_err(|error| errno::of_inode(&error))
    }

    pub(super) async fn stat_fs(&self, inode: u64) -> Done {
        let room = self.client.statfs(Place::inode(inode)).await.map_err(|error| errno::of_inode(&error))?;
        Ok(reply::stat_fs(&StatFs {
            blocks: room.total_bytes / UNIT,
            free: room.free_bytes / UNIT,
            inodes: room.inodes + FREE_INODES,
            free_inodes: FREE_INODES,
            block_len: UNIT as u32,
            name_len_max: room.name_len_max,
        }))
    }
}

/// The mode lends rights: set-user-id, or set-group-id that is more than a former kind of locking.
fn privileged(mode: u32) -> bool {
    without_privileges(mode) != mode
}

/// The mode of a file that somebody without rights over it changes (as `should_remove_suid` of Linux).
fn without_privileges(mode: u32) -> u32 {
    let lends_group = if mode & 0o010 != 0 { 0o2000 } else { 0 };
    mode & !(0o4000 | lends_group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_that_a_mode_lends_are_dropped() {
        assert_eq!(without_privileges(0o6755), 0o755);
        assert_eq!(without_privileges(0o6745), 0o2745);
        assert!(privileged(0o4644) && privileged(0o2010) && !privileged(0o2644) && !privileged(0o1777));
    }
}
