//! Open files: opened, made, read, written, closed.

use super::{Done, Face};
use crate::errno;
use crate::kernel::abi::{flag, fopen};
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::{Create, Request};
use crate::limits::HOLD_DELAY;
use crate::node::Node;
use bytes::Bytes;
use cairn_client::{File, FileKind, Metadata, OpenOptions, Place, Rights, SetAttributes};
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::OnceCell;

/// What open(2) opened.
pub struct OpenFile {
    pub(super) node: Arc<Node>,
    flags: OFlags,
    /// The kernel keeps none of its content for this handle.
    direct: bool,
    /// Owns what flock(2) locks through this handle.
    pub(super) flock: OnceCell<File>,
}

impl OpenFile {
    fn is_writable(&self) -> bool {
        access(self.flags).write
    }
}

/// The kernel's own flag of an open(2) that begins an execve(2).
const FOR_EXECUTION: u32 = 0x20;

/// What flags of open(2) ask to be allowed to do.
fn access(flags: OFlags) -> Rights {
    match flags & OFlags::RWMODE {
        OFlags::WRONLY => Rights { write: true, ..Rights::default() },
        OFlags::RDWR => Rights { read: true, write: true, ..Rights::default() },
        _ if flags.bits() & FOR_EXECUTION != 0 => Rights { execute: true, ..Rights::default() },
        _ => Rights { read: true, ..Rights::default() },
    }
}

/// Flags as rustix names them. The kernel's own O_LARGEFILE and the like do not matter.
fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
}

