//! A file's map as this client remembers it: which blocks hold which bytes, at which version.

use crate::client::Inner;
use crate::error::Error;
use cairn_proto::InodeId;
use cairn_proto::pb::{self, request, response};
use tokio::time::Instant;

/// Rows remembered per open file; beyond that the oldest window is forgotten.
const ROWS_MAX: usize = 4096;
/// Pages read for one range; a range that needs more is too fragmented to be read in one go.
const PAGES_MAX: usize = 1000;
/// The map is asked for at least this many bytes at once: rows are runs, so this is rarely more than a row.
const WINDOW_MIN: u64 = 256 * 1024 * 1024;

/// The map of one byte range at one version.
#[derive(Clone, Debug, Default)]
pub(crate) struct MapSlice {
    pub(crate) version: u64,
    pub(crate) size: u64,
    pub(crate) extents: Vec<pb::Extent>,
}

/// What is remembered of a file: one window of its map.
#[derive(Debug, Default)]
pub(crate) struct ExtentCache {
    known: MapSlice,
    begin: u64,
    end: u64,
    /// The size after the last change through this handle.
    size_hint: Option<u64>,
}

impl ExtentCache {
    /// The map of `[offset, offset + len)`, if it is remembered.
    pub(crate) fn lookup(&self, offset: u64, len: u64) -> Option<MapSlice> {
        let end = offset.saturating_add(len);
        let inside = self.known.version > 0 && offset >= self.begin && end.min(self.known.size) <= self.end;
        inside.then(|| MapSlice {
            extents: self
                .known
                .extents
                .iter()
                .filter(|extent| extent.offset < end && extent.offset + extent.len > offset)
                .cloned()
                .collect(),
            ..self.known
        })
    }

    /// The size that was last heard of.
    pub(crate) fn size(&self) -> Option<u64> {
        if self.known.version > 0 { Some(self.known.size) } else { self.size_hint }
    }

    /// Remembers the map of `[begin, end)`, unless something newer is known.
    fn remember(&mut self, slice: &MapSlice, begin: u64, end: u64) {
        if slice.version < self.known.version {
            return;
        }
        let adjoins = slice.version == self.known.version && begin >= self.begin && begin <= self.end;
        if adjoins && end > self.end && self.known.extents.len() + slice.extents.len() <= ROWS_MAX {
            let have = self.known.extents.last().map_or(0, |extent| extent.offset + extent.len);
            self.known.extents.extend(slice.extents.iter().filter(|extent| extent.offset >= have).cloned());
            self.end = end;
        } else if !(adjoins && end <= self.end) {
            *self = Self { known: slice.clone(), begin, end, size_hint: None };
        }
    }

    /// Remembers the page that was told for a range from 0 on.
    pub(crate) fn learn(&mut self, reply: pb::GetExtentsReply) {
        let covered = reply.covered_to;
        let mut slice = MapSlice::default();
        merge(&mut slice, reply);
        let end = if covered >= slice.size { u64::MAX } else { covered };
        self.remember(&slice, 0, end);
    }

    /// Forgets the map: the file was changed through this handle, and has `size` bytes now if that is known.
    pub(crate) fn forget(&mut self, size: Option<u64>) {
        *self = Self { size_hint: size, ..Self::default() };
    }
}

/// What a check of a remembered version found.
pub(crate) enum Checked {
    /// It is current.
    Unchanged,
    /// The current map of the range; final.
    Moved(MapSlice),
}

fn merge(slice: &mut MapSlice, reply: pb::GetExtentsReply) {
    slice.version = reply.version;
    slice.size = reply.size;
    // A row that lies across two pages is in both.
    let have = slice.extents.last().map_or(0, |extent| extent.offset + extent.len);
    slice.extents.extend(reply.extents.into_iter().filter(|extent| extent.offset >= have));
}

