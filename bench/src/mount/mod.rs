//! A mounted file system as programs use it: `cairn-bench mount`. A cluster is brought up and mounted, and the same is done
//! on its mount and on mount points of other file systems (`--peer`), row by row in turns, so that a neighbour's load falls
//! on all. Ratios are formed within a row. What is acknowledged from memory is never held against what is on disk.

mod fio;
mod native;
mod small;
mod table;

use crate::args::{Args, Mount};
use crate::cluster::{Cluster, find_cairn};
use crate::machine::{self, Machine};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How long each timed run takes.
const TIME: Duration = Duration::from_secs(8);
const TIME_QUICK: Duration = Duration::from_secs(1);
/// Small files of one row.
const FILES: u32 = 1000;
const FILES_QUICK: u32 = 50;

/// When a file system says that a synced write is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// It is on the disks of the replicas.
    Durable,
    /// It is in the memory of the replicas.
    Relaxed,
}

/// A mount point that is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subject {
    /// What it is called in the table.
    pub name: String,
    /// A directory in it.
    pub dir: PathBuf,
    /// See [`Durability`].
    pub durability: Durability,
    /// One of ours.
    pub ours: bool,
}

/// Everything measured.
#[derive(Serialize)]
pub struct Report {
    version: &'static str,
    quick: bool,
    size_bytes: u64,
    machine: Machine,
    /// Load averages before and after.
    load_average: [Vec<f64>; 2],
    /// Per second by row and subject: MiB, operations or files. Absent where it failed.
    rows: BTreeMap<&'static str, BTreeMap<String, f64>>,
    /// The mount beside the client library (`cairn put`, `cairn get`) on one big file.
    native: BTreeMap<&'static str, native::Beside>,
    /// What failed, and how.
    pub failures: Vec<String>,
    /// The same as a table with ratios, in Markdown.
    table: Vec<String>,
}

/// What one row does with a directory; gives a rate, the larger the better.
type Work = fn(&Path, &Extent) -> Result<f64>;

/// How much is done.
pub struct Extent {
    /// Bytes of the big file.
    pub size: u64,
    /// Seconds of a timed run.
    pub time: Duration,
    /// Small files.
    pub files: u32,
}

/// The rows, in order: what comes later works on what came before.
const ROWS: &[(&str, Work)] = &[
    ("seq write 1M + fsync, MiB/s", fio::seq_write),
    ("seq read 1M cold, MiB/s", fio::seq_read),
    ("rand read 4k x1, IOPS", fio::rand_read_1),
    ("rand read 4k x8, IOPS", fio::rand_read_8),
    ("rand write 4k + fsync each, IOPS", fio::rand_write_sync),
    ("rand write 4k, fsync at end, IOPS", fio::rand_write),
    ("small files made x1, /s", |dir, extent| small::create(dir, extent, 1, false)),
    ("small files stat x1, /s", |dir, extent| small::stat(dir, extent, 1)),
    ("small files read x1, /s", |dir, extent| small::read(dir, extent, 1)),
    ("small files removed x1, /s", |dir, extent| small::remove(dir, extent, 1)),
    ("small files made x8, /s", |dir, extent| small::create(dir, extent, 8, false)),
    ("small files stat x8, /s", |dir, extent| small::stat(dir, extent, 8)),
    ("small files removed x8, /s", |dir, extent| small::remove(dir, extent, 8)),
    ("small files made + fsync x1, /s", |dir, extent| small::create(dir, extent, 1, true)),
    ("small files removed again x1, /s", |dir, extent| small::remove(dir, extent, 1)),
    ("small files made + fsync x8, /s", |dir, extent| small::create(dir, extent, 8, true)),
    ("small files removed again x8, /s", |dir, extent| small::remove(dir, extent, 8)),
];

/// A mount of the cluster, taken away when it is dropped.
struct Mounted {
    cairn: PathBuf,
    dir: PathBuf,
}

impl Mounted {
    fn new(cairn: &Path, meta: &str, dir: PathBuf, options: &[&str]) -> Result<Self> {
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        run(Command::new(cairn).args(["--meta", meta, "mount"]).args(options).arg(&dir))?;
        Ok(Self { cairn: cairn.to_owned(), dir })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if run(Command::new(&self.cairn).arg("umount").arg(&self.dir)).is_err() {
            // Whatever of ours still uses it ends with this process.
            let _ = run(Command::new(&self.cairn).args(["umount", "--force"]).arg(&self.dir));
        }
    }
}

/// Runs a program that has nothing to say when it succeeds.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {name}"))?;
    ensure!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Writes everything back and forgets what was read, here and as far as the kernel can in file systems of others.
