//! Rows about small files, as fs_mark does it: 4 KiB each, in one directory for each thread.

use super::{Extent, drop_caches};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

const LEN: usize = 4096;

/// Runs `each` on every file of every thread; files per second.
fn all(dir: &Path, extent: &Extent, threads: u32, each: impl Fn(&Path) -> std::io::Result<()> + Sync) -> Result<f64> {
    let of_thread = extent.files / threads;
    let dirs: Vec<PathBuf> = (0..threads).map(|thread| dir.join(format!("small-{threads}-{thread}"))).collect();
    for dir in &dirs {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let begun = Instant::now();
    let work = |dir: &Path| (0..of_thread).try_for_each(|file| each(&dir.join(format!("f{file:06}"))));
    let work = &work;
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || work(dir))).collect();
        for thread in running {
            thread.join().map_err(|_| anyhow::anyhow!("a thread broke"))??;
        }
        Ok(())
    })?;
    Ok(f64::from(of_thread * threads) / begun.elapsed().as_secs_f64())
}

/// Made, written and closed; synced before if `sync`.
pub fn create(dir: &Path, extent: &Extent, threads: u32, sync: bool) -> Result<f64> {
    let bytes = vec![7; LEN];
    all(dir, extent, threads, |path| {
        let mut file = File::create_new(path)?;
        file.write_all(&bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    })
}

/// Looked at, with nothing remembered by the kernel.
pub fn stat(dir: &Path, extent: &Extent, threads: u32) -> Result<f64> {
    drop_caches()?;
    all(dir, extent, threads, |path| fs::metadata(path).map(drop))
}

/// Read, with nothing remembered by the kernel.
pub fn read(dir: &Path, extent: &Extent, threads: u32) -> Result<f64> {
    drop_caches()?;
    all(dir, extent, threads, |path| {
        let len = fs::read(path)?.len();
        if len == LEN { Ok(()) } else { Err(std::io::Error::other(format!("{len} bytes instead of {LEN}"))) }
    })
}

/// Removed.
pub fn remove(dir: &Path, extent: &Extent, threads: u32) -> Result<f64> {
    all(dir, extent, threads, |path| fs::remove_file(path))
}
