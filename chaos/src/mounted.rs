//! A mount of the cluster under load: files written through it as programs do, with what was synced remembered and held
//! against what is found at the end.

use crate::payload::{self, Mark};
use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes of a block that is written in place.
const BLOCK_LEN: usize = 64 * 1024;
/// Blocks of each writer's file.
const BLOCKS: u64 = 8;
/// Names that each writer gives to whole files, in turn.
const NAMES: u32 = 16;
/// How long a writer tries to open its file again when the mount was lost.
const REOPEN_MAX: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(20);
/// Errors that are listed.
const ERRORS_SHOWN: usize = 5;

/// A mount by `cairn mount`, taken away when it is dropped.
pub struct Mount {
    cairn: PathBuf,
    /// Where.
    pub dir: PathBuf,
}

/// Why this machine cannot mount, if it cannot.
pub fn cannot_mount() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("only root may mount everywhere".to_owned());
    }
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    device.err().map(|error| format!("/dev/fuse: {error}"))
}

impl Mount {
    /// Mounts; returns when the mount answers.
    ///
    /// # Errors
    /// What `cairn mount` said.
    pub fn new(cairn: &Path, meta: &str, dir: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let mut command = Command::new(cairn);
        command.args(["--meta", meta, "mount"]).arg(dir);
        if !options.is_empty() {
            command.args(["-o", options]);
        }
        run(&mut command)?;
        Ok(Self { cairn: cairn.to_owned(), dir: dir.to_owned() })
    }

    /// Unmounts; returns when everything is written.
    ///
    /// # Errors
    /// What `cairn umount` said.
    pub fn unmount(self) -> Result<()> {
        run(Command::new(&self.cairn).arg("umount").arg(&self.dir))
    }

    /// The process that serves it.
    pub fn server(&self) -> Option<u32> {
        let is_server = |words: &[u8]| {
            let mut words = words.split(|&byte| byte == 0);
            let dir = self.dir.as_os_str().as_encoded_bytes();
            words.clone().any(|word| word == dir) && words.any(|word| word == b"--stage=serve")
        };
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.find(|process: &u32| is_server(&fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()))
    }

    /// Whether it answers now.
    pub fn answers(&self) -> bool {
        rustix::fs::statvfs(&self.dir).is_ok() && self.lines() == 1
    }

    /// How often it is in the mount table.
    pub fn lines(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        table.lines().filter(|line| line.split(' ').nth(1) == self.dir.to_str()).count()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.lines() > 0 {
            // What is left then is told by the next run, which finds the directory in use.
            let _ = run(Command::new(&self.cairn).args(["umount", "--force"]).arg(&self.dir));
        }
        // Fails where it is still mounted, which it must not be removed through.
        let _ = fs::remove_dir(&self.dir);
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().context("starting cairn")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(())
}

/// What one writer was told.
#[derive(Default)]
struct Told {
    /// Last synced write of each block (0 = none), and the last one begun.
    blocks: BTreeMap<u64, (u32, u32)>,
    /// The same for each name.
    names: BTreeMap<u32, (u32, u32)>,
    ops: u64,
    failed: u64,
    wrong_bytes: u64,
    slowest: Duration,
    reopened: u64,
    errors: Vec<String>,
}

/// Writers at work.
pub struct Writers {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    told: Vec<Arc<Mutex<Told>>>,
    threads: Vec<JoinHandle<()>>,
}

/// What the writers were told, and whether it is so.
#[derive(Debug, Default, serde::Serialize)]
pub struct Findings {
    /// Operations: a write with its sync, a whole file with sync and rename, a read.
    pub ops: u64,
    /// Those that ended in an error.
    pub failed: u64,
    /// Bytes that a reader found to be others than it wrote.
    pub wrong_bytes: u64,
    /// Synced writes that were not found at the end.
    pub lost: u64,
    /// Times that a file had to be opened anew.
    pub reopened: u64,
    /// The slowest operation.
    pub max_ms: u64,
    /// Some of the errors.
    pub errors: Vec<String>,
}

/// Length of a whole file: from a part of a page to several blocks.
fn file_len(seq: u32) -> usize {
    [64, 4096, 20_480, 262_144][seq as usize % 4] + payload::LINE * (seq as usize % 7)
}

/// Numbers of writes of whole files lie apart from those of blocks.
fn name_mark(writer: u32, seq: u32) -> Mark {
    Mark { file: writer | 1 << 16, seq }
}

impl Writers {
    /// Begins.
    ///
    /// # Errors
    /// The first files cannot be made.
    pub fn start(dir: &Path, count: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut told, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let of_writer = Arc::new(Mutex::new(Told::default()));
            let writer = Writer { dir: dir.to_owned(), number, told: of_writer.clone(), file: None };
            let stop = stop.clone();
            threads.push(std::thread::Builder::new().spawn(move || writer.work(&stop))?);
            told.push(of_writer);
        }
        Ok(Self { dir: dir.to_owned(), stop, told, threads })
    }

    /// Operations that have ended.
    pub fn ops(&self) -> u64 {
        self.told.iter().map(|told| told.lock().ops).sum()
    }