pub fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("dropping the page cache needs root")
}

/// Measures all.
///
/// # Errors
/// The cluster does not come up, cannot be mounted, or fio is missing. A row that fails is reported.
pub fn measure(args: &Args, wanted: &Mount) -> Result<Report> {
    fio::check()?;
    let dir = args.data.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("cairn-bench-").tempdir_in(&dir);
    let scratch = scratch.with_context(|| format!("making a directory in {}", dir.display()))?;
    let cairn = find_cairn(args.cairn.as_deref())?;
    let before = machine::load_average()?;
    let cluster = Cluster::start(&cairn, scratch.path())?;
    let meta = cluster.meta().to_string();
    let mounted = Mounted::new(&cairn, &meta, scratch.path().join("mnt"), &[])?;
    let relaxed = Mounted::new(&cairn, &meta, scratch.path().join("mnt-relaxed"), &["-o", "relaxed"])?;
    let mut subjects = Vec::new();
    for (name, durability, mounted) in
        [("durable", Durability::Durable, &mounted), ("relaxed", Durability::Relaxed, &relaxed)]
    {
        let dir = mounted.dir.join(name);
        fs::create_dir(&dir).context("making a directory on the mount")?;
        let path = format!("/{name}");
        run(Command::new(&cairn).args(["--meta", &meta, "policy", "set", &path, "--durability", name]))?;
        subjects.push(Subject { name: format!("cairn {name}"), dir, durability, ours: true });
    }
    for peer in &wanted.peer {
        let dir = peer.dir.join(format!("cairn-bench-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        subjects.push(Subject { dir, ..peer.clone() });
    }
    let extent = Extent {
        size: args.size(),
        time: if args.quick { TIME_QUICK } else { TIME },
        files: if args.quick { FILES_QUICK } else { FILES },
    };
    let mut rows: BTreeMap<&'static str, BTreeMap<String, f64>> = BTreeMap::new();
    let mut failures = Vec::new();
    for (row, work) in
        ROWS.iter().filter(|(row, _)| wanted.rows.as_ref().is_none_or(|part| row.contains(part.as_str())))
    {
        for subject in &subjects {
            match work(&subject.dir, &extent) {
                Ok(rate) => {
                    eprintln!("{row:36} {:20} {rate:>12.1}", subject.name);
                    rows.entry(row).or_default().insert(subject.name.clone(), rate);
                }
                Err(error) => {
                    eprintln!("{row:36} {:20} FAILED: {error:#}", subject.name);
                    failures.push(format!("{row}, {}: {error:#}", subject.name));
                }
            }
        }
    }
    let mut native = BTreeMap::new();
    match native::measure(&cairn, &meta, &mounted.dir.join("durable"), scratch.path(), extent.size) {
        Ok(beside) => native = beside,
        Err(error) => failures.push(format!("beside the client library: {error:#}")),
    }
    for subject in subjects.iter().filter(|subject| !subject.ours) {
        fs::remove_dir_all(&subject.dir).with_context(|| format!("removing {}", subject.dir.display()))?;
    }
    let order: Vec<&'static str> = ROWS.iter().map(|(row, _)| *row).collect();
    let table = table::markdown(&order, &rows, &subjects);
    let load_average = [before, machine::load_average()?];
    let machine = machine::describe(scratch.path())?;
    drop((mounted, relaxed));
    cluster.stop()?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(Report {
        version,
        quick: args.quick,
        size_bytes: extent.size,
        machine,
        load_average,
        rows,
        native,
        failures,
        table,
    })
}

/// `NAME[:durable]=DIR` of `--peer`.
///
/// # Errors
/// It is not of this form, or there is no such directory.
pub fn parse_peer(text: &str) -> Result<Subject, String> {
    let parse = || -> Result<Subject> {
        let (name, dir) = text.split_once('=').context("expected NAME=DIR or NAME:durable=DIR")?;
        let (name, durability) = match name.split_once(':') {
            None => (name, Durability::Relaxed),
            Some((name, "durable")) => (name, Durability::Durable),
            Some((name, "relaxed")) => (name, Durability::Relaxed),
            Some((_, other)) => bail!("{other}: durable or relaxed"),
        };
        ensure!(!name.is_empty(), "the name is empty");
        ensure!(Path::new(dir).is_dir(), "{dir} is no directory");
        Ok(Subject { name: name.to_owned(), dir: PathBuf::from(dir), durability, ours: false })
    };
    parse().map_err(|error| format!("{error:#}"))
}
