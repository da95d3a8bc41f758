//! What the mount does with each request of the kernel: one operation of the client, or a few, and an answer. The kernel's
//! bytes and threads are not known here.

pub mod ahead;
mod attrs;
mod dirs;
mod files;
mod locks;
mod names;
mod ranges;
mod xattrs;

use crate::face::ahead::Ahead;
use crate::face::dirs::Listing;
use crate::face::files::OpenFile;
use crate::identity::Identity;
use crate::kernel::abi;
use crate::kernel::reply::{Answer, Attr, Node as NodeAnswer};
use crate::kernel::request::{Create, Op, Request};
use crate::limits::{DIRTY_AGE, DIRTY_BYTES_MAX, KEPT_COUNT_MAX, TTL};
use crate::messages::Messages;
use crate::node::{Node, Shared};
use crate::options::MountOptions;
use cairn_client::{DfsClient, Error, FileKind, Metadata, Place};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// How an operation ends.
pub type Done = Result<Answer, Errno>;

/// See the module.
pub struct Face {
    client: DfsClient,
    options: MountOptions,
    identity: Identity,
    /// The inode of CairnFS that is the mount's root.
    root: u64,
    nodes: Mutex<Nodes>,
    files: Mutex<HashMap<u64, Arc<OpenFile>>>,
    listings: Mutex<HashMap<u64, Arc<Listing>>>,
    handles: AtomicU64,
    /// Versions of files whose content the kernel may have.
    kept: Mutex<HashMap<u64, u64>>,
    /// Versions of files whose attributes the kernel may have.
    shown: Mutex<HashMap<u64, u64>>,
    ahead: Arc<Ahead>,
    shared: Shared,
    /// Changes of names that were made here.
    names: AtomicU64,
    messages: Messages,
}

/// Open files by inode, each with how many handles it has.
#[derive(Default)]
struct Nodes(HashMap<u64, (Arc<Node>, usize)>);

impl Face {
    /// Of a directory of CairnFS.
    pub fn new(client: DfsClient, root: u64, options: MountOptions, messages: Messages) -> Self {
        let ahead = Arc::new(Ahead::new(ttl_of(&options)));
        Self {
            identity: Identity::new(client.clone(), &options),
            shared: Shared {
                room: Arc::new(Semaphore::new(DIRTY_BYTES_MAX as usize)),
                hard: options.hard,
                ahead: ahead.clone(),
            },
            client,
            options,
            root,
            nodes: Mutex::default(),
            files: Mutex::default(),
            listings: Mutex::default(),
            handles: AtomicU64::new(1),
            kept: Mutex::default(),
            shown: Mutex::default(),
            ahead,
            names: AtomicU64::new(0),
            messages,
        }
    }

    /// Does what is asked.
    ///
    /// # Errors
    /// What the caller is told.
    pub async fn answer(&self, request: &Request) -> Done {
        let done = self.perform(request).await;
        // Whatever came of it: it may have been done.
        self.touch(request);
        done
    }

    /// What was changed, or may have been, is no longer what was read ahead. Content is dealt with where it is committed.
    fn touch(&self, request: &Request) {
        let node = self.inode(request.node);
        match &request.op {
            // What becomes of the directory, these see to themselves.
            Op::Unlink { name } | Op::Create(Create { name, .. }) => self.ahead.touch_name(node, name),
            Op::Symlink { name, .. } | Op::Mknod { name, .. } | Op::Mkdir { name, .. } => {
                self.touch_entry(node, name);
            }
            Op::Rmdir { name } => {
                self.ahead.touch_directories();
                self.touch_entry(node, name);
            }
            Op::Rename { name, to_dir, to_name, .. } => {
                self.ahead.touch_directories();
                self.touch_entry(node, name);
                self.touch_entry(self.inode(*to_dir), to_name);
            }
            Op::Link { node: linked, name } => {
                self.ahead.touch(self.inode(*linked));
                self.touch_entry(node, name);
            }
            Op::SetAttr(_) | Op::SetXattr { .. } | Op::RemoveXattr { .. } | Op::Allocate { .. } => {
                self.ahead.touch(node);
            }
            Op::CopyRange(copy) => self.ahead.touch(self.inode(copy.to_node)),
            _ => {}
        }
    }

    /// A name, and the directory that it is in.
    fn touch_entry(&self, dir: u64, name: &OsStr) {
        self.ahead.touch(dir);
        self.ahead.touch_name(dir, name);
    }