impl Face {
    pub(super) async fn open(&self, request: &Request, flags: u32, drop_privileges: bool) -> Done {
        let flags = open_flags(flags);
        let place = self.place(request);
        let client = self.identity.client(request);
        // The kernel has checked the mode as it knew it; metadata knows ACLs, and the mode of this moment.
        let rights = access(flags);
        let names = self.names.load(Ordering::Relaxed);
        let asked = if self.identity.may_everything(request) {
            self.client.look_to_open(&place, None).await
        } else {
            client.look_to_open(&place, Some(rights)).await
        };
        let looked = asked.map_err(|error| errno::of_inode(&error))?;
        let metadata = looked.metadata.clone();
        match metadata.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(Errno::ISDIR),
            FileKind::Symlink => return Err(Errno::LOOP),
            _ => return Err(Errno::NXIO),
        }
        let inode = metadata.inode;
        let is_shown = self.is_shown(&metadata);
        let (handle, open_flags) = self.open_found(metadata, flags, drop_privileges).await?;
        if let Some(node) = self.open_node(inode) {
            node.file().learn(&looked);
            node.hear(names);
        }
        if open_flags & fopen::KEEP_CACHE == 0 && !is_shown {
            // It is another version than the kernel had last: its length, too, is asked for anew.
            self.messages.forget_attributes(inode).await;
            self.messages.settle().await;
        }
        Ok(reply::opened(handle, open_flags))
    }

    /// A handle to a file that was just looked at, and how the kernel is to treat it.
    async fn open_found(&self, metadata: Metadata, flags: OFlags, drop_privileges: bool) -> Result<(u64, u32), Errno> {
        let node = self.take_node(&metadata).await.map_err(|error| errno::of_inode(&error))?;
        let opened = self.open_node_as(&node, metadata, flags, drop_privileges).await;
        if opened.is_err() {
            self.drop_node(&node);
        }
        opened
    }

    async fn open_node_as(
        &self,
        node: &Arc<Node>,
        mut metadata: Metadata,
        flags: OFlags,
        drop_privileges: bool,
    ) -> Result<(u64, u32), Errno> {
        node.show(&mut metadata);
        if flags.contains(OFlags::TRUNC) {
            let (client, place) = (self.client.clone(), Place::inode(node.inode()));
            let set = SetAttributes { size: Some(0), ..SetAttributes::default() };
            metadata = node.truncate(0, async move { client.set_attributes(place, set).await }).await?;
            if drop_privileges {
                self.drop_privileges(node).await?;
            }
        }
        hold_soon(node);
        let direct = self.options.strict || flags.contains(OFlags::APPEND);
        let mut open_flags = 0;
        if direct {
            open_flags |= fopen::DIRECT_IO;
        } else if self.keep(node.inode(), metadata.version) {
            open_flags |= fopen::KEEP_CACHE;
        }
        Ok((self.add_file(node.clone(), flags, direct), open_flags))
    }

    fn add_file(&self, node: Arc<Node>, flags: OFlags, direct: bool) -> u64 {
        let handle = self.new_handle();
        let file = OpenFile { node, flags, direct, flock: OnceCell::new() };
        self.files.lock().insert(handle, Arc::new(file));
        handle
    }

    pub(super) async fn create(&self, request: &Request, create: &Create) -> Done {
        let flags = open_flags(create.flags);
        let rights = access(flags);
        let options = OpenOptions::new()
            .create_new(flags.contains(OFlags::EXCL))
            .read(rights.read)
            .write(rights.write)
            .attributes(self.creation(request, create.mode, create.umask));
        let client = self.identity.client(request);
        let made = client.create_file(self.within(request, &create.name), options).await;
        let dir = self.inode(request.node);
        match &made {
            // It was made just now, or, if it was there, is no younger than the directory's last change.
            Ok(metadata) => self.ahead.bump(dir, metadata.btime_ns),
            Err(_) => self.ahead.touch(dir),
        }
        let metadata = made.map_err(|error| errno::of(&error))?;
        // Of a new file there is nothing to truncate.
        let flags = if metadata.version == 0 || metadata.size == 0 { flags - OFlags::TRUNC } else { flags };
        let names = self.names.load(Ordering::Relaxed);
        let (handle, open_flags) = self.open_found(metadata.clone(), flags, false).await?;
        if let Some(node) = self.open_node(metadata.inode) {
            node.hear(names);
        }
        let answer = self.node_answer(metadata);
        Ok(reply::created(&answer, handle, open_flags))
    }

    pub(super) async fn tmpfile(&self, request: &Request, create: &Create) -> Done {
        let flags = open_flags(create.flags);
        let options = OpenOptions::new().attributes(self.creation(request, create.mode, create.umask));
        let client = self.identity.client(request);
        let made = client.create_unnamed_told(self.place(request), options).await;
        let (file, metadata) = made.map_err(|error| errno::of(&error))?;
        // The handle that made it holds it.
        let node = self.add_node(Node::with_file(&self.client, file, &metadata, &self.shared));
        let handle = self.add_file(node, flags, self.options.strict);
        let answer = self.node_answer(metadata);
        Ok(reply::created(&answer, handle, if self.options.strict { fopen::DIRECT_IO } else { 0 }))
    }

    pub(super) async fn read(&self, handle: u64, offset: u64, len: u32, flags: u32) -> Done {
        let file = self.open_file(handle)?;
        let validate = file.direct || open_flags(flags).contains(OFlags::DIRECT);
        let parts = file.node.read(offset, u64::from(len), validate).await?;
        Ok(Answer::Data(parts))
    }

    pub(super) async fn write(&self, handle: u64, offset: u64, data: &Bytes, flags: (u32, u32)) -> Done {
        let (write_flags, open_flags_now) = flags;
        let file = self.open_file(handle)?;
        let len = u32::try_from(data.len()).map_err(|_| Errno::INVAL)?;
        if write_flags & flag::WRITE_KILL_SUIDGID != 0 {
            self.drop_privileges(&file.node).await?;
        }
        if file.node.take_capabilities() {
            self.drop_capabilities(file.node.inode()).await;
        }
        let from_cache = write_flags & flag::WRITE_CACHE != 0;
        // fcntl(2) may have changed them since open(2).
        let now = open_flags(open_flags_now);
        if now.contains(OFlags::APPEND) && !from_cache {
            let landed = file.node.append(data.clone()).await?;
            if landed != offset {
                // Somebody else has appended: the kernel takes the file for shorter than it is.
                self.messages.forget_content(self.node_number(file.node.inode())).await;
            }
            return Ok(reply::len(len));
        }
        file.node.write(offset, data).await?;
        let through = file.direct || now.intersects(OFlags::DIRECT | OFlags::SYNC | OFlags::DSYNC);
        if through && !from_cache {
            self.sync(&file).await?;
        }
        Ok(reply::len(len))
    }

    /// Everything that was written to the file is durable when this returns.
    async fn sync(&self, file: &OpenFile) -> Result<(), Errno> {
        file.node.commit().await?;
        file.node.file().sync().await.map_err(|error| errno::of_inode(&error))
    }

    pub(super) async fn fsync(&self, handle: u64) -> Done {
        let file = self.open_file(handle)?;
        self.sync(&file).await.map(|()| Answer::Empty)
    }

    /// What closing a descriptor does: others see what was written, and the process's locks are gone.
    pub(super) async fn flush(&self, handle: u64, owner: u64) -> Done {
        let file = self.open_file(handle)?;
        let committed = if file.is_writable() { file.node.commit().await } else { Ok(()) };
        self.drop_locks(&file, owner).await;
        self.keep(file.node.inode(), file.node.version());
        committed.map(|()| Answer::Empty)
    }

    /// The last descriptor is closed and the last mapping gone.
    pub(super) async fn release(&self, handle: u64, flock_owner: Option<u64>) -> Done {
        let file = self.files.lock().remove(&handle).ok_or(Errno::BADF)?;
        let committed = if file.is_writable() { file.node.commit().await } else { Ok(()) };
        if flock_owner.is_some() {
            self.drop_flock(&file).await;
        }
        if !file.direct {
            self.keep(file.node.inode(), file.node.version());
        }
        self.drop_node(&file.node);
        committed.map(|()| Answer::Empty)
    }
}

/// Holds a file that stays open for longer than a moment. Before this mount removes its name, it is held at once.
fn hold_soon(node: &Arc<Node>) {
    if node.is_held() {
        return;
    }
    let node = Arc::downgrade(node);
    tokio::spawn(async move {
        tokio::time::sleep(HOLD_DELAY).await;
        if let Some(node) = node.upgrade()
            && let Err(error) = node.hold().await
        {
            tracing::debug!(inode = node.inode(), "not held: {error}");
        }
    });
}