/// Asks metadata for the map of `[offset, offset + len)`, or only whether `known_version` is current (0 = unknown).
/// What comes is as new as the moment of the call or newer, and is remembered.
pub(crate) async fn ask(
    inner: &Inner,
    inode: InodeId,
    cache: &parking_lot::Mutex<ExtentCache>,
    (offset, len): (u64, u64),
    known_version: u64,
    deadline: Instant,
) -> Result<Checked, Error> {
    let wanted_end = offset.saturating_add(len);
    let window_end = offset.saturating_add(len.max(WINDOW_MIN));
    let mut slice = MapSlice::default();
    let mut at = offset;
    for page in 0..PAGES_MAX {
        let kind = request::Kind::GetExtents(pb::GetExtents {
            inode: inode.0,
            offset: at,
            len: window_end - at,
            known_version: if page == 0 { known_version } else { 0 },
        });
        let response::Kind::GetExtents(reply) = inner.meta_read(kind, deadline).await? else {
            return Err(inner.unexpected("get_extents"));
        };
        if reply.unchanged {
            return Ok(Checked::Unchanged);
        }
        if at > offset && reply.version != slice.version {
            // The file changed between two pages: begin again.
            slice = MapSlice::default();
            at = offset;
            continue;
        }
        let covered = reply.covered_to.max(at);
        merge(&mut slice, reply);
        if covered >= wanted_end.min(slice.size) || covered >= window_end {
            let end = if covered >= slice.size { u64::MAX } else { covered };
            cache.lock().remember(&slice, offset, end);
            return Ok(Checked::Moved(slice));
        }
        if covered == at {
            break;
        }
        at = covered;
    }
    let message = format!("the map of bytes {offset}..{wanted_end} did not end after {PAGES_MAX} pages; read less");
    Err(Error::invalid("get_extents", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(version: u64, size: u64, offsets: &[u64]) -> MapSlice {
        let extents = offsets.iter().map(|offset| pb::Extent { offset: *offset, len: 10, ..Default::default() });
        MapSlice { version, size, extents: extents.collect() }
    }

    #[test]
    fn windows_grow_at_one_version() {
        let mut cache = ExtentCache::default();
        assert!(cache.lookup(0, 1).is_none());
        cache.remember(&slice(3, 100, &[0, 10]), 0, 20);
        cache.remember(&slice(3, 100, &[10, 20]), 20, 30);
        let found = cache.lookup(5, 20).expect("inside the window");
        assert_eq!(found.extents.iter().map(|e| e.offset).collect::<Vec<_>>(), [0, 10, 20]);
        assert!(cache.lookup(25, 10).is_none());
        cache.remember(&slice(4, 100, &[50]), 50, 60);
        assert!(cache.lookup(0, 5).is_none());
        cache.remember(&slice(3, 100, &[0]), 0, 10);
        assert!(cache.lookup(0, 5).is_none(), "an older version is never taken back");
    }

    #[test]
    fn what_a_look_told_is_a_window() {
        let told = |version, size, covered_to| {
            let MapSlice { extents, .. } = slice(version, size, &[0]);
            pb::GetExtentsReply { version, size, covered_to, extents, ..Default::default() }
        };
        let mut cache = ExtentCache::default();
        cache.learn(told(2, 100, 50));
        assert!(cache.lookup(0, 50).is_some() && cache.lookup(0, 51).is_none());
        cache.learn(told(3, 40, 50));
        assert_eq!(cache.lookup(10, 1 << 40).expect("all of it").version, 3);
        cache.learn(told(2, 100, 200));
        assert_eq!(cache.size(), Some(40), "an older look is not taken back");
        cache.forget(None);
        assert!(cache.lookup(0, 1).is_none());
    }

    #[test]
    fn what_lies_behind_the_end_needs_no_rows() {
        let mut cache = ExtentCache::default();
        cache.remember(&slice(1, 20, &[0, 10]), 0, 20);
        assert!(cache.lookup(0, 4096).is_some());
    }
}
