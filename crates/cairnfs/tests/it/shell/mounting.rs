//! What surrounds a mount: how it comes, how it goes, and what becomes of it when its server dies. Needs root and
//! /dev/fuse; says so and passes where they are missing.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::Signal;

use super::support::{Cluster, Done, cairn, eventually, runs, send};

/// A cluster and a directory to mount at. Whatever is mounted below goes when this is dropped.
struct Place {
    cluster: Cluster,
}

impl Place {
    /// `None` where nothing can be mounted.
    fn new() -> Option<Self> {
        let can =
            rustix::process::geteuid().is_root() && File::options().read(true).write(true).open("/dev/fuse").is_ok();
        if !can {
            eprintln!("NOT RUN: mounting needs root and /dev/fuse");
            return None;
        }
        let cluster = Cluster::start();
        Some(Self { cluster })
    }

    /// A directory of that name, made.
    fn dir(&self, name: &str) -> PathBuf {
        let dir = self.cluster.path(name);
        fs::create_dir_all(&dir).unwrap();
        fs::canonicalize(dir).unwrap()
    }

    fn mount(&self, dir: &Path, flags: &[&str]) -> Done {
        let args = ["mount"].into_iter().chain(flags.iter().copied()).chain([dir.to_str().unwrap()]);
        // Its processes live on, and must not hold our pipes: files instead.
        let (out, err) = (self.cluster.path("mount.out"), self.cluster.path("mount.err"));
        let mut command = self.cluster.command(args);
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let code = command.status().unwrap().code().unwrap_or(-1);
        Done { code, stdout: fs::read(out).unwrap(), stderr: fs::read_to_string(err).unwrap() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let root = fs::canonicalize(self.cluster.path(".")).unwrap();
        for (_, point) in mounts() {
            if point.starts_with(&root) {
                let _ = cairn().args(["umount", "--force"]).arg(&point).output();
            }
        }
        for (process, words) in processes() {
            if words.contains("mount") && words.contains(root.to_str().unwrap()) {
                send(process, Signal::KILL);
            }
        }
    }
}

/// Source and mount point of every CairnFS that is mounted.
fn mounts() -> Vec<(String, PathBuf)> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = table.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|line| line[2] == "fuse.cairn");
    ours.map(|line| (line[0].to_owned(), PathBuf::from(line[1]))).collect()
}

fn mounted_at(dir: &Path) -> Vec<String> {
    mounts().into_iter().filter(|(_, point)| point == dir).map(|(source, _)| source).collect()
}

/// Processes with their command lines.
fn processes() -> Vec<(u32, String)> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let words = |process: &u32| fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
    numbers.map(|process| (process, words(&process).replace('\0', " "))).collect()
}

/// Processes of the mount at `dir`, in this stage.
fn stage(dir: &Path, stage: &str) -> Vec<u32> {
    let words = [format!("--stage={stage}"), dir.to_str().unwrap().to_owned()];
    let of_mount = |line: &String| words.iter().all(|word| line.split(' ').any(|known| known == word));
    processes()
        .into_iter()
        .filter(|(process, line)| of_mount(line) && runs(*process))
        .map(|(process, _)| process)
        .collect()
}

#[track_caller]
fn server(dir: &Path) -> u32 {
    let found = stage(dir, "serve");
    assert_eq!(found.len(), 1, "{found:?}");
    found[0]
}

#[track_caller]
fn nothing_is_left(dir: &Path) {
    assert_eq!(mounted_at(dir), [""; 0]);
    eventually("the processes have ended", || {
        (stage(dir, "serve").is_empty() && stage(dir, "supervise").is_empty()).then_some(())
    });
    assert!(fs::read_dir(dir).is_ok(), "the directory can be used");
}

#[test]
fn a_mount_comes_to_the_background_and_goes_with_all_that_was_written() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    assert_eq!(place.mount(&dir, &[]).quiet(), "");
    assert_eq!(mounted_at(&dir).len(), 1);
    fs::write(dir.join("f"), b"through the mount").unwrap();
    assert_eq!(place.cluster.run(["cat", "/f"]).quiet(), "through the mount");
    // Not synced, and large enough to be under way when it is unmounted.
    fs::write(dir.join("big"), vec![7; 9_000_000]).unwrap();
    cairn().arg("umount").arg(&dir).output().map(Done::from).unwrap().quiet();
    nothing_is_left(&dir);
    assert_eq!(place.cluster.run(["cat", "/big"]).stdout, vec![7; 9_000_000]);
    cairn().arg("umount").arg(&dir).output().map(Done::from).unwrap().fails(1, &["no CairnFS is mounted there"]);
}

