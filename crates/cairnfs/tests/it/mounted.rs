//! What programs see of a mount, and two mounts of each other. Needs root and /dev/fuse: where they are missing it says so
//! and passes, unless CAIRN_REQUIRE_FUSE is set, as on machines that are there for testing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, StatxFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::shell::Cluster;
use crate::shell::support::{eventually, send};

/// A cluster that can be mounted; `None` where nothing can.
fn cluster() -> Option<Cluster> {
    let can = rustix::process::geteuid().is_root() && File::options().read(true).write(true).open("/dev/fuse").is_ok();
    if can {
        return Some(Cluster::start());
    }
    assert!(std::env::var_os("CAIRN_REQUIRE_FUSE").is_none(), "mounting needs root and /dev/fuse");
    eprintln!("NOT RUN: mounting needs root and /dev/fuse");
    None
}

/// A mount with its process; both go when this is dropped.
struct Mount {
    dir: PathBuf,
    process: Child,
}

impl Mount {
    fn new(cluster: &Cluster, name: &str, options: &str) -> Self {
        let dir = cluster.path(name);
        fs::create_dir_all(&dir).unwrap();
        let mut command =
            cluster.command([OsStr::new("mount"), "-o".as_ref(), options.as_ref(), "-f".as_ref(), dir.as_ref()]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "ready\n");
        Self { dir, process }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.dir, rustix::mount::UnmountFlags::DETACH);
        send(self.process.id(), Signal::TERM);
        let _ = self.process.wait();
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn errno<T>(result: std::io::Result<T>) -> Option<Errno> {
    result.err().and_then(|error| Errno::from_io_error(&error))
}

#[test]
fn what_one_mount_does_the_other_sees() {
    let Some(cluster) = cluster() else { return };
    let (a, b) = (Mount::new(&cluster, "a", "allow_other"), Mount::new(&cluster, "b", "allow_other"));
    // Close to open, with what the kernel had read before.
    fs::write(a.path("f"), b"one").unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"one");
    fs::write(a.path("f"), b"another").unwrap();
    assert_eq!(fs::read(b.path("f")).unwrap(), b"another");
    // Who has it open is told, too.
    let mut open = File::open(b.path("f")).unwrap();
    let mut text = String::new();
    open.read_to_string(&mut text).unwrap();
    fs::write(a.path("f"), b"a third text").unwrap();
    eventually("the change reaches an open file", || {
        let mut text = String::new();
        open.seek(SeekFrom::Start(0)).unwrap();
        open.read_to_string(&mut text).unwrap();
        (text == "a third text").then_some(())
    });
    assert_eq!(open.metadata().unwrap().len(), 12);
    // Names.
    fs::rename(a.path("f"), a.path("g")).unwrap();
    eventually("the new name is seen", || (names(&b.dir) == BTreeSet::from(["g".to_owned()])).then_some(()));
    eventually("the old one is gone", || (!b.path("f").exists() && b.path("g").exists()).then_some(()));
    // Appends of both end up whole, one behind the other.
    let append = |mount: &Mount, who: char| {
        let mut log = OpenOptions::new().append(true).create(true).open(mount.path("log")).unwrap();
        (0..20).for_each(|index| log.write_all(format!("{who}{index:02}\n").as_bytes()).unwrap());
    };
    std::thread::scope(|scope| {
        scope.spawn(|| append(&a, 'a'));
        scope.spawn(|| append(&b, 'b'));
    });
    let log = fs::read_to_string(a.path("log")).unwrap();
    let lines: BTreeSet<&str> = log.lines().collect();
    assert_eq!((lines.len(), log.len()), (40, 160), "{log}");
}

#[test]
fn locks_hold_between_mounts_and_bring_content_along() {
    let Some(cluster) = cluster() else { return };
    let (a, b) = (Mount::new(&cluster, "a", "allow_other"), Mount::new(&cluster, "b", "allow_other"));
    let open =
        |mount: &Mount| File::options().read(true).write(true).create(true).truncate(false).open(mount.path("l"));
    let (on_a, on_b) = (open(&a).unwrap(), open(&b).unwrap());
    let (exclusive, none) = (FlockOperation::NonBlockingLockExclusive, FlockOperation::Unlock);
    rustix::fs::fcntl_lock(&on_a, exclusive).unwrap();
    assert!(matches!(rustix::fs::fcntl_lock(&on_b, exclusive), Err(Errno::AGAIN | Errno::ACCESS)));
    // The two kinds do not know each other.
    rustix::fs::flock(&on_b, exclusive).unwrap();
    assert_eq!(rustix::fs::flock(&on_a, exclusive), Err(Errno::AGAIN));
    let mut seen = [0; 4];
    assert_eq!(on_b.read_at(&mut seen, 0).unwrap(), 0);
    on_a.write_all_at(b"1234", 0).unwrap();
    rustix::fs::fcntl_lock(&on_a, none).unwrap();
    rustix::fs::fcntl_lock(&on_b, exclusive).unwrap();
    on_b.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"1234");
    // Closing gives back.
    drop(on_b);
    eventually("the lock is free", || rustix::fs::fcntl_lock(&on_a, exclusive).ok());
    rustix::fs::flock(&on_a, exclusive).unwrap();
}

