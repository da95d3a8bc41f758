//! Files with several names: within one transfer each is copied once, and its further names become links.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Mutex as TurnLock, OwnedMutexGuard};

/// Files that are remembered at most; a further one is copied under each of its names.
const LINKED_MAX: usize = 1 << 20;

/// What tells a file at the source: device and number.
pub type FileId = (u64, u64);

/// Where the first name of a file was copied to, once it was. Held while it is being copied.
pub type Turn = OwnedMutexGuard<Option<PathBuf>>;

/// The files with several names that were met.
#[derive(Default)]
pub struct Links {
    known: Mutex<HashMap<FileId, Arc<TurnLock<Option<PathBuf>>>>>,
}

impl Links {
    /// The turn of a file, after whoever has it. `None` when too many are known.
    pub async fn turn(&self, id: FileId) -> Option<Turn> {
        let turn = {
            let mut known = self.known.lock();
            if known.len() >= LINKED_MAX && !known.contains_key(&id) {
                return None;
            }
            known.entry(id).or_default().clone()
        };
        Some(turn.lock_owned().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_name_waits_for_the_first() {
        let links = Links::default();
        let mut first = links.turn((1, 2)).await.expect("room");
        assert_eq!(*first, None);
        let second = links.turn((1, 2));
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        *first = Some("/a".into());
        drop(first);
        assert_eq!(second.await.expect("room").as_deref(), Some("/a".as_ref()));
        assert_eq!(*links.turn((1, 3)).await.expect("room"), None, "another file");
    }
}
