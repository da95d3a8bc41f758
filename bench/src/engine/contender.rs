//! Who stores blocks: the engine, a bare file with the same syncs, a file per block.

use super::{Op, Run};
use crate::payload;
use crate::sample::Latency;
use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use cairn_proto::checksum::{chunk_crcs, first_mismatch};
use cairn_proto::limits::BLOCKS_PER_REQUEST_MAX;
use cairn_proto::{BlockId, PgEpoch, PgId};
use cairn_store::{BlockKey, Durability, Put, PutError, RealDisk, Store, StoreOptions};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Blocks that reading goes round.
const READ_BYTES: usize = 128 << 20;
const READ_BLOCKS_MAX: usize = 4096;
/// Most that one run writes, so that a fast disk does not fill.
const WRITE_BYTES_MAX: u64 = 1 << 30;
/// Files that are used again, and their bytes in all: so many for each byte of a block.
const REUSED_FILES: u64 = 4;
const REUSED_SCALE: u64 = 32 << 10;
const REUSED_BYTES_MAX: u64 = 1 << 30;
/// Blocks that made the files what they are.
const OLD_LEN: usize = 256 << 10;
const RETRY: Duration = Duration::from_micros(200);

/// Who stores blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The engine, in new files.
    Engine,
    /// The engine, in files of removed segments.
    EngineReused,
    /// One file: all that waits is one vectored write and one fdatasync; reads are pread.
    Raw,
    /// A file per block: written, fsynced, renamed, and its directory fsynced; opened for each read.
    FilePerBlock,
}

impl Kind {
    pub fn of(op: Op) -> &'static [Self] {
        match op {
            Op::Put => &[Self::Engine, Self::EngineReused, Self::Raw, Self::FilePerBlock],
            Op::Get => &[Self::Engine, Self::Raw, Self::FilePerBlock],
        }
    }
}

/// How many do what.
pub struct Load {
    pub op: Op,
    pub block_len: usize,
    pub clients: usize,
    pub phase: Duration,
    /// What is made beforehand is smaller by this factor.
    pub shrink: u64,
    pub pool: Bytes,
}

impl Load {
    fn content(&self, n: u32) -> Bytes {
        payload::at(&self.pool, u64::from(n) * self.block_len as u64, self.block_len)
    }

    /// Blocks that are there before reading begins.
    fn read_blocks(&self) -> u32 {
        (READ_BYTES / self.block_len / self.shrink as usize).clamp(1, READ_BLOCKS_MAX / self.shrink as usize) as u32
    }
}

/// One of them, ready to be measured.
pub enum Contender {
    Engine(Box<Store>),
    Raw(Raw),
    FilePerBlock(PathBuf),
}

fn key(n: u32) -> BlockKey {
    BlockKey::replica(BlockId::new(1, 1, n))
}

fn put(store: &Store, key: BlockKey, content: Bytes, durability: Durability) -> Result<()> {
    let crcs = chunk_crcs(key.block, key.shard, &content);
    loop {
        let (sender, answer) = mpsc::channel();
        let put = Put {
            key,
            pg: PgId(1),
            pg_epoch: PgEpoch(1),
            parts: vec![content.clone()],
            crcs: crcs.clone(),
            file_offset_hint: 0,
            durability,
        };
        store.put(put, Box::new(move |result| drop(sender.send(result))));
        match answer.recv().context("a put was not answered")? {
            Ok(_) => return Ok(()),
            Err(PutError::Overloaded(_)) => std::thread::sleep(RETRY),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Contender {
    /// In an empty directory.
    pub fn make(kind: Kind, dir: &Path, load: &Load) -> Result<Self> {
        let made = match kind {
            Kind::Engine => Self::Engine(Box::new(open(dir, StoreOptions::default())?)),
            Kind::EngineReused => Self::Engine(Box::new(reused(dir, load)?)),
            Kind::Raw => Self::Raw(Raw::make(&dir.join("raw"))?),
            Kind::FilePerBlock => Self::FilePerBlock(dir.to_owned()),
        };
        if load.op == Op::Get {
            (0..load.read_blocks()).try_for_each(|n| made.put(n, load.content(n)))?;
        }
        Ok(made)
    }

    fn put(&self, n: u32, content: Bytes) -> Result<()> {
        match self {
            Self::Engine(store) => put(store, key(n), content, Durability::Durable),
            Self::Raw(raw) => raw.append(content),
            Self::FilePerBlock(dir) => {
                let (temporary, name) = (dir.join(format!("{n}.tmp")), dir.join(n.to_string()));
                let mut file = File::create(&temporary)?;
                file.write_all(&content)?;
                file.sync_all()?;
                fs::rename(temporary, name)?;
                Ok(File::open(dir)?.sync_all()?)
            }
        }
    }

    fn get(&self, n: u32, load: &Load) -> Result<Vec<u8>> {
        let mut buffer = vec![0; load.block_len];
        match self {
            Self::Engine(store) => {
                let block = store.read(key(n))?;
                let file = block.os_file().context("a real disk has files")?;
                file.read_exact_at(&mut buffer, block.payload_offset())?;
            }
            Self::Raw(raw) => raw.file.read_exact_at(&mut buffer, u64::from(n) * load.block_len as u64)?,
            Self::FilePerBlock(dir) => File::open(dir.join(n.to_string()))?.read_exact_at(&mut buffer, 0)?,
        }
        Ok(buffer)
    }

    /// As many clients as the load says, each with one block at a time.
    pub fn run(self, load: &Load) -> Result<Run> {
        let (next, written) = (AtomicU32::new(0), AtomicU64::new(0));
        let begin = Barrier::new(load.clients + 1);
        let client = || -> Result<Latency> {
            let mut latency = Latency::new();
            begin.wait();
            let start = Instant::now();
            while start.elapsed() < load.phase {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let one = Instant::now();
                match load.op {
                    Op::Put => {
                        if written.fetch_add(load.block_len as u64, Ordering::Relaxed) >= WRITE_BYTES_MAX {
                            break;
                        }
                        self.put(n, load.content(n))?;
                    }
                    // Spread over all blocks, in no order.
                    Op::Get => drop(self.get(n.wrapping_mul(2_654_435_761) % load.read_blocks(), load)?),
                }
                latency.record(one.elapsed());
            }
            Ok(latency)
        };
        let (latency, elapsed) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..load.clients).map(|_| scope.spawn(client)).collect();
            begin.wait();
            let start = Instant::now();
            let mut all = Latency::new();
            for client in clients {
                all.add(&client.join().map_err(|_| anyhow!("a client panicked"))??);
            }
            anyhow::Ok((all, start.elapsed()))
        })?;
        let report = latency.report();
        self.check(load)?;
        Ok(Run { per_second: report.count as f64 / elapsed.as_secs_f64(), latency: report })
    }

    /// What was stored is there: figures of writes that went nowhere are worth nothing.
    fn check(&self, load: &Load) -> Result<()> {
        let Self::Engine(_) = self else { return Ok(()) };
        let (key, content) = (key(0), self.get(0, load)?);
        let crcs = chunk_crcs(key.block, key.shard, &load.content(0));
        ensure!(first_mismatch(key.block, key.shard, 0, &content, &crcs).is_none(), "block 0 came back wrong");
        Ok(())
    }
}

