//! Very many small files: `cairn-bench files` makes, lists and looks at them on metadata with the embedded engine alone, and
//! says what each costs on the disk and whether memory grows with them.

use crate::args::{Args, Files};
use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use cairn_meta::clock::SystemClock;
use cairn_meta::kv::{EmbeddedEngine, EmbeddedOptions, Engine};
use cairn_meta::limits::{OUT_AFTER, SUSPECT_AFTER};
use cairn_meta::{Meta, MetaOptions};
use cairn_proto::limits::{BLOCK_LEN_DEFAULT, INLINE_LEN_DEFAULT, SLOTS_PER_SESSION};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Files between two looks at memory and disk.
const LOOK_EVERY: u64 = 1_000_000;
/// Of these many files one is looked at again.
const STAT_EVERY: u64 = 100;
/// Time in which the engine writes down what it still holds back.
const SETTLE: Duration = Duration::from_secs(2);
const LEASE: Duration = Duration::from_secs(3600);

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    files: u64,
    directories: u64,
    cache_bytes: u64,
    /// As the files became more.
    growth: Vec<Look>,
    create_per_s: f64,
    /// Creates that had to be run again because others met them.
    conflicts: u64,
    /// Every directory from beginning to end, page by page.
    list_per_s: f64,
    /// One of a hundred, by path, in an order without order.
    stat_per_s: f64,
    /// Files removed again, if that was asked for.
    remove_per_s: Option<f64>,
    disk_bytes_per_file: f64,
    end: Look,
}

/// The process and its data at one moment.
#[derive(Serialize)]
struct Look {
    files: u64,
    rss_bytes: u64,
    disk_bytes: u64,
    per_s: f64,
}

struct World {
    meta: Meta,
    engine: Arc<EmbeddedEngine>,
    session: u64,
    dir_files: u64,
}

