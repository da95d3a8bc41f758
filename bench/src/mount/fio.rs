//! Rows that fio measures, on one big file that the first of them makes.

use super::{Extent, drop_caches};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const FILE: &str = "big";
const MIB: f64 = 1024.0 * 1024.0;

/// # Errors
/// There is no fio.
pub fn check() -> Result<()> {
    let version = Command::new("fio").arg("--version").stdout(Stdio::null()).status();
    let known = version.is_ok_and(|status| status.success());
    ensure!(known, "fio is missing: `apt-get install fio`");
    Ok(())
}

/// One job; its part of fio's report that is called `side`.
fn fio(dir: &Path, extent: &Extent, side: &str, args: &[&str]) -> Result<Value> {
    let file = dir.join(FILE);
    let output = Command::new("fio")
        .args(["--name=row", "--ioengine=psync", "--group_reporting", "--output-format=json", "--randseed=1"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--size={}", extent.size))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .context("starting fio")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "fio: {} {}", said.trim(), String::from_utf8_lossy(&output.stderr).trim());
    // Warnings may stand before the report.
    let begin = said.find('{').context("fio reported nothing")?;
    let report: Value = serde_json::from_str(&said[begin..]).context("reading fio's report")?;
    let job = &report["jobs"][0];
    ensure!(job["error"] == 0, "fio: error {}", job["error"]);
    Ok(job[side].clone())
}

fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("fio reported no {key}"))
}

fn timed(extent: &Extent) -> [String; 2] {
    [format!("--runtime={}", extent.time.as_secs().max(1)), "--time_based".to_owned()]
}

/// 1 MiB writes, and a sync at the end, which counts.
pub fn seq_write(dir: &Path, extent: &Extent) -> Result<f64> {
    // The whole run by the clock: fio's own rate leaves the sync out.
    let begun = Instant::now();
    fio(dir, extent, "write", &["--rw=write", "--bs=1M", "--end_fsync=1"])?;
    Ok(extent.size as f64 / MIB / begun.elapsed().as_secs_f64())
}

/// The same file read once.
pub fn seq_read(dir: &Path, extent: &Extent) -> Result<f64> {
    drop_caches()?;
    Ok(number(&fio(dir, extent, "read", &["--rw=read", "--bs=1M"])?, "bw_bytes")? / MIB)
}

fn rand_read(dir: &Path, extent: &Extent, jobs: u32) -> Result<f64> {
    drop_caches()?;
    let [runtime, based] = timed(extent);
    let jobs = format!("--numjobs={jobs}");
    number(&fio(dir, extent, "read", &["--rw=randread", "--bs=4k", &jobs, &runtime, &based])?, "iops")
}

/// 4 KiB at a time, one after the other.
pub fn rand_read_1(dir: &Path, extent: &Extent) -> Result<f64> {
    rand_read(dir, extent, 1)
}

/// The same by eight processes.
pub fn rand_read_8(dir: &Path, extent: &Extent) -> Result<f64> {
    rand_read(dir, extent, 8)
}

/// 4 KiB and a sync each.
pub fn rand_write_sync(dir: &Path, extent: &Extent) -> Result<f64> {
    let [runtime, based] = timed(extent);
    number(&fio(dir, extent, "write", &["--rw=randwrite", "--bs=4k", "--fsync=1", &runtime, &based])?, "iops")
}

/// 4 KiB each, and a sync at the end, which counts: as many as in a tenth of the file.
pub fn rand_write(dir: &Path, extent: &Extent) -> Result<f64> {
    let count = (extent.size / 4096 / 10).max(1);
    let ios = format!("--number_ios={count}");
    let begun = Instant::now();
    fio(dir, extent, "write", &["--rw=randwrite", "--bs=4k", "--end_fsync=1", &ios])?;
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}