#[test]
fn umount_and_signals_end_it_too() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    place.mount(&dir, &[]).quiet();
    fs::write(dir.join("a"), b"a").unwrap();
    assert!(Command::new("umount").arg(&dir).status().unwrap().success());
    nothing_is_left(&dir);
    for signal in [Signal::TERM, Signal::INT] {
        for who in ["supervise", "serve"] {
            place.mount(&dir, &[]).quiet();
            fs::write(dir.join("b"), format!("{signal:?} {who}")).unwrap();
            send(stage(&dir, who)[0], signal);
            eventually("it is unmounted", || mounted_at(&dir).is_empty().then_some(()));
            nothing_is_left(&dir);
            assert_eq!(place.cluster.run(["cat", "/b"]).quiet(), format!("{signal:?} {who}"));
        }
    }
}

#[test]
fn who_uses_a_mount_is_named_and_not_disturbed() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    place.mount(&dir, &[]).quiet();
    fs::write(dir.join("f"), b"content").unwrap();
    let mut user = Command::new("sleep").arg("1000").current_dir(&dir).spawn().unwrap();
    let umount = |flags: &[&str]| -> Done { cairn().arg("umount").args(flags).arg(&dir).output().unwrap().into() };
    eventually("it is inside", || (fs::read_link(format!("/proc/{}/cwd", user.id())).ok()? == dir).then_some(()));
    umount(&[]).fails(1, &["is in use by", "sleep", &user.id().to_string(), "-l"]);
    let mut open = File::open(dir.join("f")).unwrap();
    umount(&["-l"]).quiet();
    assert_eq!(mounted_at(&dir), [""; 0]);
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "content", "who was inside goes on");
    drop(open);
    user.kill().unwrap();
    user.wait().unwrap();
    nothing_is_left(&dir);
}

#[test]
fn a_server_that_is_killed_is_replaced_and_nothing_synced_is_lost() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    place.mount(&dir, &[]).quiet();
    for round in 0..3 {
        let path = dir.join(format!("f{round}"));
        let mut file = File::create(&path).unwrap();
        file.write_all(format!("round {round}").as_bytes()).unwrap();
        file.sync_all().unwrap();
        let killed = server(&dir);
        send(killed, Signal::KILL);
        eventually("another one serves", || {
            fs::read_to_string(&path).ok().filter(|_| server_or_none(&dir) != Some(killed))
        });
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("round {round}"));
        assert_eq!(mounted_at(&dir).len(), 1, "no dead mount below");
        assert!(file.sync_all().is_err(), "whoever had a file open is told");
    }
    // With its supervisor killed, it goes on to serve.
    let supervisor = stage(&dir, "supervise")[0];
    send(supervisor, Signal::KILL);
    eventually("it is gone", || (!runs(supervisor)).then_some(()));
    assert_eq!(fs::read_to_string(dir.join("f0")).unwrap(), "round 0");
    // With both killed, a new mount takes the dead one's place.
    send(server(&dir), Signal::KILL);
    eventually("the mount is dead", || fs::read_to_string(dir.join("f0")).is_err().then_some(()));
    place.mount(&dir, &[]).quiet();
    assert_eq!(mounted_at(&dir).len(), 1);
    assert_eq!(fs::read_to_string(dir.join("f2")).unwrap(), "round 2");
    cairn().arg("umount").arg(&dir).output().map(Done::from).unwrap().quiet();
    nothing_is_left(&dir);
}

fn server_or_none(dir: &Path) -> Option<u32> {
    stage(dir, "serve").first().copied()
}

