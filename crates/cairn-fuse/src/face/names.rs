//! Operations on names.

use super::ahead::Known;
use super::{Done, Face, unpacked_device};
use crate::errno;
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::Request;
use crate::limits::PAGE_ENTRIES;
use cairn_client::{CreateOptions, FileKind, NodeKind, Place, RenameMode};
use rustix::fs::RenameFlags;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The type bits of a mode.
const TYPE_MASK: u32 = 0o170_000;

impl Face {
    pub(super) async fn lookup(&self, request: &Request, name: &OsStr) -> Done {
        let dir = self.inode(request.node);
        match self.ahead.look(dir, name) {
            Ok(known) => return Ok(self.known(known)),
            Err(None) => {}
            Err(Some(ask)) => {
                // The kernel sees to it that who looks may search the directory.
                let read = self.client.read_dir_page(Place::inode(dir), &ask.after, PAGE_ENTRIES).await;
                self.ahead.learn(ask, read.ok());
                if let Ok(known) = self.ahead.look(dir, name) {
                    return Ok(self.known(known));
                }
            }
        }
        let client = self.identity.client(request);
        match client.symlink_metadata(self.within(request, name)).await {
            Ok(metadata) => Ok(reply::node(&self.node_answer(metadata))),
            Err(error) => match errno::of(&error) {
                // That there is nothing may be remembered, too.
                Errno::NOENT if !self.ttl().is_zero() => Ok(reply::no_node(self.ttl())),
                errno => Err(errno),
            },
        }
    }

    fn known(&self, known: Known) -> Answer {
        match known {
            Known::Here(metadata, ttl) => reply::node(&self.node_answer_for(*metadata, ttl)),
            Known::Nothing(ttl) => reply::no_node(ttl),
        }
    }

    /// Attributes of something new.
    pub(super) fn creation(&self, request: &Request, mode: u32, umask: u32) -> CreateOptions {
        let (uid, gid) = self.identity.owner(request);
        CreateOptions::new().mode(mode & 0o7777).umask(umask).uid(uid).gid(gid).replace(false)
    }

    pub(super) async fn mkdir(&self, request: &Request, name: &OsStr, mode: u32, umask: u32) -> Done {
        let client = self.identity.client(request);
        let made = client.create_dir_with(self.within(request, name), self.creation(request, mode, umask)).await;
        let mut metadata = made.map_err(|error| errno::of(&error))?;
        // It has no subdirectories yet, and they are counted.
        metadata.nlink = 2;
        Ok(reply::node(&self.node_answer(metadata)))
    }

    pub(super) async fn mknod(&self, request: &Request, name: &OsStr, modes: (u32, u32), rdev: u32) -> Done {
        let (mode, umask) = modes;
        let kind = match mode & TYPE_MASK {
            0o010_000 => NodeKind::Fifo,
            0o020_000 => NodeKind::CharDevice(unpacked_device(rdev)),
            0o060_000 => NodeKind::BlockDevice(unpacked_device(rdev)),
            0o140_000 => NodeKind::Socket,
            0 | 0o100_000 => NodeKind::File,
            _ => return Err(Errno::INVAL),
        };
        let client = self.identity.client(request);
        let made = client.create_node(self.within(request, name), kind, self.creation(request, mode, umask)).await;
        made.map(|metadata| reply::node(&self.node_answer(metadata))).map_err(|error| errno::of(&error))
    }

    pub(super) async fn symlink(&self, request: &Request, name: &OsStr, target: &OsStr) -> Done {
        let client = self.identity.client(request);
        let options = self.creation(request, 0o777, 0);
        let made = client.symlink(Path::new(target), self.within(request, name), options).await;
        made.map(|metadata| reply::node(&self.node_answer(metadata))).map_err(|error| errno::of(&error))
    }

    pub(super) async fn read_link(&self, request: &Request) -> Done {
        let client = self.identity.client(request);
        let target = client.read_link(self.place(request)).await.map_err(|error| errno::of_inode(&error))?;
        let target: OsString = target.into();
        Ok(Answer::Bytes(std::os::unix::ffi::OsStringExt::into_vec(target)))
    }

    pub(super) async fn link(&self, request: &Request, inode: u64, name: &OsStr) -> Done {
        let client = self.identity.client(request);
        let linked = client.hard_link(Place::inode(inode), self.within(request, name)).await;
        self.name_changes();
        linked.map(|metadata| reply::node(&self.node_answer(metadata))).map_err(|error| errno::of(&error))
    }

    pub(super) async fn unlink(&self, request: &Request, name: &OsStr) -> Done {
        let place = self.within(request, name);
        self.hold_open(&place).await?;
        let client = self.identity.client(request);
        let removed = client.remove_file_told(place).await;
        self.name_changes();
        let dir = self.inode(request.node);
        match &removed {
            Ok(Some(time_ns)) => self.ahead.bump(dir, *time_ns),
            _ => self.ahead.touch(dir),
        }
        removed.map(|_| Answer::Empty).map_err(|error| errno::of(&error))
    }

    pub(super) async fn rmdir(&self, request: &Request, name: &OsStr) -> Done {
        let client = self.identity.client(request);
        let removed = client.remove_dir(self.within(request, name)).await;
        removed.map(|()| Answer::Empty).map_err(|error| errno::of(&error))
    }

    pub(super) async fn rename(&self, request: &Request, name: &OsStr, to: (u64, &OsString), flags: u32) -> Done {
        let flags = RenameFlags::from_bits_retain(flags);
        let mode = match flags {
            flags if flags.is_empty() => RenameMode::Replace,
            RenameFlags::NOREPLACE => RenameMode::NoReplace,
            RenameFlags::EXCHANGE => RenameMode::Exchange,
            // A whiteout is for overlays over a file system, which look for character devices.
            _ => return Err(Errno::INVAL),
        };
        let (from, to) = (self.within(request, name), Place::within(to.0, to.1));
        if mode == RenameMode::Replace {
            self.hold_open(&to).await?;
        }
        let client = self.identity.client(request);
        let renamed = client.rename_with(from, to, mode).await;
        self.name_changes();
        renamed.map(|()| Answer::Empty).map_err(|error| errno::of(&error))
    }

    /// Sees to it that an open file is held before its name goes: it may be the last.
    async fn hold_open(&self, place: &Place) -> Result<(), Errno> {
        if self.nodes.lock().0.values().all(|(node, _)| node.is_held()) {
            return Ok(());
        }
        let Ok(metadata) = self.client.symlink_metadata(place).await else { return Ok(()) };
        match self.open_node(metadata.inode).filter(|_| metadata.kind == FileKind::File) {
            Some(node) => node.hold().await.map_err(|error| errno::of(&error)),
            None => Ok(()),
        }
    }
}
