//! Local files on the filesystem that also holds the cluster's data.
//!
//! Files are kept until the end of the round, as the cluster keeps its segments: where a file was just removed, its
//! pages in memory and its place on the disk may be much cheaper than new ones (a virtual machine gives free memory
//! back to its host, a thin disk its free space), and whoever writes next would get them.

use crate::args::BLOCK_LEN;
use crate::cpu::Group;
use crate::payload;
use crate::sample::{Latency, Sample, Unit, Watch};
use anyhow::{Context, Result};
use bytes::Bytes;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const APPEND_LEN: usize = 4096;
/// Enough for any disk's sectors.
const DIRECT_ALIGN: usize = 4096;
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// How often a written file is synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncEvery {
    /// `fdatasync` after this many bytes and at the end; a multiple of 4 MiB.
    Bytes(u64),
    /// Not at all: the bytes are left in the page cache.
    Never,
}

fn fill(path: &Path, pool: &Bytes, size: u64, sync: SyncEvery) -> Result<()> {
    let mut file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    let mut offset = 0;
    while offset < size {
        file.write_all(&payload::at(pool, offset, BLOCK_LEN as usize)).context("writing a scratch file")?;
        offset += BLOCK_LEN;
        if let SyncEvery::Bytes(every) = sync
            && (offset.is_multiple_of(every) || offset == size)
        {
            file.sync_data().context("syncing a scratch file")?;
        }
    }
    Ok(())
}

/// Writes a new file with 4 MiB per call.
pub fn write(dir: &Path, pool: &Bytes, size: u64, sync: SyncEvery) -> Result<Sample> {
    let path = new_file(dir)?;
    let watch = Watch::start(&[Group::own("bench")])?;
    fill(&path, pool, size, sync)?;
    watch.stop(Unit::Bytes, size)
}

/// Writes a new file past the page cache (`O_DIRECT`, open(2)) with 4 MiB per call; `None` where the filesystem cannot.
pub fn write_direct(dir: &Path, pool: &Bytes, size: u64, every: u64) -> Result<Option<Sample>> {
    let path = new_file(dir)?;
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = std::fs::OpenOptions::new().write(true).custom_flags(flags).open(&path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    // The disk wants whole, aligned sectors. One block again and again, so that no copy is part of the figure.
    let mut buffer = vec![0; BLOCK_LEN as usize + DIRECT_ALIGN];
    let begin = buffer.as_ptr().align_offset(DIRECT_ALIGN);
    let block = &mut buffer[begin..begin + BLOCK_LEN as usize];
    block.copy_from_slice(&payload::at(pool, 0, BLOCK_LEN as usize));
    let watch = Watch::start(&[Group::own("bench")])?;
    for end in (0..size).step_by(BLOCK_LEN as usize).map(|offset| offset + BLOCK_LEN) {
        file.write_all(block).context("writing a scratch file")?;
        if end.is_multiple_of(every) || end == size {
            file.sync_data().context("syncing a scratch file")?;
        }
    }
    Ok(Some(watch.stop(Unit::Bytes, size)?))
}

/// Writes three new files at once, `size` bytes each; counts `size` once, as a write to three replicas does.
pub fn write_three(dir: &Path, pool: &Bytes, size: u64, sync: SyncEvery) -> Result<Sample> {
    let paths = [new_file(dir)?, new_file(dir)?, new_file(dir)?];
    let watch = Watch::start(&[Group::own("bench")])?;
    std::thread::scope(|scope| {
        let writers: Vec<_> = paths.iter().map(|path| scope.spawn(|| fill(path, pool, size, sync))).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer returns its errors"))
    })?;
    watch.stop(Unit::Bytes, size)
}

/// An empty file with a name that no other has.
pub fn new_file(dir: &Path) -> Result<PathBuf> {
    let (_, path) =
        tempfile::Builder::new().prefix("raw-").tempfile_in(dir).context("making a scratch file")?.keep()?;
    Ok(path)
}

/// Appends 4 KiB and syncs, again and again for that long: what one durable change of a log costs.
pub fn append(dir: &Path, pool: &Bytes, time: Duration) -> Result<Sample> {
    let path = new_file(dir)?;
    let mut file = File::create(&path).with_context(|| format!("opening {}", path.display()))?;
    let mut latency = Latency::new();
    let watch = Watch::start(&[Group::own("bench")])?;
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        let one = Instant::now();
        file.write_all(&pool[..APPEND_LEN]).context("writing a scratch file")?;
        file.sync_data().context("syncing a scratch file")?;
        latency.record(one.elapsed());
        count += 1;
    }
    Ok(watch.stop(Unit::Operations, count)?.with_latency(latency))
}

/// Reads a new file of `size` bytes that is not in the page cache.
pub fn read_cold(dir: &Path, pool: &Bytes, size: u64) -> Result<Sample> {
    let path = new_file(dir)?;
    fill(&path, pool, size, SyncEvery::Bytes(size))?;
    drop_caches(dir)?;
    let mut buffer = vec![0; BLOCK_LEN as usize];
    let watch = Watch::start(&[Group::own("bench")])?;
    let mut file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    for _ in 0..size / BLOCK_LEN {
        file.read_exact(&mut buffer).context("reading a scratch file")?;
    }
    watch.stop(Unit::Bytes, size)
}

/// Waits until nothing is left to write back, so that a measurement does not pay for the one before.
pub fn settle(dir: &Path) -> Result<()> {
    let dir = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
    rustix::fs::syncfs(&dir).context("syncing the filesystem of the data directory")
}

/// Empties the page cache of the whole machine.
///
/// # Errors
/// Only root may.
pub fn drop_caches(dir: &Path) -> Result<()> {
    settle(dir)?;
    std::fs::write(DROP_CACHES, "1").with_context(|| format!("--cold writes to {DROP_CACHES}, which needs root"))
}