    /// Ends them and waits for what is under way.
    ///
    /// # Errors
    /// A writer broke.
    pub fn stop(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                bail!("a writer broke");
            }
        }
        Ok(())
    }

    /// Reads everything back.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn verify(&self) -> Result<Findings> {
        let mut findings = Findings::default();
        for (number, told) in (0..).zip(&self.told) {
            let told = told.lock();
            findings.ops += told.ops;
            findings.failed += told.failed;
            findings.wrong_bytes += told.wrong_bytes;
            findings.reopened += told.reopened;
            findings.max_ms = findings.max_ms.max(told.slowest.as_millis() as u64);
            let room = ERRORS_SHOWN.saturating_sub(findings.errors.len());
            findings.errors.extend(told.errors.iter().take(room).cloned());
            let data = fs::read(self.dir.join(format!("data-{number}"))).context("reading back")?;
            for (block, (synced, begun)) in told.blocks.iter().filter(|(_, (synced, _))| *synced > 0) {
                let offset = block * BLOCK_LEN as u64;
                let found = data.get(offset as usize..offset as usize + BLOCK_LEN).unwrap_or_default();
                let is = |seq: u32| {
                    found.len() == BLOCK_LEN && payload::wrong_bytes(Mark { file: number, seq }, offset, found) == 0
                };
                findings.lost += u64::from(!(*synced..=*begun).any(is));
            }
            for (name, (synced, begun)) in told.names.iter().filter(|(_, (synced, _))| *synced > 0) {
                let found = fs::read(self.dir.join(format!("file-{number}-{name}"))).unwrap_or_default();
                let is = |seq: u32| {
                    found.len() == file_len(seq) && payload::wrong_bytes(name_mark(number, seq), 0, &found) == 0
                };
                findings.lost += u64::from(!(*synced..=*begun).any(is));
            }
        }
        Ok(findings)
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Writer {
    dir: PathBuf,
    number: u32,
    told: Arc<Mutex<Told>>,
    file: Option<File>,
}

impl Writer {
    fn work(mut self, stop: &AtomicBool) {
        let mut seq = 0;
        while !stop.load(Ordering::Relaxed) {
            seq += 1;
            let begun = Instant::now();
            let result = self.act(seq);
            let mut told = self.told.lock();
            told.ops += 1;
            told.slowest = told.slowest.max(begun.elapsed());
            if let Err(error) = result {
                told.failed += 1;
                let at = format!("writer {}, operation {seq}: {error}", self.number);
                if told.errors.len() < ERRORS_SHOWN {
                    told.errors.push(at);
                }
                drop(told);
                // The mount may be another one by now.
                self.file = None;
            }
        }
    }

    fn act(&mut self, seq: u32) -> io::Result<()> {
        let block = u64::from(seq.wrapping_mul(2_654_435_761) >> 8) % BLOCKS;
        match seq % 4 {
            0 => self.replace(seq),
            1 => self.look(block),
            _ => self.write(seq, block),
        }
    }

    fn open(&mut self) -> io::Result<&File> {
        if self.file.is_none() {
            let path = self.dir.join(format!("data-{}", self.number));
            let begun = Instant::now();
            let file = loop {
                match OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path) {
                    Ok(file) => break file,
                    Err(error) if begun.elapsed() > REOPEN_MAX => return Err(error),
                    Err(_) => std::thread::sleep(POLL),
                }
            };
            self.told.lock().reopened += 1;
            self.file = Some(file);
        }
        self.file.as_ref().ok_or_else(|| io::Error::other("it was just opened"))
    }

    fn write(&mut self, seq: u32, block: u64) -> io::Result<()> {
        let offset = block * BLOCK_LEN as u64;
        let bytes = payload::content(Mark { file: self.number, seq }, offset, BLOCK_LEN);
        let told = self.told.clone();
        let file = self.open()?;
        told.lock().blocks.entry(block).or_insert((0, seq)).1 = seq;
        file.write_all_at(&bytes, offset)?;
        file.sync_data()?;
        told.lock().blocks.insert(block, (seq, seq));
        Ok(())
    }

    fn look(&mut self, block: u64) -> io::Result<()> {
        let known = self.told.lock().blocks.get(&block).copied();
        let Some((synced, begun)) = known.filter(|(synced, _)| *synced > 0) else { return Ok(()) };
        let (number, offset) = (self.number, block * BLOCK_LEN as u64);
        let mut found = vec![0; BLOCK_LEN];
        self.open()?.read_exact_at(&mut found, offset)?;
        let wrong = |seq: u32| payload::wrong_bytes(Mark { file: number, seq }, offset, &found);
        let wrong = (synced..=begun).map(wrong).min().unwrap_or_default();
        self.told.lock().wrong_bytes += wrong;
        Ok(())
    }

    fn replace(&self, seq: u32) -> io::Result<()> {
        let name = seq / 4 % NAMES;
        let temporary = self.dir.join(format!("new-{}", self.number));
        self.told.lock().names.entry(name).or_insert((0, seq)).1 = seq;
        let mut file = File::create(&temporary)?;
        let bytes = payload::content(name_mark(self.number, seq), 0, file_len(seq));
        io::Write::write_all(&mut file, &bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, self.dir.join(format!("file-{}-{name}", self.number)))?;
        self.told.lock().names.insert(name, (seq, seq));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worked(dir: &Path) -> Writers {
        let mut writers = Writers::start(dir, 2).expect("starts");
        while writers.ops() < 200 {
            std::thread::sleep(POLL); // tidy: sleep-ok(polls threads that write files)
        }
        writers.stop().expect("stops");
        writers
    }

    #[test]
    fn a_sound_file_system_loses_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let findings = worked(dir.path()).verify().expect("can be read");
        assert!(findings.ops >= 200);
        assert_eq!((findings.failed, findings.wrong_bytes, findings.lost, findings.reopened), (0, 0, 0, 2));
    }

    #[test]
    fn what_is_lost_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let writers = worked(dir.path());
        let (data, file) = (dir.path().join("data-0"), dir.path().join("file-1-0"));
        let file_of = |path: &Path| OpenOptions::new().write(true).open(path).expect("is there");
        file_of(&data).write_all_at(b"x", 70_000).expect("can be written");
        file_of(&file).set_len(10).expect("can be cut");
        assert_eq!(writers.verify().expect("can be read").lost, 2);
    }
}
