//! The mount table of this process's namespace.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// How the kernel calls our mounts.
pub const KIND: &str = "fuse.cairn";

/// A line of /proc/self/mountinfo, as far as we look at it (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    /// Number of the device; of a FUSE mount also the number of its connection.
    pub minor: u32,
    /// Where.
    pub point: PathBuf,
    /// Type of the file system.
    pub kind: String,
    /// What is mounted.
    pub source: OsString,
}

impl Mounted {
    /// Whether it is one of ours.
    pub fn is_ours(&self) -> bool {
        self.kind == KIND
    }

    /// Where the connection of a FUSE mount can be aborted.
    pub fn abort_file(&self) -> PathBuf {
        PathBuf::from(format!("/sys/fs/fuse/connections/{}/abort", self.minor))
    }
}

/// What is mounted at a path, on top if there are several. The path is absolute and free of links.
///
/// # Errors
/// /proc cannot be read.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(parse(&fs::read("/proc/self/mountinfo")?).into_iter().rfind(|mounted| mounted.point == path))
}

fn parse(table: &[u8]) -> Vec<Mounted> {
    table.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut words = line.split(|&byte| byte == b' ');
    let device = words.nth(2)?;
    let point = words.nth(1)?;
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let (kind, source) = (words.next()?, words.next()?);
    let minor = std::str::from_utf8(device).ok()?.split_once(':')?.1.parse().ok()?;
    let kind = String::from_utf8_lossy(kind).into_owned();
    Some(Mounted { minor, point: PathBuf::from(unescape(point)), kind, source: unescape(source) })
}

/// Spaces, tabs, line ends and backslashes are written in octal.
fn unescape(word: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|digit| matches!(digit, b'0'..=b'7')));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(value as u8);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// An absolute path without links, found without touching what is mounted there: a dead mount cannot be asked.
///
/// # Errors
/// What leads there is not there.
pub fn mount_point(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else { return Ok(absolute) };
    let beside = fs::canonicalize(parent)?.join(name);
    if mounted_at(&beside)?.is_some() {
        return Ok(beside);
    }
    fs::canonicalize(&beside)
}

/// A name for files about a mount: its path with what cannot be in a name written otherwise.
pub fn file_name(point: &Path) -> OsString {
    let mut name = Vec::new();
    for byte in point.as_os_str().as_bytes().iter().skip(1) {
        match byte {
            b'/' => name.push(b'-'),
            b'-' | b'%' => name.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            byte => name.push(*byte),
        }
    }
    // A file's name ends at 255 bytes; a long one keeps its end, which tells mounts apart better.
    let cut = name.len().saturating_sub(200);
    OsStr::from_bytes(&name[cut..]).to_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let table = b"36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 - ext3 /dev/root rw\n\
            40 36 0:57 / /mnt/\\134x rw,nosuid,nodev shared:1 master:2 - fuse.cairn 127.0.0.1:9000/a\\011b rw,user_id=0\n\
            nonsense\n";
        let parsed = parse(table);
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].point.as_path(), parsed[0].is_ours()), (Path::new("/mnt/a b"), false));
        let ours = Mounted {
            minor: 57,
            point: PathBuf::from("/mnt/\\x"),
            kind: KIND.to_owned(),
            source: OsString::from("127.0.0.1:9000/a\tb"),
        };
        assert_eq!(parsed[1], ours);
        assert!(ours.is_ours());
        assert_eq!(ours.abort_file(), Path::new("/sys/fs/fuse/connections/57/abort"));
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
        assert_eq!(mounted_at(Path::new("/no/such/mount")).unwrap(), None);
    }

    #[test]
    fn names_of_mounts_stay_apart() {
        assert_eq!(file_name(Path::new("/mnt/a-b")), "mnt-a%2db");
        assert_ne!(file_name(Path::new("/mnt/a-b")), file_name(Path::new("/mnt/a/b")));
        assert!(file_name(Path::new(&format!("/{}", "x".repeat(1000)))).len() <= 200);
    }

    #[test]
    fn links_are_followed_up_to_the_mount_point() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(dir.join("real")).unwrap();
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).unwrap();
        assert_eq!(mount_point(&dir.join("link")).unwrap(), dir.join("real"));
        assert_eq!(mount_point(&dir.join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