#[test]
fn programs_find_what_linux_promises() {
    let Some(cluster) = cluster() else { return };
    let mount = Mount::new(&cluster, "a", "allow_other");
    let at = |name: &str| mount.path(name);
    // A file without a name gets one.
    let mut nameless =
        File::options().read(true).write(true).custom_flags(OFlags::TMPFILE.bits() as i32).open(&mount.dir).unwrap();
    nameless.write_all(b"text").unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&nameless));
    rustix::fs::linkat(CWD, link, CWD, at("named"), AtFlags::SYMLINK_FOLLOW).unwrap();
    drop(nameless);
    assert_eq!(fs::read(at("named")).unwrap(), b"text");
    // Its birth, and times before 1970.
    let told = rustix::fs::statx(CWD, at("named"), AtFlags::empty(), StatxFlags::BTIME).unwrap();
    assert!(told.stx_mask & StatxFlags::BTIME.bits() != 0 && told.stx_btime.tv_sec > 1_000_000_000);
    let past = Timespec { tv_sec: -5, tv_nsec: 7 };
    let times = Timestamps { last_access: past, last_modification: past };
    rustix::fs::utimensat(CWD, at("named"), &times, AtFlags::empty()).unwrap();
    let named = fs::metadata(at("named")).unwrap();
    assert_eq!((named.mtime(), named.mtime_nsec()), (-5, 7));
    // An open file outlives its name, and changes.
    let open = File::options().read(true).write(true).open(at("named")).unwrap();
    fs::remove_file(at("named")).unwrap();
    open.write_all_at(b"more", 4).unwrap();
    open.sync_all().unwrap();
    let mut all = [0; 8];
    open.read_exact_at(&mut all, 0).unwrap();
    assert_eq!((&all, open.metadata().unwrap().nlink()), (b"textmore", 0));
    // Holes.
    let sparse = File::options().read(true).write(true).create_new(true).open(at("sparse")).unwrap();
    sparse.write_all_at(b"end", 1 << 30).unwrap();
    assert!(sparse.metadata().unwrap().blocks() * 512 < 1 << 20);
    sparse.sync_all().unwrap();
    assert!(fs::metadata(at("sparse")).unwrap().blocks() * 512 < 1 << 20);
    let data = rustix::fs::seek(&sparse, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!(data > 0 && data <= 1 << 30, "data at {data}");
    // Links are counted, names exchanged, attributes kept.
    fs::create_dir_all(at("d/e")).unwrap();
    assert_eq!((fs::metadata(at("d")).unwrap().nlink(), fs::metadata(at("d/e")).unwrap().nlink()), (3, 2));
    assert_eq!(errno(fs::remove_dir(at("d"))), Some(Errno::NOTEMPTY));
    let noreplace = rustix::fs::renameat_with(CWD, at("sparse"), CWD, at("d"), RenameFlags::NOREPLACE);
    assert_eq!(noreplace, Err(Errno::EXIST));
    rustix::fs::renameat_with(CWD, at("sparse"), CWD, at("d"), RenameFlags::EXCHANGE).unwrap();
    assert!(at("sparse/e").is_dir() && at("d").is_file());
    rustix::fs::setxattr(at("d"), "user.k", b"value", XattrFlags::CREATE).unwrap();
    let mut room = [0_u8; 3];
    assert_eq!(rustix::fs::getxattr(at("d"), "user.k", &mut room[..]), Err(Errno::RANGE));
    rustix::fs::mknodat(CWD, at("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    assert!(std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(at("pipe")).unwrap().file_type()));
    // A listing ends, and tells what stays exactly once, while others change.
    let dir = at("many");
    fs::create_dir(&dir).unwrap();
    (0..200).for_each(|index| drop(File::create(dir.join(format!("stay{index:03}"))).unwrap()));
    let mut listed = Vec::new();
    for (index, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        listed.push(entry.unwrap().file_name().into_string().unwrap());
        let (old, new) = (dir.join(format!("move{index}")), dir.join(format!("move{}", index + 1)));
        match index {
            0 => drop(File::create(&new).unwrap()),
            _ => fs::rename(&old, &new).unwrap(),
        }
        assert!(index < 1000, "the listing does not end");
    }
    listed.retain(|name| name.starts_with("stay"));
    assert_eq!(listed.len(), 200);
    assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), 200);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_strict_mount_is_current_in_every_operation() {
    let Some(cluster) = cluster() else { return };
    let (a, b) = (Mount::new(&cluster, "a", "allow_other,strict"), Mount::new(&cluster, "b", "allow_other,strict"));
    let on_a = File::create(a.path("f")).unwrap();
    let on_b = File::open(b.path("f")).unwrap();
    for index in 0..20_u8 {
        on_a.write_all_at(&[index; 8], 0).unwrap();
        on_a.set_len(8 + u64::from(index)).unwrap();
        let mut seen = [0; 8];
        on_b.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!((seen, on_b.metadata().unwrap().len()), ([index; 8], 8 + u64::from(index)));
    }
    fs::rename(a.path("f"), a.path("g")).unwrap();
    assert!(b.path("g").exists() && !b.path("f").exists());
}

/// Who walks through a directory is answered from what was read ahead: whatever is done here is seen at once all the same.
#[test]
fn what_is_done_here_is_seen_at_once_on_a_walk() {
    let Some(cluster) = cluster() else { return };
    let (a, b) = (Mount::new(&cluster, "a", "allow_other"), Mount::new(&cluster, "b", "allow_other"));
    let strict = Mount::new(&cluster, "c", "allow_other,strict");
    let (dir, other) = (a.path("d"), b.path("d"));
    fs::create_dir(&dir).unwrap();
    let name = |index: u32| format!("f{index:03}");
    for index in 0..40 {
        fs::write(other.join(name(index)), b"x").unwrap();
    }
    let len = |index| fs::metadata(dir.join(name(index))).map(|metadata| metadata.len());
    // Walks that begin pages, each before a change.
    let walk = || (0..40).for_each(|index| drop(len(index)));
    walk();
    assert_eq!(errno(len(40)), Some(Errno::NOENT));
    fs::write(dir.join(name(40)), b"four").unwrap();
    assert_eq!(len(40).unwrap(), 4, "made");
    walk();
    fs::write(dir.join(name(11)), b"longer").unwrap();
    assert_eq!(len(11).unwrap(), 6, "written");
    let set = File::options().write(true).open(dir.join(name(12))).unwrap();
    set.set_len(100).unwrap();
    assert_eq!(len(12).unwrap(), 100, "cut");
    drop(set);
    assert_eq!(len(12).unwrap(), 100, "cut and closed");
    fs::set_permissions(dir.join(name(13)), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(dir.join(name(13))).unwrap().mode() & 0o777, 0o640);
    fs::remove_file(dir.join(name(14))).unwrap();
    assert_eq!(errno(len(14)), Some(Errno::NOENT), "removed");
    fs::rename(dir.join(name(11)), dir.join(name(15))).unwrap();
    assert_eq!((errno(len(11)), len(15).unwrap()), (Some(Errno::NOENT), 6), "renamed over another");
    fs::hard_link(dir.join(name(16)), dir.join("link")).unwrap();
    assert_eq!(fs::metadata(dir.join(name(16))).unwrap().nlink(), 2, "linked");
    fs::remove_file(dir.join("link")).unwrap();
    assert_eq!(fs::metadata(dir.join(name(16))).unwrap().nlink(), 1, "and no more");
    // The times of the directory are those that metadata has.
    for change in 0..20 {
        let before = fs::metadata(&dir).unwrap();
        match change % 2 {
            0 => fs::write(dir.join("new"), b"").unwrap(),
            _ => fs::remove_file(dir.join("new")).unwrap(),
        }
        let after = fs::metadata(&dir).unwrap();
        let times = |of: &fs::Metadata| (of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
        assert!(times(&after) > times(&before), "change {change} of a name");
        assert_eq!(times(&after), times(&fs::metadata(strict.path("d")).unwrap()), "change {change} of a name");
    }
    // What a directory is moved to is changed, too.
    let before = fs::metadata(&dir).unwrap();
    fs::rename(&dir, a.path("e")).unwrap();
    let after = fs::metadata(a.path("e")).unwrap();
    assert_eq!((after.ctime(), after.ctime_nsec()), {
        let told = fs::metadata(strict.path("e")).unwrap();
        (told.ctime(), told.ctime_nsec())
    });
    assert!((after.ctime(), after.ctime_nsec()) >= (before.ctime(), before.ctime_nsec()));
    fs::rename(a.path("e"), &dir).unwrap();
    // What others do is seen within a second.
    walk();
    fs::write(other.join(name(20)), b"of the other").unwrap();
    fs::remove_file(other.join(name(21))).unwrap();
    fs::write(other.join(name(50)), b"new").unwrap();
    eventually("the other's changes are seen", || {
        walk();
        let seen = len(20).unwrap() == 12 && len(21).is_err() && len(50).is_ok_and(|len| len == 3);
        seen.then_some(())
    });
}
