//! The cache on disk as the rest sees it: reads beside the caller, one thread that writes, and an end at the first
//! error of the disk.

use crate::files::Files;
use crate::limits::WRITES_QUEUED_MAX;
use crate::log::Log;
use cairn_client::{BlockId, CachedChunk, ChunkKey};
use parking_lot::RwLock;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

enum Job {
    Keep(ChunkKey, CachedChunk),
    Tell(oneshot::Sender<()>),
}

/// See the module.
pub struct DiskTier {
    shared: Arc<Shared>,
    jobs: RwLock<Option<Writer>>,
}

/// The thread that writes, and the way to it.
struct Writer {
    jobs: SyncSender<Job>,
    thread: JoinHandle<()>,
}

impl Drop for DiskTier {
    /// Waits for the thread, which has few writes left: whoever opens the directory next finds all of them, and no lock.
    fn drop(&mut self) {
        if let Some(Writer { jobs, thread }) = self.jobs.get_mut().take() {
            drop(jobs);
            // A thread that panicked has nothing left to write.
            let _ = thread.join();
        }
    }
}

struct Shared {
    dir: PathBuf,
    files: Arc<dyn Files>,
    size: u64,
    /// There once the directory was looked through, and until the disk fails.
    log: RwLock<Option<Arc<Log>>>,
    hits: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// What a cache on disk holds and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiskStats {
    /// Chunks that can be read.
    pub chunks: u64,
    /// Bytes that its files take.
    pub bytes: u64,
    /// Chunks that were read.
    pub hits: u64,
    /// Chunks that were not kept because the disk was too slow.
    pub dropped: u64,
    /// Whether the disk failed and is used no more.
    pub is_off: bool,
}

impl DiskTier {
    /// Nothing happens before [`DiskTier::start`]. `dir` is how messages call the place of `files`.
    pub fn new(dir: PathBuf, files: Arc<dyn Files>, size: u64) -> Self {
        let shared = Shared {
            dir,
            files,
            size,
            log: RwLock::new(None),
            hits: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), jobs: RwLock::new(None) }
    }

    /// Begins to look through the directory, on a thread of its own, which writes from then on.
    pub fn start(&self, cluster: [u8; 16]) {
        let mut jobs = self.jobs.write();
        if jobs.is_some() {
            return;
        }
        let (sender, receiver) = sync_channel(WRITES_QUEUED_MAX);
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name("cairn-cache".to_owned());
        match thread.spawn(move || shared.write(cluster, &receiver)) {
            Ok(thread) => *jobs = Some(Writer { jobs: sender, thread }),
            Err(error) => self.shared.switch_off("cannot start a thread", &error),
        }
    }

    /// Chunks of a block, one answer for each.
    pub async fn load(&self, block: BlockId, chunks: Range<u32>) -> Vec<Option<CachedChunk>> {
        let none = vec![None; chunks.len()];
        let keys = chunks.map(move |chunk| ChunkKey { block, chunk });
        let Some(log) = self.shared.log().filter(|log| !log.lacks_all(keys.clone())) else { return none };
        let shared = self.shared.clone();
        let read = move || -> Vec<Option<CachedChunk>> {
            keys.map(|key| match log.get(key) {
                Ok(found) => {
                    shared.hits.fetch_add(u64::from(found.is_some()), Ordering::Relaxed);
                    found
                }
                Err(error) => {
                    shared.switch_off("cannot be read", &error);
                    None
                }
            })
            .collect()
        };
        tokio::task::spawn_blocking(read).await.unwrap_or(none)
    }

    /// Has a chunk written, unless too many wait.
    pub fn keep(&self, key: ChunkKey, chunk: CachedChunk) {
        let jobs = self.jobs.read();
        let Some(jobs) = jobs.as_ref().filter(|_| !self.shared.is_off()) else { return };
        if let Err(TrySendError::Full(_)) = jobs.jobs.try_send(Job::Keep(key, chunk)) {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Forgets a chunk.
    pub fn remove(&self, key: ChunkKey) {
        if let Some(log) = self.shared.log() {
            log.remove(key);
        }
    }

    /// Waits until everything that was given so far is written or dropped.
    pub async fn settle(&self) {
        let (told, heard) = oneshot::channel();
        let jobs = self.jobs.read().as_ref().map(|writer| writer.jobs.clone());
        let Some(jobs) = jobs else { return };
        let sent = tokio::task::spawn_blocking(move || jobs.send(Job::Tell(told)).is_ok()).await;
        if matches!(sent, Ok(true)) {
            // The thread answers unless it has ended, and then nothing is left to wait for.
            let _ = heard.await;
        }
    }

    /// What it holds and did.
    pub fn stats(&self) -> DiskStats {
        let (chunks, bytes) = self.shared.log().map_or((0, 0), |log| log.room());
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, dropped) = (get(&self.shared.hits), get(&self.shared.dropped));
        DiskStats { chunks, bytes, hits, dropped, is_off: self.shared.is_off() }
    }
}

impl Shared {
    fn log(&self) -> Option<Arc<Log>> {
        self.log.read().clone()
    }

    fn is_off(&self) -> bool {
        self.failed.load(Ordering::Relaxed) > 0
    }

    /// The thread that writes.
    fn write(&self, cluster: [u8; 16], jobs: &Receiver<Job>) {
        match Log::open(self.files.clone(), cluster, self.size) {
            Ok(log) => {
                let (chunks, bytes) = log.room();
                tracing::info!(dir = %self.dir.display(), chunks, bytes, "found blocks in the cache directory");
                *self.log.write() = Some(Arc::new(log));
            }
            Err(error) => self.switch_off("cannot be used", &error),
        }
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Keep(key, chunk) => {
                    if let Some(log) = self.log()
                        && let Err(error) = log.append(key, &chunk)
                    {
                        self.switch_off("cannot be written", &error);
                    }
                }
                Job::Tell(told) => {
                    // Who does not wait any more needs no answer.
                    let _ = told.send(());
                }
            }
        }
    }

    /// A cache is no reason to fail, nor to fill a disk: it goes on without, and gives the room back.
    fn switch_off(&self, what: &str, error: &io::Error) {
        let log = self.log.write().take();
        if self.failed.fetch_add(1, Ordering::Relaxed) == 0 {
            let dir = self.dir.display();
            tracing::warn!("the cache directory {dir} {what}: {error}; going on without it until the next mount");
        }
        if let Some(log) = log {
            log.clear();
        }
    }
}

#[cfg(test)]
mod tests;
