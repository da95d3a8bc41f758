//! `cargo xtask mount-tests`: random operations on mounted files, held against a model (the program fsx), on one mount and
//! on two in turns.
//!
//! Two mounts: fsx works on a symlink that is turned from one mount to the other all the time, so that whenever it opens
//! its file anew it may do so through the other one: what was closed there has to be found here.

use crate::process::{self, cargo, works};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FSX_VERSION: &str = "0.3.2";
/// Operations of each run: as many as are wanted, and as many as every check does.
pub const OPS: u32 = 100_000;
/// See [`OPS`].
pub const OPS_SHORT: u32 = 500;
/// How often the symlink is turned.
const TURN: Duration = Duration::from_millis(5);
const PORT_FIRST: u16 = 18_500;

/// A sort of run: its name, fsx's settings, and on how many mounts.
const PROFILES: &[(&str, &str, bool)] = &[
    ("small file, mmap", "flen = 262144\n", false),
    (
        "every operation, mmap",
        "flen = 1048576\n[opsize]\nmax = 131072\n[weights]\nclose_open = 0.3\ninvalidate = 0.2\nfsync = 0.1\n\
        fdatasync = 0.1\npunch_hole = 0.3\nsendfile = 0.3\nposix_fadvise = 0.2\ncopy_file_range = 0.3\n\
        posix_fallocate = 0.3\n",
        false,
    ),
    (
        "two mounts in turns, mmap",
        "flen = 1048576\n[opsize]\nmax = 131072\n[weights]\nclose_open = 1.0\nfsync = 0.1\npunch_hole = 0.2\n",
        true,
    ),
];

/// Why nothing can be mounted here, if so.
pub fn cannot_mount() -> Option<&'static str> {
    let root = works("sh", &["-c", "test \"$(id -u)\" = 0"]);
    let device = fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    match (root, device) {
        (false, _) => Some("mounting needs root"),
        (_, false) => Some("there is no /dev/fuse"),
        (true, true) => None,
    }
}

/// A cluster and two mounts of it, gone when this is dropped.
struct Mounts {
    cairn: PathBuf,
    up: Child,
    dirs: [PathBuf; 2],
}

impl Mounts {
    fn new(cairn: &Path, scratch: &Path) -> Result<Self> {
        let dirs = ["one", "two"].map(|name| scratch.join(name));
        let port = (PORT_FIRST..)
            .step_by(8)
            .take(100)
            .find(|port| (*port..port + 4).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()));
        let port = port.context("no free ports")?.to_string();
        let mut up = Command::new(cairn)
            .args(["up", "--console", "off", "--base-port", &port, "--data"])
            .arg(scratch.join("data"))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", cairn.display()))?;
        let output = up.stdout.take().context("standard output is piped")?;
        let mounts = Self { cairn: cairn.to_owned(), up, dirs };
        let ready = BufReader::new(output).lines().map_while(Result::ok).any(|line| line == "ready");
        ensure!(ready, "the cluster did not become ready; its error is above");
        for dir in &mounts.dirs {
            fs::create_dir_all(dir)?;
            process::run(Command::new(cairn).args(["--meta", &format!("127.0.0.1:{port}"), "mount"]).arg(dir))?;
        }
        Ok(mounts)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let _ = Command::new(&self.cairn).args(["umount", "--force"]).arg(dir).stderr(Stdio::null()).status();
        }
        // SIGTERM lets it stop in order.
        let _ = Command::new("kill").arg(self.up.id().to_string()).status();
        let _ = self.up.wait();
    }
}

/// Runs every profile with one seed. `cairn` has been built.
///
/// # Errors
/// fsx found a difference, or something could not be started.
pub fn run(root: &Path, ops: u32, seed: u64, release: bool) -> Result<String> {
    let mut build = cargo();
    build.current_dir(root).args(["build", "--locked", "--package", "cairnfs"]);
    if release {
        build.arg("--release");
    }
    process::run(&mut build)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let cairn = target.join(if release { "release/cairn" } else { "debug/cairn" });
    let fsx = fsx(&target)?;
    let scratch = target.join(format!("mount-tests-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let result = profiles(&cairn, &fsx, &scratch, ops, seed);
    if result.is_ok() {
        fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    }
    result
}

fn profiles(cairn: &Path, fsx: &Path, scratch: &Path, ops: u32, seed: u64) -> Result<String> {
    let mounts = Mounts::new(cairn, scratch)?;
    for (index, (name, settings, two)) in PROFILES.iter().enumerate() {
        let config = scratch.join(format!("fsx-{index}.toml"));
        fs::write(&config, settings)?;
        let file = format!("fsx-{index}");
        let begun = Instant::now();
        let run = |path: &Path| {
            let mut command = Command::new(fsx);
            command.args(["-N", &ops.to_string(), "-S", &seed.to_string(), "-f"]).arg(&config);
            command.arg("-P").arg(scratch).arg(path);
            let output = command.stdin(Stdio::null()).output().context("starting fsx")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            let last: Vec<&str> = said.lines().rev().take(30).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            ensure!(output.status.success(), "fsx, {name}, seed {seed}: {}\n{}", output.status, last.join("\n"));
            Ok(())
        };
        if *two {
            in_turns(&mounts.dirs, scratch, &file, run)?;
        } else {
            run(&mounts.dirs[0].join(&file))?;
        }
        println!("{name}: {ops} operations, seed {seed}, {:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(format!("{} profiles, {ops} operations each", PROFILES.len()))
}

/// Runs with a path that leads to the same file through one mount and the other in turns.
fn in_turns(dirs: &[PathBuf; 2], scratch: &Path, file: &str, run: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (path, next) = (scratch.join(file), scratch.join("next"));
    symlink(dirs[0].join(file), &path)?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let turner = scope.spawn(|| -> Result<u64> {
            let mut turns = 0;
            while !stop.load(Ordering::Relaxed) {
                std::thread::sleep(TURN);
                turns += 1;
                symlink(dirs[turns as usize % 2].join(file), &next)?;
                fs::rename(&next, &path)?;
            }
            Ok(turns)
        });
        let result = run(&path);
        stop.store(true, Ordering::Relaxed);
        let turns = turner.join().map_err(|_| anyhow::anyhow!("the turning of the symlink broke"))??;
        result?;
        ensure!(turns > 2, "it was over before the mounts took turns");
        Ok(())
    })
}

/// The program fsx: on the path, or built below the target directory.
fn fsx(target: &Path) -> Result<PathBuf> {
    if works("fsx", &["--version"]) {
        return Ok("fsx".into());
    }
    let tools = target.join("tools");
    let program = tools.join("bin/fsx");
    if !program.is_file() {
        println!("fsx is missing: compiling it takes a minute");
        process::run(cargo().args(["install", "--locked", "fsx", "--version", FSX_VERSION, "--root"]).arg(&tools))?;
    }
    if !program.is_file() {
        bail!("cargo did not install {}", program.display());
    }
    Ok(program)
}
