//! Locks of flock(2) and fcntl(2). Metadata keeps them, so they hold between all mounts.
//!
//! Whoever gets a lock sees what was written under it before: what the kernel has of the file is looked at anew. Whoever
//! gives one back has committed what it wrote under it.

use super::files::OpenFile;
use super::{Done, Face};
use crate::errno;
use crate::kernel::reply::{self, Answer};
use crate::kernel::request::LockAsk;
use crate::limits::LOCK_WAIT_MAX;
use cairn_client::{File, LockKind, LockMode, Place};
use rustix::io::Errno;
use std::ops::Range;

/// Kinds of locks, as fcntl(2) numbers them on Linux.
const READ: u32 = 0;
const WRITE: u32 = 1;
const UNLOCK: u32 = 2;
/// The last byte that a lock of the kernel can name: it means no end.
const LAST: u64 = i64::MAX as u64;
/// Owners of the client are below this.
const OWNER_MASK: u64 = (1 << 63) - 1;

/// What the kernel asks for, in the client's words; `None` gives back.
fn mode(kind: u32) -> Result<Option<LockMode>, Errno> {
    match kind {
        READ => Ok(Some(LockMode::Shared)),
        WRITE => Ok(Some(LockMode::Exclusive)),
        UNLOCK => Ok(None),
        _ => Err(Errno::INVAL),
    }
}

fn range(ask: &LockAsk) -> Range<u64> {
    if ask.flock || ask.last >= LAST { ask.start..u64::MAX } else { ask.start..ask.last + 1 }
}

fn kind(ask: &LockAsk) -> LockKind {
    match ask.flock {
        true => LockKind::Flock,
        false => LockKind::Posix { owner: ask.owner & OWNER_MASK, pid: ask.pid },
    }
}

impl Face {
    /// The handle of the client that owns what is asked for.
    async fn owner_of<'a>(&self, file: &'a OpenFile, ask: &LockAsk) -> Result<&'a File, Errno> {
        if !ask.flock {
            return Ok(file.node.file());
        }
        let opened = file.flock.get_or_try_init(|| file.node.another_handle()).await;
        opened.map_err(|error| errno::of_inode(&error))
    }

    pub(super) async fn get_lock(&self, ask: &LockAsk) -> Done {
        let file = self.open_file(ask.handle)?;
        let Some(mode) = mode(ask.kind)? else { return Err(Errno::INVAL) };
        let owner = self.owner_of(&file, ask).await?;
        let holder = owner.lock_holder(kind(ask), range(ask), mode).await.map_err(|error| errno::of_inode(&error))?;
        Ok(match holder {
            None => reply::lock(0, 0, UNLOCK, 0),
            Some(lock) => {
                let kind = if lock.mode == LockMode::Shared { READ } else { WRITE };
                let last = if lock.range.end == u64::MAX { LAST } else { lock.range.end - 1 };
                reply::lock(lock.range.start, last, kind, lock.pid)
            }
        })
    }

    pub(super) async fn set_lock(&self, ask: &LockAsk, wait: bool) -> Done {
        let file = self.open_file(ask.handle)?;
        let owner = self.owner_of(&file, ask).await?;
        let Some(mode) = mode(ask.kind)? else {
            // Whoever gets the lock next sees everything.
            file.node.commit().await?;
            let unlocked = owner.unlock(kind(ask), range(ask)).await;
            return unlocked.map(|()| Answer::Empty).map_err(|error| errno::of_inode(&error));
        };
        let of = |error: &cairn_client::Error| errno::of_inode(error);
        let taken = if wait {
            Some(owner.lock(kind(ask), range(ask), mode, LOCK_WAIT_MAX).await.map_err(|error| of(&error))?)
        } else {
            owner.try_lock(kind(ask), range(ask), mode).await.map_err(|error| of(&error))?
        };
        let Some(guard) = taken else { return Err(Errno::AGAIN) };
        if !ask.flock {
            file.node.add_owner(ask.owner);
        }
        self.see_anew(&file).await?;
        guard.keep();
        Ok(Answer::Empty)
    }

    /// What the kernel has of a file is as new as this moment when this returns.
    async fn see_anew(&self, file: &OpenFile) -> Result<(), Errno> {
        let node = &file.node;
        let place = Place::inode(node.inode());
        let mut metadata = self.client.symlink_metadata(place).await.map_err(|error| errno::of_inode(&error))?;
        node.show(&mut metadata);
        if node.take_stale() {
            let number = self.node_number(node.inode());
            self.messages.forget_content(number).await;
            self.messages.settle().await;
        }
        Ok(())
    }

    /// Closing any descriptor of a file ends the locks that its process has on it.
    pub(super) async fn drop_locks(&self, file: &OpenFile, owner: u64) {
        if !file.node.take_owner(owner) {
            return;
        }
        let kind = LockKind::Posix { owner: owner & OWNER_MASK, pid: 0 };
        if let Err(error) = file.node.file().unlock(kind, 0..u64::MAX).await {
            // It ends with the session at the latest.
            tracing::warn!(inode = file.node.inode(), "locks of a closed file stay: {error}");
        }
    }

    /// The last descriptor of what flock(2) locked is closed.
    pub(super) async fn drop_flock(&self, file: &OpenFile) {
        if let Some(owner) = file.flock.get()
            && let Err(error) = owner.unlock(LockKind::Flock, 0..u64::MAX).await
        {
            tracing::warn!(inode = file.node.inode(), "the lock of a closed file stays: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_fcntl() {
        let ask = |start, last, flock| LockAsk { handle: 1, owner: u64::MAX, start, last, kind: WRITE, pid: 9, flock };
        assert_eq!(range(&ask(10, 29, false)), 10..30);
        assert_eq!(range(&ask(10, LAST, false)), 10..u64::MAX);
        assert_eq!(range(&ask(0, 0, true)), 0..u64::MAX);
        assert_eq!(kind(&ask(0, 0, false)), LockKind::Posix { owner: OWNER_MASK, pid: 9 });
        assert_eq!(mode(UNLOCK), Ok(None));
        assert_eq!(mode(7), Err(Errno::INVAL));
    }
}