    async fn perform(&self, request: &Request) -> Done {
        let node = self.inode(request.node);
        match &request.op {
            Op::Lookup { name } => self.lookup(request, name).await,
            Op::GetAttr { .. } => self.get_attr(request).await,
            Op::Statx { .. } => self.statx(request).await,
            Op::SetAttr(change) => self.set_attr(request, change).await,
            Op::ReadLink => self.read_link(request).await,
            Op::Symlink { name, target } => self.symlink(request, name, target).await,
            Op::Mknod { name, mode, rdev, umask } => self.mknod(request, name, (*mode, *umask), *rdev).await,
            Op::Mkdir { name, mode, umask } => self.mkdir(request, name, *mode, *umask).await,
            Op::Unlink { name } => self.unlink(request, name).await,
            Op::Rmdir { name } => self.rmdir(request, name).await,
            Op::Rename { name, to_dir, to_name, flags } => {
                self.rename(request, name, (self.inode(*to_dir), to_name), *flags).await
            }
            Op::Link { node, name } => self.link(request, self.inode(*node), name).await,
            Op::Open { flags, drop_privileges } => self.open(request, *flags, *drop_privileges).await,
            Op::Create(create) => self.create(request, create).await,
            Op::Tmpfile(create) => self.tmpfile(request, create).await,
            Op::Read { handle, offset, len, flags } => self.read(*handle, *offset, *len, *flags).await,
            Op::Write { handle, offset, data, write_flags, flags } => {
                self.write(*handle, *offset, data, (*write_flags, *flags)).await
            }
            Op::Flush { handle, owner } => self.flush(*handle, *owner).await,
            Op::Release { handle, flock_owner } => self.release(*handle, *flock_owner).await,
            Op::Fsync { handle, .. } => self.fsync(*handle).await,
            Op::OpenDir => self.open_dir(request).await,
            Op::ReadDir { handle, offset, len, plus } => self.read_dir(*handle, *offset, *len, *plus).await,
            Op::ReleaseDir { handle } => self.release_dir(*handle),
            Op::FsyncDir { .. } => self.fsync_dir(node).await,
            Op::StatFs => self.stat_fs(node).await,
            Op::SetXattr { name, value, flags, drop_setgid } => {
                self.set_xattr(request, name, value.clone(), *flags, *drop_setgid).await
            }
            Op::GetXattr { name, len } => self.get_xattr(request, name, *len).await,
            Op::ListXattr { len } => self.list_xattrs(request, *len).await,
            Op::RemoveXattr { name } => self.remove_xattr(request, name).await,
            Op::Access { mask } => self.access(request, *mask).await,
            Op::GetLock(ask) => self.get_lock(ask).await,
            Op::SetLock { lock, wait } => self.set_lock(lock, *wait).await,
            Op::Ioctl => Err(Errno::NOTTY),
            Op::Allocate { handle, offset, len, mode } => self.allocate(request, *handle, *offset, *len, *mode).await,
            Op::Seek { handle, offset, whence } => self.seek(*handle, *offset, *whence).await,
            Op::CopyRange(copy) => self.copy_range(request, copy).await,
            Op::Forget { .. } => {
                self.forget(node);
                Ok(Answer::None)
            }
            Op::BatchForget { nodes } => {
                nodes.iter().for_each(|(node, _)| self.forget(self.inode(*node)));
                Ok(Answer::None)
            }
            // Of the connection, not of files: the session deals with them.
            Op::Interrupt { .. } | Op::Destroy | Op::Init { .. } => Err(Errno::INVAL),
            Op::Unknown(code) => {
                tracing::debug!(code, "the kernel asked for an operation that is not known");
                Err(Errno::NOSYS)
            }
        }
    }

    // -------------------------------------------------------------------- numbers

    /// The inode that the kernel calls `node`.
    fn inode(&self, node: u64) -> u64 {
        if node == abi::ROOT { self.root } else { node }
    }

    /// What the kernel calls an inode.
    fn node_number(&self, inode: u64) -> u64 {
        if inode == self.root { abi::ROOT } else { inode }
    }

    /// The place that a request is about.
    fn place(&self, request: &Request) -> Place {
        Place::inode(self.inode(request.node))
    }

    /// A name in the directory that a request is about.
    fn within(&self, request: &Request, name: impl AsRef<std::path::Path>) -> Place {
        Place::within(self.inode(request.node), name)
    }