#[test]
fn what_cannot_be_mounted_is_told_and_leaves_nothing() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    place.mount(&place.cluster.path("missing"), &[]).fails(1, &["missing", "no such directory"]);
    fs::write(place.cluster.path("file"), b"").unwrap();
    place.mount(&place.cluster.path("file"), &[]).fails(1, &["file", "not a directory"]);
    place.mount(&dir, &["-o", "nonsense"]).fails(1, &["nonsense"]);
    place.mount(&dir, &["--subdir", "/not/there"]).fails(1, &["/not/there", "no such file or directory"]); // tidy: word-ok(its name)
    nothing_is_left(&dir);
    // A directory that is not empty may be mounted over, as everywhere.
    fs::write(dir.join("below"), b"").unwrap();
    place.mount(&dir, &[]).quiet();
    assert!(!dir.join("below").exists());
    place.mount(&dir, &[]).fails(1, &["is mounted there already", "cairn umount"]);
    assert_eq!(mounted_at(&dir).len(), 1);
    cairn().arg("umount").arg(&dir).output().map(Done::from).unwrap().quiet();
    assert!(dir.join("below").exists());
    nothing_is_left(&dir);
}

#[test]
fn a_cluster_that_is_not_there_and_a_machine_without_fuse_are_told() {
    let Some(mut place) = Place::new() else { return };
    let dir = place.dir("mnt");
    // A mount namespace of its own, in which /dev/fuse is something else, or not ours to open.
    let words = format!(
        "mount -t tmpfs none /dev && touch /dev/null && exec {} mount {}",
        env!("CARGO_BIN_EXE_cairn"),
        dir.display()
    );
    let run = |words: &str| -> Done {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", words])
            .env("CAIRN_META", place.cluster.meta())
            .env("CAIRN_CONFIG", "/dev/null");
        command.stdin(Stdio::piped()).output().unwrap().into()
    };
    run(&words).fails(1, &["/dev/fuse"]);
    nothing_is_left(&dir);
    place.cluster.end_up(Signal::TERM);
    place.mount(&dir, &[]).fails(1, &["is the cluster up?"]);
    nothing_is_left(&dir);
}

#[test]
fn users_who_may_not_mount_are_told_so() {
    let Some(place) = Place::new() else { return };
    let dir = place.dir("mnt");
    let mut command = place.cluster.command(["mount", dir.to_str().unwrap()]);
    // Nobody may enter the scratch directory of the test, nor mount at what belongs to root.
    let done: Done = command.uid(65534).gid(65534).env("XDG_RUNTIME_DIR", "/tmp").output().unwrap().into();
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.to_lowercase().contains("permi"), "{done:?}");
    nothing_is_left(&dir);
}

#[test]
fn mount_finds_its_helper() {
    let Some(place) = Place::new() else { return };
    place.cluster.run(["mkdir", "-p", "/a/b", "/c"]).quiet();
    let helper = place.cluster.path("mount.fuse.cairn");
    symlink(env!("CARGO_BIN_EXE_cairn"), &helper).unwrap();
    let (one, two) = (place.dir("one"), place.dir("two"));
    let mount = |source: &str, dir: &Path, options: &[&str]| -> Done {
        let (out, err) = (place.cluster.path("helper.out"), place.cluster.path("helper.err"));
        let mut command = Command::new(&helper);
        command.env("CAIRN_CONFIG", "/dev/null").arg(source).arg(dir).args(options).stdin(Stdio::null());
        command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let code = command.status().unwrap().code().unwrap_or(-1);
        Done { code, stdout: fs::read(out).unwrap(), stderr: fs::read_to_string(err).unwrap() }
    };
    let (first, second) = (format!("{}/a/b", place.cluster.meta()), format!("{},{0}/c", place.cluster.meta()));
    mount(&first, &one, &["-o", "rw,noatime,nofail,_netdev,cache_memory=16MiB"]).quiet();
    mount(&second, &two, &[]).quiet();
    assert_eq!(mounted_at(&one), [first.as_str()], "to the letter");
    assert_eq!(mounted_at(&two), [second.as_str()]);
    fs::write(one.join("f"), b"x").unwrap();
    assert!(!two.join("f").exists());
    assert_eq!(place.cluster.run(["cat", "/a/b/f"]).quiet(), "x");
    let df = Command::new("df").arg("-T").arg(&one).output().map(Done::from).unwrap().quiet();
    assert!(df.contains("fuse.cairn"), "{df}");
    mount(&first, &one, &[]).fails(1, &["is mounted there already"]);
    mount("127.0.0.1:x", &two, &[]).fails(2, &["no address of a metadata server", "usage: mount.fuse.cairn"]);
    for dir in [&one, &two] {
        assert!(Command::new("umount").arg(dir).status().unwrap().success());
        nothing_is_left(dir);
    }
}
