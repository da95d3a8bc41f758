//! A small disk of its own for a node: a file, a loop device on it, ext4 on that. It can be filled up and it can fail.
//!
//! Needs root and the programs `mkfs.ext4` (e2fsprogs), `losetup` and `mount` (util-linux).

use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Below a node's directory, what is looked through for files whose cached pages shall go.
const DEPTH_MAX: usize = 4;

/// How long the last user of a file system may take to let go of it.
const BUSY_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// A mounted disk. Dropping it takes it apart.
pub struct LoopDisk {
    image: PathBuf,
    device: String,
    mounted: PathBuf,
}

/// Why such disks cannot be made here; `None` when they can.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("loop devices need root".to_owned());
    }
    let tool = |name: &&str| Command::new(name).arg("--version").output().is_err();
    let tools = ["losetup", "mount", "umount"].into_iter().find(tool).map(|name| format!("there is no {name}"));
    tools.or_else(|| Command::new("mkfs.ext4").arg("-V").output().is_err().then(|| "there is no mkfs.ext4".to_owned()))
}

fn run(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).output().with_context(|| format!("starting {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", args.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no text", path.display()))
}

impl LoopDisk {
    /// Makes one of `bytes` at `dir`, which is made, with its content in the new file `image`.
    ///
    /// # Errors
    /// Something is [`missing`], or one of the programs failed.
    pub fn mount(image: &Path, bytes: u64, dir: &Path) -> Result<Self> {
        let file = File::create_new(image).with_context(|| format!("making {}", image.display()))?;
        file.set_len(bytes)?;
        fs::create_dir(dir).with_context(|| format!("making {}", dir.display()))?;
        let image_name = text(image)?;
        // Nothing is left to be written by the kernel in the background, and nothing is kept for root alone.
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image_name])?;
        let device = run("losetup", &["--find", "--show", image_name])?;
        // From here on Drop takes it apart.
        let disk = Self { image: image.to_owned(), device, mounted: dir.to_owned() };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        let options = ["-t", "ext4", "-o", "errors=remount-ro", &self.device, text(&self.mounted)?];
        run("mount", &options).map(|_| ())
    }

    /// The machine loses power: what its programs wrote and did not sync is gone, and the file system comes back from its
    /// journal. The programs must be dead.
    ///
    /// The file system is told of an error, at which it stops all writing at once (`errors=remount-ro`, ext4(5), and
    /// `trigger_fs_error` in sysfs), and is then mounted anew.
    ///
    /// # Errors
    /// The kernel does not do that, or somebody still uses the file system.
    pub fn lose_power(&self) -> Result<()> {
        let name = self.device.trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{name}/trigger_fs_error");
        fs::write(&trigger, "power").with_context(|| format!("writing to {trigger}"))?;
        let begun = Instant::now();
        while let Err(error) = run("umount", &[text(&self.mounted)?]) {
            ensure!(begun.elapsed() < BUSY_MAX, "{error:#}");
            std::thread::sleep(POLL);
        }
        self.attach()
    }

    /// Free bytes.
    ///
    /// # Errors
    /// The file system does not answer.
    pub fn free(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.mounted).context("asking for free space")?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("of-somebody-else")
    }

    /// Lets a file of somebody else take all but about `left` bytes; how many it takes.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub fn fill(&self, left: u64) -> Result<u64> {
        let file = File::create(self.ballast()).context("filling a disk")?;
        let taken = self.free()?.saturating_sub(left);
        fallocate(&file, FallocateFlags::empty(), 0, taken).context("filling a disk")?;
        file.sync_all()?;
        Ok(taken)
    }

    /// Takes that file away again.
    ///
    /// # Errors
    /// It was not there.
    pub fn relieve(&self) -> Result<()> {
        fs::remove_file(self.ballast()).context("making room on a disk")
    }

    /// From now on every read and write of the device fails with EIO: it ends before its first byte. What the kernel
    /// keeps of its files in memory is dropped, so that reads find out.
    ///
    /// # Errors
    /// The device does not follow its file.
    pub fn fail(&self) -> Result<()> {
        let files = files_below(&self.mounted)?;
        // Only what is written back can be dropped.
        files.iter().try_for_each(File::sync_all).context("writing a disk back")?;
        let image = File::options().write(true).open(&self.image).context("opening the image of a disk")?;
        image.set_len(0)?;
        run("losetup", &["--set-capacity", &self.device])?;
        for file in files {
            // What became dirty meanwhile will meet the error when it is written back.
            let _ = fadvise(&file, 0, None, Advice::DontNeed);
        }
        Ok(())
    }
}

/// All files below a directory, open.
fn files_below(dir: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut left = vec![(dir.to_owned(), 0)];
    while let Some((path, depth)) = left.pop() {
        for entry in fs::read_dir(&path).with_context(|| format!("looking into {}", path.display()))? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() && depth < DEPTH_MAX => left.push((entry.path(), depth + 1)),
                kind if kind.is_file() => files.extend(File::open(entry.path())),
                _ => {}
            }
        }
    }
    Ok(files)
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A process that was killed a moment ago may still hold a file: the file system goes when it does.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted).output();
        let _ = Command::new("losetup").args(["--detach", &self.device]).output();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// A disk mounted at `disk` of the directory, with 8 KiB synced in its `file`.
    fn disk_with_a_file() -> (tempfile::TempDir, LoopDisk, File) {
        let dir = tempfile::tempdir().expect("a directory");
        let place = dir.path().join("disk");
        let disk = LoopDisk::mount(&dir.path().join("image"), 64 << 20, &place).expect("a disk");
        let file = File::create_new(place.join("file")).expect("takes a file");
        file.write_all_at(&[7; 8192], 0).expect("takes bytes");
        file.sync_all().expect("keeps them");
        (dir, disk, file)
    }

    #[test]
    fn what_was_not_synced_is_gone_with_the_power() {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return;
        }
        let (dir, disk, file) = disk_with_a_file();
        let place = dir.path().join("disk");
        File::open(&place).and_then(|dir| dir.sync_all()).expect("keeps their name");
        file.write_all_at(&[8; 8192], 8192).expect("takes more");
        fs::write(place.join("other"), [9; 8192]).expect("takes another");
        drop(file);
        disk.lose_power().expect("comes back");
        assert_eq!(fs::read(place.join("file")).expect("is there"), [7; 8192]);
        assert!(!place.join("other").exists());
        fs::write(place.join("other"), [9; 8192]).expect("takes files as before");
    }

    #[test]
    fn is_filled_relieved_and_fails() {
        if let Some(why) = missing() {
            println!("skipped: {why}");
            return;
        }
        let (_dir, disk, file) = disk_with_a_file();
        let free = disk.free().expect("says");
        disk.fill(8 << 20).expect("takes another");
        assert!(disk.free().expect("says") <= 9 << 20);
        disk.relieve().expect("lets go");
        assert!(disk.free().expect("says") > free - (1 << 20));

        disk.fail().expect("fails as told");
        let mut found = [0; 4096];
        let read = file.read_exact_at(&mut found, 0).expect_err("cannot be read");
        assert_eq!(read.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        // The page cache takes the bytes; the disk does not.
        let written = file.write_all_at(&[8; 4096], 4096).and_then(|()| file.sync_all());
        assert!(written.is_err());
        let device = disk.device.clone();
        drop((file, disk));
        let left = run("losetup", &["--list", "--noheadings", "--output", "NAME"]).expect("lists");
        assert!(!left.lines().any(|line| line.trim() == device), "{left}");
    }
}
