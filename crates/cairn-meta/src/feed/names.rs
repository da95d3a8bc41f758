//! What inodes are called: remembered where it was seen, so that paths of changes can be told without looking through
//! directories. Never trusted: whoever uses a hint looks whether the name still leads there, or knows that the inode is
//! gone.

use crate::limits::NAME_HINTS_MAX;
use crate::rows::Change;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;

type Generation = HashMap<u64, (u64, Bytes)>;

/// Inode to directory and name, in two generations: when the younger is full, the older is forgotten.
#[derive(Default)]
pub(crate) struct NameHints(Mutex<[Generation; 2]>);

impl NameHints {
    pub(crate) fn get(&self, inode: u64) -> Option<(u64, Bytes)> {
        let generations = self.0.lock();
        generations.iter().find_map(|generation| generation.get(&inode)).cloned()
    }

    pub(crate) fn note(&self, inode: u64, parent: u64, name: Bytes) {
        let mut generations = self.0.lock();
        if generations[0].len() >= NAME_HINTS_MAX / 2 {
            generations.swap(0, 1);
            generations[0].clear();
        }
        generations[0].insert(inode, (parent, name));
    }

    /// Notes what changes say of names.
    pub(crate) fn learn(&self, changes: &[Change]) {
        for change in changes {
            match change {
                // Of what is gone, too: it tells where what was below it lay.
                Change::Created { inode, parent, name, .. }
                | Change::Removed { inode, parent, name, .. }
                | Change::Renamed { inode, parent, name, .. } => self.note(*inode, *parent, name.clone()),
                Change::Changed { .. } => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_and_recent() {
        let hints = NameHints::default();
        for inode in 0..3 * NAME_HINTS_MAX as u64 {
            hints.note(inode, 1, Bytes::from(inode.to_string()));
        }
        let last = 3 * NAME_HINTS_MAX as u64 - 1;
        assert_eq!(hints.get(last), Some((1, Bytes::from(last.to_string()))));
        assert_eq!(hints.get(0), None);
        let held: usize = hints.0.lock().iter().map(HashMap::len).sum();
        assert!(held <= NAME_HINTS_MAX);
    }
}