    /// A name is about to change here, and with it what is known of what it leads to.
    fn name_changes(&self) {
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    fn new_handle(&self) -> u64 {
        self.handles.fetch_add(1, Ordering::Relaxed)
    }

    // -------------------------------------------------------------------- attributes

    fn ttl(&self) -> Duration {
        ttl_of(&self.options)
    }

    /// Metadata as the kernel takes it, with what open files have written.
    fn attr(&self, mut metadata: Metadata) -> Attr {
        if let Some(node) = self.open_node(metadata.inode) {
            node.show(&mut metadata);
        }
        if metadata.kind == FileKind::File {
            remember(&mut self.shown.lock(), metadata.inode, metadata.version);
        }
        let (uid, gid) = self.identity.shown(metadata.uid, metadata.gid);
        Attr {
            inode: self.node_number(metadata.inode),
            size: metadata.size,
            blocks: metadata.allocated.div_ceil(512),
            atime_ns: metadata.atime_ns,
            mtime_ns: metadata.mtime_ns,
            ctime_ns: metadata.ctime_ns,
            btime_ns: metadata.btime_ns,
            mode: type_bits(metadata.kind) | metadata.mode,
            nlink: metadata.nlink,
            uid,
            gid,
            rdev: packed_device(metadata.rdev),
            block_len: BLOCK_LEN_SHOWN,
        }
    }

    fn node_answer(&self, metadata: Metadata) -> NodeAnswer {
        self.node_answer_for(metadata, self.ttl())
    }

    /// As [`Face::node_answer`], to be believed so long.
    fn node_answer_for(&self, metadata: Metadata, ttl: Duration) -> NodeAnswer {
        NodeAnswer { attr: self.attr(metadata), name_ttl: ttl, attr_ttl: ttl }
    }

    // -------------------------------------------------------------------- open files

    /// The open file of an inode, if it is open here.
    fn open_node(&self, inode: u64) -> Option<Arc<Node>> {
        self.nodes.lock().0.get(&inode).map(|(node, _)| node.clone())
    }

    /// Counts a handle more of the file that was just looked at.
    async fn take_node(&self, metadata: &Metadata) -> Result<Arc<Node>, Error> {
        if let Some((node, count)) = self.nodes.lock().0.get_mut(&metadata.inode) {
            *count += 1;
            return Ok(node.clone());
        }
        let new = Node::new(&self.client, metadata, &self.shared).await?;
        Ok(self.add_node(new))
    }

    /// As [`Face::take_node`], of a file that is open already. Somebody else may have opened it meanwhile.
    fn add_node(&self, new: Arc<Node>) -> Arc<Node> {
        let mut nodes = self.nodes.lock();
        let (node, count) = nodes.0.entry(new.inode()).or_insert((new, 0));
        *count += 1;
        node.clone()
    }

    /// Counts a handle less; what was written is committed by then.
    fn drop_node(&self, node: &Arc<Node>) {
        let mut nodes = self.nodes.lock();
        if let Some((_, count)) = nodes.0.get_mut(&node.inode()) {
            *count -= 1;
            if *count == 0 {
                nodes.0.remove(&node.inode());
            }
        }
    }

    fn open_file(&self, handle: u64) -> Result<Arc<OpenFile>, Errno> {
        self.files.lock().get(&handle).cloned().ok_or(Errno::BADF)
    }

    /// The version of the file whose content the kernel has from now on; true when it had that one already.
    fn keep(&self, inode: u64, version: u64) -> bool {
        remember(&mut self.kept.lock(), inode, version) == Some(version)
    }

    fn forget(&self, inode: u64) {
        self.kept.lock().remove(&inode);
        self.shown.lock().remove(&inode);
    }

    /// Whether the kernel's attributes of a file, if it has any, are of that version.
    fn is_shown(&self, metadata: &Metadata) -> bool {
        self.shown.lock().get(&metadata.inode) == Some(&metadata.version)
    }

    /// An answer may not have reached the kernel: what it was told is no longer known.
    pub fn not_told(&self) {
        self.shown.lock().clear();
    }

    // -------------------------------------------------------------------- what others do

    /// Nothing is cached.
    pub fn is_strict(&self) -> bool {
        self.options.strict
    }

    /// Somebody else changed where a name leads.
    pub async fn name_changed(&self, dir: u64, name: OsString) {
        self.touch_entry(dir, &name);
        let dir = self.node_number(dir);
        self.messages.forget_name(dir, name).await;
        self.messages.forget_attributes(dir).await;
    }

    /// What cannot be done because the cluster does not answer is tried again for ever.
    pub fn is_hard(&self) -> bool {
        self.options.hard
    }

    /// Somebody else changed attributes.
    pub async fn attributes_changed(&self, inode: u64) {
        self.ahead.touch(inode);
        if let Some(node) = self.open_node(inode) {
            node.doubt();
        }
        self.messages.forget_attributes(self.node_number(inode)).await;
    }

    /// Somebody else made that version of a file.
    pub async fn content_changed(&self, inode: u64, version: u64) {
        self.ahead.touch(inode);
        // What was heard of it already was dealt with then.
        if self.open_node(inode).is_some_and(|node| !node.take_stale() && node.version() >= version) {
            return;
        }
        if let Some(node) = self.open_node(inode) {
            node.doubt();
        }
        self.kept.lock().remove(&inode);
        self.messages.forget_content(self.node_number(inode)).await;
    }

    /// Changes of others may have been missed.
    pub async fn forget_everything(&self) {
        self.ahead.touch_all();
        self.nodes.lock().0.values().for_each(|(node, _)| node.doubt());
        let mut inodes: Vec<u64> = self.kept.lock().drain().map(|(inode, _)| inode).collect();
        inodes.extend(self.nodes.lock().0.keys());
        for inode in inodes {
            self.messages.forget_content(self.node_number(inode)).await;
        }
    }

    // -------------------------------------------------------------------- in the background

    /// Commits what has waited long enough.
    pub async fn flush_old(&self) {
        let now = Instant::now();
        let nodes: Vec<Arc<Node>> = {
            let nodes = self.nodes.lock();
            let is_old = |node: &Node| node.dirty_since().is_some_and(|since| now.duration_since(since) >= DIRTY_AGE);
            nodes.0.values().filter(|(node, _)| is_old(node)).map(|(node, _)| node.clone()).collect()
        };
        for node in nodes {
            node.commit_quietly();
        }
    }

    /// Commits everything that was written.
    pub async fn drain(&self) {
        let nodes: Vec<Arc<Node>> = self.nodes.lock().0.values().map(|(node, _)| node.clone()).collect();
        for node in nodes {
            if let Err(error) = node.commit().await {
                tracing::warn!(inode = node.inode(), "at the end of the mount: {error}");
            }
        }
    }
}

/// How long the kernel may believe what it is told.
fn ttl_of(options: &MountOptions) -> Duration {
    if options.strict { Duration::ZERO } else { options.ttl.unwrap_or(TTL) }
}

/// Notes the version that the kernel has of an inode; tells the one that was noted before.
fn remember(versions: &mut HashMap<u64, u64>, inode: u64, version: u64) -> Option<u64> {
    if versions.len() >= KEPT_COUNT_MAX && !versions.contains_key(&inode) {
        // Not knowing only means that the kernel asks again.
        versions.clear();
    }
    versions.insert(inode, version)
}

/// What stat(2) says to be a good length of reads and writes: programs allocate buffers of it.
const BLOCK_LEN_SHOWN: u32 = 64 * 1024;

/// The bits of a mode that say what it is of.
fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::Directory => 0o040_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::File => 0o100_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Socket => 0o140_000,
    }
}

/// A device number as the kernel packs it into 32 bits.
fn packed_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// The device number that the kernel packed.
fn unpacked_device(packed: u32) -> u64 {
    rustix::fs::makedev(packed >> 8 & 0xfff, packed & 0xff | packed >> 12 & 0xf_ff00)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_packed_and_back() {
        for (major, minor) in [(0, 0), (1, 3), (8, 255), (259, 256), (0xfff, 0xf_ffff)] {
            let device = rustix::fs::makedev(major, minor);
            assert_eq!(unpacked_device(packed_device(device)), device, "{major}:{minor}");
        }
        assert_eq!(packed_device(rustix::fs::makedev(1, 3)), 0x103);
    }

    #[test]
    fn every_kind_has_its_bits() {
        assert_eq!(type_bits(FileKind::File), 0o100_000);
        assert_eq!(type_bits(FileKind::Directory), 0o040_000);
        assert_eq!(type_bits(FileKind::Socket), 0o140_000);
    }
}
