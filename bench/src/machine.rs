//! What the figures were measured on.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;
use std::path::Path;

/// The machine and the filesystem of the data directory.
#[derive(Serialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    memory_bytes: u64,
    kernel: String,
    filesystem: Filesystem,
}

/// Where the data directory lies.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Filesystem {
    /// As `ext4`.
    pub kind: String,
    source: String,
    options: String,
}

/// Reads it from `/proc`.
///
/// # Errors
/// `/proc` is not there or not as expected.
pub fn describe(data: &Path) -> Result<Machine> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let cpu = field(&read("/proc/cpuinfo")?, "model name").unwrap_or_else(|| "unknown".to_owned());
    let memory_kib = field(&read("/proc/meminfo")?, "MemTotal")
        .and_then(|text| text.trim_end_matches("kB").trim().parse::<u64>().ok())
        .context("/proc/meminfo has no MemTotal")?;
    let data = fs::canonicalize(data).with_context(|| format!("finding {}", data.display()))?;
    Ok(Machine {
        cpu,
        cores: std::thread::available_parallelism().context("counting processors")?.get(),
        memory_bytes: memory_kib * 1024,
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        filesystem: filesystem(&read("/proc/self/mountinfo")?, &data).context("no mount holds the data directory")?,
    })
}

/// The three load averages.
///
/// # Errors
/// As [`describe`].
pub fn load_average() -> Result<Vec<f64>> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    text.split(' ').take(3).map(|word| word.parse().context("/proc/loadavg is not numbers")).collect()
}

/// The value of the first line `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().to_owned())
}

/// The mount with the longest path above `path`; of several at one place the last, which hides the others
/// (proc_pid_mountinfo(5): fields 5 and 6, then behind `-` type and source).
fn filesystem(mountinfo: &str, path: &Path) -> Option<Filesystem> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (place, options) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, source) = (right.next()?.to_owned(), right.next()?.to_owned());
        // The kernel writes blanks as \040.
        let place = place.replace("\\040", " ");
        path.starts_with(&place).then(|| (place.len(), Filesystem { kind, source, options: options.to_owned() }))
    });
    mounts.max_by_key(|(len, _)| *len).map(|(_, filesystem)| filesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_is_found() {
        let mountinfo = "\
            22 1 254:0 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
            23 22 0:5 / /dev/shm rw - tmpfs tmpfs rw\n\
            24 22 0:9 / /my\\040disk rw,relatime - xfs /dev/sdb rw\n";
        let kind = |path: &str| filesystem(mountinfo, Path::new(path)).unwrap().kind;
        assert_eq!(kind("/var/lib"), "ext4");
        assert_eq!(kind("/dev/shm/x"), "tmpfs");
        assert_eq!(kind("/dev/shmoo"), "ext4");
        assert_eq!(kind("/my disk/x"), "xfs");
        assert_eq!(filesystem("", Path::new("/")), None);
    }

    #[test]
    fn this_machine_can_be_described() {
        let machine = describe(Path::new("/")).unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20 && !machine.kernel.is_empty());
        assert_eq!(load_average().unwrap().len(), 3);
    }
}
