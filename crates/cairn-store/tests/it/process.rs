//! A real process on a real file system, killed at any moment with SIGKILL; and the same on a file system of its own in a
//! loop device, whose image at that moment is what a power failure leaves.
//!
//! The child is this test binary again, running `child` alone: it prints what it begins and what was acknowledged.

use crate::support::*;
use cairn_store::{Durability, Execution, ReadError, RealDisk, Store, StoreOptions};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

const DIR: &str = "CAIRN_STORE_CHILD_DIR";
const SEED: &str = "CAIRN_STORE_CHILD_SEED";
const KEYS: u32 = 60;

fn options() -> StoreOptions {
    StoreOptions {
        execution: Execution::Threads,
        segment_len: 600_000,
        checkpoint_bytes: 300_000,
        compact_below_percent: 60,
        maintenance_rate: u64::MAX,
        recycle_bytes: Some(2_000_000),
        capacity_bytes: Some(64 << 20),
        reserve_bytes: Some(1 << 20),
        ..StoreOptions::default()
    }
}

fn len_of(n: u32) -> usize {
    [1, 700, 5000, 30_000, 70_000, 100_000][n as usize % 6]
}

/// What the child's words promise about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promise {
    Present,
    Absent,
    Open,
}

/// The child: puts and deletes without end, some at once. Not a test of its own.
#[test]
fn child() {
    let (Ok(dir), Ok(seed)) = (std::env::var(DIR), std::env::var(SEED)) else { return };
    let mut rng = fastrand::Rng::with_seed(seed.parse().unwrap());
    let disk = Arc::new(RealDisk::open(dir).unwrap());
    let (store, _) = open(&disk, options());
    let mut out = std::io::stdout().lock();
    // Behind what the test harness has begun to say.
    writeln!(out).unwrap();
    loop {
        let mut keys: Vec<u32> = (0..KEYS).collect();
        rng.shuffle(&mut keys);
        keys.truncate(rng.usize(1..6));
        let delete = rng.u32(..5) < 2;
        for n in &keys {
            // A word may be lost with the process only after what it announces has not begun.
            writeln!(out, "begin {n}").unwrap();
        }
        out.flush().unwrap();
        if delete {
            begin_delete(&store, keys.iter().map(|n| key(*n)).collect()).recv().unwrap().unwrap();
        } else {
            let begin = |n: &u32| begin_put(&store, put_of(key(*n), content(*n, len_of(*n)), Durability::Durable));
            let answers: Vec<_> = keys.iter().map(begin).collect();
            assert!(answers.into_iter().all(|answer| answer.recv().unwrap().unwrap().durable));
        }
        for n in &keys {
            writeln!(out, "{} {n}", if delete { "deleted" } else { "put" }).unwrap();
        }
        out.flush().unwrap();
    }
}

/// Runs the child on `dir` until it has acknowledged `acks` operations, kills it, and notes what it said.
fn live_and_die(dir: &Path, seed: u64, acks: usize, promises: &mut BTreeMap<u32, Promise>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["process::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut seen = 0;
    let mut note = |line: String| {
        let mut words = line.split(' ');
        let (word, n) = (words.next().unwrap_or_default(), words.next().and_then(|n| n.parse().ok()));
        let promise = match word {
            "begin" => Promise::Open,
            "put" => Promise::Present,
            "deleted" => Promise::Absent,
            _ => return 0,
        };
        n.map_or(0, |n| {
            promises.insert(n, promise);
            usize::from(promise != Promise::Open)
        })
    };
    while seen < acks {
        let line = lines.next().expect("the child works until it is killed").unwrap();
        seen += note(line);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // What it still said before it died counts as well; its last line may be torn.
    lines.map_while(Result::ok).map(note).for_each(drop);
}

fn check(store: &Store, promises: &mut BTreeMap<u32, Promise>) {
    for (n, promise) in promises {
        match (read(store, key(*n)), *promise) {
            (Ok(bytes), Promise::Present | Promise::Open) => {
                assert!(bytes == content(*n, len_of(*n)), "block {n} has other bytes");
                *promise = Promise::Present;
            }
            (Err(ReadError::NotFound { .. }), Promise::Absent | Promise::Open) => *promise = Promise::Absent,
            (Err(ReadError::Quarantined { .. }), Promise::Open) => {}
            (found, promise) => panic!("block {n} promised {promise:?}: {:?}", found.map(|bytes| bytes.len())),
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut promises = BTreeMap::new();
    for seed in 0..6 {
        live_and_die(dir.path(), seed, 60 + 35 * seed as usize, &mut promises);
        if seed == 3 {
            let _ = std::fs::remove_file(dir.path().join("checkpoint"));
        }
        let disk = Arc::new(RealDisk::open(dir.path()).unwrap());
        let (store, report) = open(&disk, options());
        assert!(seed == 3 || !report.is_damaged(), "{report:?}");
        check(&store, &mut promises);
    }
    assert!(promises.values().any(|promise| *promise == Promise::Absent));
}

/// A file system in an image behind a loop device; gone when dropped.
struct LoopMount {
    device: String,
    dir: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

impl LoopMount {
    fn new(image: &Path, dir: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let device = run("losetup", &["--find", "--show", &image.to_string_lossy()])?;
        let mounted = Self { device, dir };
        // The journal is committed by fsync alone, so the image does not change once nobody writes.
        run("mount", &["-o", "commit=600", &mounted.device, &mounted.dir.to_string_lossy()])?;
        Ok(mounted)
    }
}

impl Drop for LoopMount {
    fn drop(&mut self) {
        let _ = run("umount", &["--lazy", &self.dir.to_string_lossy()]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

#[test]
fn a_file_system_cut_off_at_a_kill_has_everything_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let image = |n: u64| dir.path().join(format!("image-{n}"));
    // mkfs makes the file, of so many KiB.
    let made = run("mkfs.ext4", &["-q", "-F", &image(0).to_string_lossy(), "131072k"]);
    let mut mounted = match made.and_then(|_| LoopMount::new(&image(0), dir.path().join("mount-0"))) {
        Ok(mounted) => mounted,
        Err(reason) => {
            eprintln!(
                "SKIPPED: a_file_system_cut_off_at_a_kill_has_everything_acknowledged needs root and loop devices: {reason}"
            );
            return;
        }
    };
    let mut promises = BTreeMap::new();
    for seed in 1..4 {
        live_and_die(&mounted.dir.join("store"), 100 + seed, 150, &mut promises);
        // What the device has now, without what only the page cache has.
        std::fs::copy(image(seed - 1), image(seed)).unwrap();
        drop(mounted);
        mounted = LoopMount::new(&image(seed), dir.path().join(format!("mount-{seed}"))).unwrap();
        let disk = Arc::new(RealDisk::open(mounted.dir.join("store")).unwrap());
        let (store, report) = open(&disk, options());
        assert!(!report.is_damaged(), "{report:?}");
        check(&store, &mut promises);
    }
    assert!(promises.values().any(|promise| *promise == Promise::Present));
}