fn open(dir: &Path, options: StoreOptions) -> Result<Store> {
    let disk = Arc::new(RealDisk::open(dir)?);
    Ok(Store::open(disk, options)?.0)
}

/// A store that has files of removed segments.
fn reused(dir: &Path, load: &Load) -> Result<Store> {
    let reused = (load.block_len as u64 * REUSED_SCALE).min(REUSED_BYTES_MAX) / load.shrink;
    let segment_len = reused / REUSED_FILES;
    // Until the last of them is removed, what was deleted is kept as it is.
    let keep = 2 * reused;
    // However full the disk is otherwise: this store has a share of its own, and room in it.
    let capacity_bytes = Some(8 * REUSED_BYTES_MAX);
    let options = StoreOptions { segment_len, recycle_bytes: Some(keep), capacity_bytes, ..StoreOptions::default() };
    let store = open(dir, options)?;
    let old = |n: u32| BlockKey::replica(BlockId::new(2, 1, n));
    let content = |n: u32| payload::at(&load.pool, u64::from(n) * OLD_LEN as u64, OLD_LEN);
    let blocks = ((REUSED_FILES + 1) * segment_len / OLD_LEN as u64) as u32;
    for n in 0..blocks {
        put(&store, old(n), content(n), Durability::Unsynced)?;
    }
    let keys: Vec<BlockKey> = (0..blocks).map(old).collect();
    for keys in keys.chunks(BLOCKS_PER_REQUEST_MAX) {
        let (sender, answer) = mpsc::channel();
        store.delete(keys.to_vec(), Box::new(move |result| drop(sender.send(result))));
        answer.recv().context("a delete was not answered")??;
    }
    store.checkpoint();
    // What is left of the active segment is new space; the next one is not.
    for n in blocks.. {
        ensure!(store.counts().recycled_bytes > 0 || store.counts().recycled_segments > 0, "no file was kept");
        if store.counts().recycled_segments > 0 {
            break;
        }
        put(&store, old(n), content(n), Durability::Unsynced)?;
    }
    Ok(store)
}

/// One file, appended to by whoever comes first for all that wait.
pub struct Raw {
    file: File,
    state: Mutex<RawState>,
    synced: Condvar,
}

#[derive(Default)]
struct RawState {
    waiting: Vec<Bytes>,
    /// Number of the batch that takes on what waits now, and of the last one that is durable.
    batch: u64,
    done: u64,
    busy: bool,
    end: u64,
}

impl Raw {
    fn make(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
        Ok(Self { file, state: Mutex::new(RawState { batch: 1, ..RawState::default() }), synced: Condvar::new() })
    }

    fn append(&self, content: Bytes) -> Result<()> {
        let mut state = self.state.lock().expect("nobody panics with it");
        state.waiting.push(content);
        let mine = state.batch;
        while state.done < mine {
            if state.busy {
                state = self.synced.wait(state).expect("nobody panics with it");
                continue;
            }
            state.busy = true;
            let (batch, taken, offset) = (state.batch, std::mem::take(&mut state.waiting), state.end);
            state.batch += 1;
            state.end += taken.iter().map(|part| part.len() as u64).sum::<u64>();
            drop(state);
            let written = self.write(offset, &taken);
            state = self.state.lock().expect("nobody panics with it");
            state.busy = false;
            state.done = batch;
            self.synced.notify_all();
            written?;
        }
        Ok(())
    }

    fn write(&self, mut offset: u64, parts: &[Bytes]) -> Result<()> {
        let mut slices: Vec<_> = parts.iter().map(|part| std::io::IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let count = rest.len().min(1024);
            let written = rustix::io::pwritev(&self.file, &rest[..count], offset)?;
            offset += written as u64;
            std::io::IoSlice::advance_slices(&mut rest, written);
        }
        Ok(self.file.sync_data()?)
    }
}
