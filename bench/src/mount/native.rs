//! One big file through the mount and through the client library: `dd` beside `cairn put` and `cairn get`.

use super::{drop_caches, run};
use anyhow::{Context, Result, ensure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

const MIB: f64 = 1024.0 * 1024.0;
/// Turns of both; the best of each counts, as the disk below is shared.
const TURNS: usize = 3;
/// What the mount should reach of what the library does.
const AIM: f64 = 0.8;

/// Rates of both, MiB/s.
#[derive(Serialize)]
pub struct Beside {
    mount: f64,
    library: f64,
    ratio: f64,
    aim: f64,
}

fn beside(size: u64, mut mount: impl FnMut() -> Result<()>, mut library: impl FnMut() -> Result<()>) -> Result<Beside> {
    let rate = |work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let begun = Instant::now();
        work()?;
        Ok(size as f64 / MIB / begun.elapsed().as_secs_f64())
    };
    let (mut by_mount, mut by_library) = (0.0_f64, 0.0_f64);
    for _ in 0..TURNS {
        by_mount = by_mount.max(rate(&mut mount)?);
        by_library = by_library.max(rate(&mut library)?);
    }
    Ok(Beside { mount: by_mount, library: by_library, ratio: by_mount / by_library, aim: AIM })
}

/// Copies a file of `size` bytes in and out.
///
/// # Errors
/// A program fails.
pub fn measure(
    program: &Path,
    meta: &str,
    on_mount: &Path,
    scratch: &Path,
    size: u64,
) -> Result<BTreeMap<&'static str, Beside>> {
    let local = scratch.join("local");
    let mut bytes = vec![0_u8; usize::try_from(size).context("too large for memory")?];
    fastrand::Rng::with_seed(1).fill(&mut bytes);
    fs::write(&local, &bytes).context("writing a local file")?;
    drop(bytes);
    let there = on_mount.join("copied");
    let dd = |from: &Path, to: &Path, sync: bool| {
        let mut command = Command::new("dd");
        command.args(["bs=1M", "status=none"]);
        command.arg(format!("if={}", from.display())).arg(format!("of={}", to.display()));
        if sync {
            command.arg("conv=fsync");
        }
        run(&mut command)
    };
    let cairn = |words: &[&str]| run(Command::new(program).args(["--meta", meta]).args(words));
    let local_text = local.to_str().context("the scratch directory is not UTF-8")?;
    let mut results = BTreeMap::new();
    results.insert("in", beside(size, || dd(&local, &there, true), || cairn(&["put", local_text, "/library"]))?);
    let null = Path::new("/dev/null");
    let cat = || -> Result<()> {
        let sink = File::options().write(true).open(null).context("opening /dev/null")?;
        let mut command = Command::new(program);
        let status = command.args(["--meta", meta, "cat", "/library"]).stdout(sink).status();
        ensure!(status.context("starting cairn")?.success(), "`cairn cat` failed");
        Ok(())
    };
    let out = beside(
        size,
        || {
            drop_caches()?;
            dd(&there, null, false)
        },
        || {
            drop_caches()?;
            cat()
        },
    );
    results.insert("out", out?);
    Ok(results)
}