/// Measures.
pub async fn run(args: &Args, wanted: &Files) -> Result<Report> {
    let data = match &args.data {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let data = data.context("making a scratch directory")?;
    let dir = data.path().join("meta");
    let count = if args.quick { wanted.count.min(20_000) } else { wanted.count };
    let directories = count.div_ceil(wanted.per_directory);
    let cache_bytes = wanted.cache_mib << 20;
    let options = EmbeddedOptions { cache_bytes, clock: Arc::new(SystemClock::new()) };
    let engine = Arc::new(EmbeddedEngine::open(&dir, options)?);
    let meta = Meta::open(engine.clone(), options_of(fastrand::u64(..))).await?;
    let ask = pb::OpenSession { name: "files".into(), ..Default::default() };
    let Reply::OpenSession(opened) = execute(&meta, None, Kind::OpenSession(ask)).await? else {
        return Err(anyhow!("no session"));
    };
    let world = Arc::new(World { meta, engine, session: opened.session, dir_files: wanted.per_directory });
    for index in 0..directories {
        let ask = pb::Mkdir { at: Some(at(&format!("d{index}"))), attr: None };
        world.change(0, index + 1, Kind::Mkdir(ask)).await?;
    }
    let before = world.engine.commits().conflicts;
    let begun = Instant::now();
    let mut growth = Vec::new();
    let mut made = 0;
    while made < count {
        let upto = count.min(made + LOOK_EVERY);
        let step = Instant::now();
        world.each(made..upto, Action::Create).await?;
        growth.push(look(&dir, upto, (upto - made) as f64 / step.elapsed().as_secs_f64())?);
        made = upto;
    }
    let create_per_s = count as f64 / begun.elapsed().as_secs_f64();
    let conflicts = world.engine.commits().conflicts - before;
    let begun = Instant::now();
    let mut listed = 0;
    for index in 0..directories {
        listed += world.list(index).await?;
    }
    anyhow::ensure!(listed == count, "{listed} of {count} files were listed");
    let list_per_s = count as f64 / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    world.each(0..count, Action::Stat).await?;
    let stat_per_s = (count / STAT_EVERY) as f64 / begun.elapsed().as_secs_f64();
    tokio::time::sleep(SETTLE).await;
    let end = look(&dir, count, 0.0)?;
    let disk_bytes_per_file = end.disk_bytes as f64 / count as f64;
    let remove_per_s = if wanted.remove {
        let begun = Instant::now();
        world.each(0..count, Action::Remove).await?;
        Some(count as f64 / begun.elapsed().as_secs_f64())
    } else {
        None
    };
    Ok(Report {
        files: count,
        directories,
        cache_bytes,
        growth,
        create_per_s,
        conflicts,
        list_per_s,
        stat_per_s,
        remove_per_s,
        disk_bytes_per_file,
        end,
    })
}

fn options_of(seed: u64) -> MetaOptions {
    MetaOptions {
        replicas: 3,
        block_len: BLOCK_LEN_DEFAULT,
        inline_max: INLINE_LEN_DEFAULT,
        lease: LEASE,
        suspect_after: SUSPECT_AFTER,
        out_after: OUT_AFTER,
        addr: String::new(),
        alone: true,
        metas: Vec::new(),
        clock: Arc::new(SystemClock::new()),
        seed,
    }
}

#[derive(Clone, Copy)]
enum Action {
    Create,
    Stat,
    Remove,
}

impl World {
    fn path(&self, index: u64) -> String {
        format!("d{}/file-{index:08}.txt", index / self.dir_files)
    }

    async fn change(&self, slot: u32, seq: u64, kind: Kind) -> Result<Reply> {
        let op = pb::OpId { session: self.session, epoch: 1, slot, seq };
        execute(&self.meta, Some(op), kind).await
    }

    /// Does the same to every file of a range, as many at once as a session may have under way.
    async fn each(self: &Arc<Self>, range: std::ops::Range<u64>, action: Action) -> Result<()> {
        let mut tasks = Vec::new();
        let step = u64::from(SLOTS_PER_SESSION);
        // Numbers of operations have to grow: removing comes behind creating.
        let base = if matches!(action, Action::Remove) { 1 << 40 } else { 1 << 20 };
        for slot in 0..SLOTS_PER_SESSION {
            let world = self.clone();
            let range = range.clone();
            tasks.push(tokio::spawn(async move {
                for index in (range.start + u64::from(slot)..range.end).step_by(step as usize) {
                    match action {
                        Action::Create => {
                            let ask = pb::Create { at: Some(at(&world.path(index))), ..Default::default() };
                            world.change(slot, base + index, Kind::Create(ask)).await?;
                        }
                        Action::Remove => {
                            let ask = pb::Unlink { at: Some(at(&world.path(index))), no_trash: false };
                            world.change(slot, base + index, Kind::Unlink(ask)).await?;
                        }
                        Action::Stat if index % STAT_EVERY == 0 => {
                            let index = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % range.end;
                            let ask = pb::Stat { at: Some(at(&world.path(index))), follow: true, ..Default::default() };
                            execute(&world.meta, None, Kind::Stat(ask)).await?;
                        }
                        Action::Stat => {}
                    }
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        Ok(())
    }

    /// Files of a directory, read page by page.
    async fn list(&self, index: u64) -> Result<u64> {
        let mut after = Bytes::new();
        let mut count = 0;
        loop {
            let ask = pb::ReadDir {
                at: Some(at(&format!("d{index}"))),
                after,
                limit: 0,
                with_attr: true,
                count_links: false,
            };
            let Reply::ReadDir(page) = execute(&self.meta, None, Kind::ReadDir(ask)).await? else {
                return Err(anyhow!("no listing"));
            };
            count += page.entries.len() as u64;
            match page.entries.last() {
                Some(last) if !page.end => after = last.name.clone(),
                _ => return Ok(count),
            }
        }
    }
}

fn at(path: &str) -> pb::At {
    pb::At { dir: 1, path: Bytes::copy_from_slice(path.as_bytes()) }
}

/// Mutations are relaxed: what is measured here is not the disk's sync.
async fn execute(meta: &Meta, op_id: Option<pb::OpId>, kind: Kind) -> Result<Reply> {
    let request = pb::Request { op_id, relaxed: true, kind: Some(kind), ..Default::default() };
    meta.execute(&request).await.map_err(|status| anyhow!("metadata: {status}"))
}

fn look(dir: &Path, files: u64, per_s: f64) -> Result<Look> {
    Ok(Look { files, rss_bytes: rss()?, disk_bytes: disk_bytes(dir)?, per_s })
}

/// Resident memory of this process.
fn rss() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// What the files of a directory take of the disk.
fn disk_bytes(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        // Compaction removes files at any time.
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
