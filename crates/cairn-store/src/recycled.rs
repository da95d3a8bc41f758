//! Files of removed segments that wait to be used again.
//!
//! A file is used again only when no reader holds it any more: a reader must never see its block turn into another one
//! under its hands. How many are kept is bounded in number and bytes, and all are given back when the disk gets tight.

use crate::limits::RECYCLED_SEGMENTS_MAX;
use crate::segments::Handle;
use parking_lot::Mutex;

/// A file under its name for waiting.
pub struct RecycledFile {
    /// Generation of its last life, which its name keeps.
    pub generation: u32,
    /// Its length in bytes.
    pub len: u64,
    /// Readers of its last life.
    pub handles: Vec<Handle>,
}

/// The files that wait, oldest first.
#[derive(Default)]
pub struct Recycled(Mutex<Vec<RecycledFile>>);

impl Recycled {
    /// Bytes of all files that wait.
    pub fn bytes(&self) -> u64 {
        self.0.lock().iter().map(|file| file.len).sum()
    }

    /// May one more file of `len` bytes wait, besides those of `chosen`?
    pub fn has_room_for(&self, chosen: &[RecycledFile], len: u64, keep: u64) -> bool {
        let waiting = self.0.lock();
        let bytes: u64 = waiting.iter().chain(chosen).map(|file| file.len).sum();
        waiting.len() + chosen.len() < RECYCLED_SEGMENTS_MAX && bytes + len <= keep
    }

    /// Adds files whose new name is durable.
    pub fn add(&self, files: Vec<RecycledFile>) {
        self.0.lock().extend(files);
    }

    /// The longest-waiting file that nobody reads any more.
    pub fn take(&self) -> Option<RecycledFile> {
        let mut waiting = self.0.lock();
        let at = waiting.iter().position(|file| !file.handles.iter().any(Handle::is_held))?;
        Some(waiting.remove(at))
    }

    /// Takes out the longest-waiting files until at most `keep` bytes are left.
    pub fn shrink(&self, keep: u64) -> Vec<RecycledFile> {
        let mut waiting = self.0.lock();
        let mut bytes: u64 = waiting.iter().map(|file| file.len).sum();
        let mut out = Vec::new();
        while bytes > keep && !waiting.is_empty() {
            let file = waiting.remove(0);
            bytes -= file.len;
            out.push(file);
        }
        out
    }
}
