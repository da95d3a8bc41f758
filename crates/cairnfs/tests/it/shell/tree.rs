//! Trees of files: made from a seed, and compared.

use std::{
    ffi::OsStr,
    fs::{self, File, FileTimes},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

/// Bytes that compress badly and are the same every time.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

fn file(path: &Path, content: &[u8], mode: u32, mtime: Duration) {
    fs::write(path, content).unwrap();
    finish(path, mode, mtime);
}

fn finish(path: &Path, mode: u32, mtime: Duration) {
    File::open(path).unwrap().set_times(FileTimes::new().set_modified(UNIX_EPOCH + mtime)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A tree with something of everything: files of all sizes, modes and times, empty ones, odd names, links of all sorts,
/// a deep and an empty directory.
pub fn make_everything(root: &Path) {
    let at = |name: &str| root.join(name);
    let time = |seconds| Duration::new(seconds, 123_456_789);
    fs::create_dir_all(at("a/deep/er/and/deeper")).unwrap();
    fs::create_dir(at("empty directory")).unwrap();
    fs::create_dir(at("modes")).unwrap();
    for (index, len) in
        [0, 1, 4095, 4096, 4097, 65_536, 65_537, 1_000_000, 4 << 20, (4 << 20) + 1, 20 << 20].into_iter().enumerate()
    {
        file(&at(&format!("len-{len}")), &noise(index as u64, len), 0o644, time(1_000_000_000 + index as u64));
    }
    for mode in [0o400, 0o600, 0o755, 0o4755, 0o2711, 0o1644] {
        file(&at(&format!("modes/{mode:o}")), b"x", mode, time(u64::from(mode)));
    }
    file(&at("a/deep/er/and/deeper/file"), b"deep", 0o640, time(5));
    for name in [
        &b"with space"[..],
        b"new\nline",
        b"not utf-8 \xff\xfe",
        "ünï → ☃".as_bytes(),
        b"-dash",
        b"*?[",
        b"back\\slash",
    ] {
        file(&root.join(OsStr::from_bytes(name)), name, 0o644, time(7));
    }
    file(&at(&"n".repeat(255)), b"long name", 0o644, time(8));
    let sparse = File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"end", (9 << 20) + 17).unwrap();
    drop(sparse);
    finish(&at("sparse"), 0o644, time(9));
    for (name, target) in [("to file", "len-4096"), ("to directory", "a/deep"), ("to nothing", "no/such"), ("up", "..")]
    {
        symlink(target, at(name)).unwrap();
    }
    symlink("/etc", at("absolute")).unwrap();
    for index in 0..300_u64 {
        let dir = at(&format!("many/{}", index % 17));
        fs::create_dir_all(&dir).unwrap();
        file(&dir.join(format!("{index}")), &noise(index, (index * 37 % 9000) as usize), 0o644, time(index));
    }
    for (dir, mode) in [("a/deep", 0o750), ("empty directory", 0o700), ("many/3", 0o1777), ("modes", 0o555)] {
        finish(&at(dir), mode, time(u64::from(mode)));
    }
    finish(root, 0o755, time(11));
}

/// How two trees differ, in words; empty when they are the same. Compares kinds, modes, times of modification, contents
/// and targets of links.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let (a, b) = (a.join(&path), b.join(&path));
        let (Ok(in_a), Ok(in_b)) = (fs::symlink_metadata(&a), fs::symlink_metadata(&b)) else {
            found.push(format!("{path:?} is on one side only"));
            continue;
        };
        let facts = |metadata: &fs::Metadata| (metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
        if facts(&in_a) != facts(&in_b) {
            found.push(format!("{path:?}: mode, time {:?} and {:?}", facts(&in_a), facts(&in_b)));
        }
        if in_a.file_type() != in_b.file_type() {
            continue;
        }
        if in_a.is_symlink() {
            if fs::read_link(&a).unwrap() != fs::read_link(&b).unwrap() {
                found.push(format!("{path:?}: targets"));
            }
        } else if in_a.is_file() {
            if in_a.len() != in_b.len() || fs::read(&a).unwrap() != fs::read(&b).unwrap() {
                found.push(format!("{path:?}: contents"));
            }
        } else {
            let names = |dir: &Path| -> std::collections::BTreeSet<_> {
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
            };
            waiting.extend(names(&a).union(&names(&b)).map(|name| path.join(name)));
        }
    }
    found
}
