//! The disk of a store, watched: how much it did, how long that took, and how old the oldest unfinished operation is.

use cairn_metrics::Histogram;
use cairn_store::{Disk, DiskFile, DiskSpace, OsFile};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What a disk is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DiskOp {
    Read,
    Write,
    Sync,
    /// Names, lengths, holes.
    Other,
}

impl DiskOp {
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Sync, Self::Other];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Other => "other",
        }
    }
}

/// One kind of operation.
pub(crate) struct OpWatch {
    pub(crate) duration: Histogram,
    pub(crate) bytes: AtomicU64,
    pub(crate) errors: AtomicU64,
}

impl Default for OpWatch {
    fn default() -> Self {
        Self { duration: Histogram::durations(), bytes: AtomicU64::new(0), errors: AtomicU64::new(0) }
    }
}

/// What was seen of one disk. Content that goes from the page cache to a socket by itself passes it by.
#[derive(Default)]
pub(crate) struct DiskWatch {
    ops: [OpWatch; DiskOp::ALL.len()],
    under_way: Mutex<UnderWay>,
}

/// Operations that are not finished, in the order of their beginning. Bounded by the threads that call a store.
#[derive(Default)]
struct UnderWay {
    next: u64,
    begun: BTreeMap<u64, Instant>,
}

impl DiskWatch {
    pub(crate) fn of(&self, op: DiskOp) -> &OpWatch {
        &self.ops[op as usize]
    }

    /// Age of the oldest operation that is not finished; zero when all are.
    pub(crate) fn stall(&self, now: Instant) -> Duration {
        let under_way = self.under_way.lock();
        under_way.begun.first_key_value().map_or(Duration::ZERO, |(_, begun)| now.saturating_duration_since(*begun))
    }

    fn begin(&self, now: Instant) -> u64 {
        let mut under_way = self.under_way.lock();
        let ticket = under_way.next;
        under_way.next += 1;
        under_way.begun.insert(ticket, now);
        ticket
    }

    fn end(&self, ticket: u64) {
        self.under_way.lock().begun.remove(&ticket);
    }

    fn watch<T>(
        &self,
        op: DiskOp,
        work: impl FnOnce() -> io::Result<T>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> io::Result<T> {
        let begun = cairn_net::now();
        let ticket = self.begin(begun);
        let result = work();
        self.end(ticket);
        let took = cairn_net::now().saturating_duration_since(begun);
        let seen = self.of(op);
        seen.duration.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        match &result {
            Ok(done) => seen.bytes.fetch_add(bytes(done), Ordering::Relaxed),
            Err(_) => seen.errors.fetch_add(1, Ordering::Relaxed),
        };
        result
    }
}

/// A disk that is watched.
pub(crate) struct WatchedDisk {
    inner: Box<dyn Disk>,
    watch: Arc<DiskWatch>,
}

impl WatchedDisk {
    pub(crate) fn new(inner: Box<dyn Disk>, watch: Arc<DiskWatch>) -> Self {
        Self { inner, watch }
    }

    fn other<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.watch.watch(DiskOp::Other, work, |_| 0)
    }

    fn file(&self, inner: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(WatchedFile { inner, watch: self.watch.clone() })
    }
}

impl Disk for WatchedDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.other(|| self.inner.create(name)).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.other(|| self.inner.open(name)).map(|file| self.file(file))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.other(|| self.inner.list(dir))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.other(|| self.inner.create_dir(dir))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.other(|| self.inner.remove(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.other(|| self.inner.rename(from, to))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.other(|| self.inner.sync_dir(dir))
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.other(|| self.inner.space())
    }
}

struct WatchedFile {
    inner: Arc<dyn DiskFile>,
    watch: Arc<DiskWatch>,
}

impl DiskFile for WatchedFile {
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.watch.watch(DiskOp::Write, || self.inner.write_at(offset, parts), |len| *len as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.watch.watch(DiskOp::Read, || self.inner.read_at(offset, buffer), |len| *len as u64)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.watch.watch(DiskOp::Sync, || self.inner.sync_data(), |()| 0)
    }

    fn len(&self) -> io::Result<u64> {
        self.watch.watch(DiskOp::Other, || self.inner.len(), |_| 0)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.watch.watch(DiskOp::Other, || self.inner.set_len(len), |()| 0)
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.watch.watch(DiskOp::Other, || self.inner.punch(offset, len), |()| 0)
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.watch.watch(DiskOp::Other, || self.inner.drop_cache(), |()| 0)
    }

    fn drop_cached(&self, offset: u64, len: u64) -> io::Result<()> {
        self.watch.watch(DiskOp::Other, || self.inner.drop_cached(offset, len), |()| 0)
    }

    fn os_file(&self) -> Option<OsFile> {
        self.inner.os_file()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_stalls_as_long_as_its_oldest_operation() {
        let watch = DiskWatch::default();
        let start = cairn_net::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(watch.stall(at(500)), Duration::ZERO);
        let first = watch.begin(at(0));
        let second = watch.begin(at(20));
        assert_eq!(watch.stall(at(50)), Duration::from_millis(50));
        watch.end(first);
        assert_eq!(watch.stall(at(50)), Duration::from_millis(30));
        watch.end(second);
        assert_eq!(watch.stall(at(900)), Duration::ZERO);
    }

    #[test]
    fn operations_are_counted_by_kind() {
        let dir = tempfile::tempdir().unwrap();
        let watch = Arc::new(DiskWatch::default());
        let disk = WatchedDisk::new(Box::new(cairn_store::RealDisk::open(dir.path()).unwrap()), watch.clone());
        let file = disk.create("x").unwrap();
        assert_eq!(file.write_at(0, &[io::IoSlice::new(b"abc"), io::IoSlice::new(b"de")]).unwrap(), 5);
        file.sync_data().unwrap();
        let mut buffer = [0; 2];
        file.read_at(3, &mut buffer).unwrap();
        assert!(disk.open("y").is_err());
        let seen: Vec<(u64, u64, u64)> = DiskOp::ALL
            .iter()
            .map(|op| watch.of(*op))
            .map(|of| {
                let [bytes, errors] = [&of.bytes, &of.errors].map(|counter| counter.load(Ordering::Relaxed));
                (of.duration.read().count(), bytes, errors)
            })
            .collect();
        assert_eq!(seen, [(1, 2, 0), (1, 5, 0), (1, 0, 0), (2, 0, 1)]);
        assert_eq!(&buffer, b"de");
        assert!(file.os_file().is_some());
    }
}
