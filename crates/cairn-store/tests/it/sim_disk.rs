//! A disk in memory that loses, tears and reorders what was not synced when it crashes, fills up, and fails on demand.

use cairn_store::{Disk, DiskFile, DiskSpace, OsFile};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

const SECTOR: usize = 512;
const PAGE: usize = 4096;

/// Content as a reader sees it, and as it would be found after a power failure.
#[derive(Default)]
struct Inode {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Changes of content that are in the cache only, oldest first.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
    Punch { offset: usize, len: usize },
}

enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names that are in the cache only, with the directory, oldest first.
    pending_names: Vec<NameChange>,
    /// Handles of an earlier life are dead.
    life: u64,
    capacity: Option<u64>,
    faults: Faults,
    counts: Counts,
}

/// What goes wrong next.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Syncs of files that succeed before the next one fails, losing what it should have written.
    pub fail_sync_after: Option<u64>,
    /// Writes that succeed before the next one fails.
    pub fail_write_after: Option<u64>,
    /// Writes to this file fail.
    pub fail_writes_of: Option<String>,
    /// Reads of this file fail.
    pub fail_reads_of: Option<String>,
    /// Reads that touch this byte of this file fail.
    pub bad_sector: Option<(String, u64)>,
    /// Changes of names (remove, rename, sync of a directory) that succeed before the next one fails.
    pub fail_name_after: Option<u64>,
    /// A write takes at most this many bytes.
    pub short_writes: Option<usize>,
    /// Bytes that can still be written before the disk is full, whatever it says about its space.
    pub full_after: Option<usize>,
    /// Changes that still reach the disk or its cache before power fails; everything fails from then on.
    pub power_for: Option<u64>,
}

/// Calls since the disk was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub writes: u64,
    pub syncs: u64,
}

/// Clones are the same disk.
#[derive(Clone, Default)]
pub struct SimDisk(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    synced: Condvar,
}

/// The disk as one process sees it, until that process dies.
struct Mount {
    disk: SimDisk,
    life: u64,
}

struct SimFile {
    disk: SimDisk,
    inode: usize,
    life: u64,
    name: String,
}

impl SimDisk {
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    /// Waits until more than `before` syncs were made; a broken store is given up after a minute.
    pub fn await_sync(&self, before: u64) {
        let few = |state: &mut State| state.counts.syncs <= before;
        let (state, waited) = self.0.synced.wait_timeout_while(self.state(), Duration::from_secs(60), few).unwrap();
        drop(state);
        assert!(!waited.timed_out(), "nothing was synced");
    }

    /// What a new process sees; it dies with the next [`SimDisk::kill`] or [`SimDisk::crash`].
    pub fn mount(&self) -> Arc<dyn Disk> {
        Arc::new(Mount { disk: self.clone(), life: self.state().life })
    }

    /// Another disk with the same files.
    pub fn duplicate(&self) -> Arc<Self> {
        let copy = Self::new();
        for name in self.names() {
            copy.plant(&name, self.contents(&name).unwrap());
        }
        copy
    }

    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Kills the process: handles die, the cache stays.
    pub fn kill(&self) {
        self.state().life += 1;
    }

    /// Power fails and nothing that was not synced reaches the disk.
    pub fn lose_power(&self) {
        let mut state = self.state();
        state.life += 1;
        state.faults = Faults::default();
        state.pending_names.clear();
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            inode.pending.clear();
            inode.cached = inode.durable.clone();
        }
    }

    /// Power fails: of what was not synced, any sectors of any writes reach the disk, and a prefix of the name changes.
    pub fn crash(&self, rng: &mut fastrand::Rng) {
        let mut state = self.state();
        state.life += 1;
        state.faults = Faults::default();
        let kept = rng.usize(..=state.pending_names.len());
        let changes: Vec<_> = std::mem::take(&mut state.pending_names).into_iter().take(kept).collect();
        for change in changes {
            apply_name(&mut state.durable_names, &change);
        }
        state.names = state.durable_names.clone();
        for inode in &mut state.inodes {
            // Some crashes lose everything, some nothing, most tear.
            let chance = [0.0, 0.5, 0.9, 1.0][rng.usize(..4)];
            for change in std::mem::take(&mut inode.pending) {
                apply_torn(&mut inode.durable, &change, chance, rng);
            }
            inode.cached = inode.durable.clone();
        }
    }

    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|inode| state.inodes[*inode].cached.clone())
    }

    /// Changes a file behind the store's back, cache and disk alike.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.inodes[inode];
        change(&mut inode.cached);
        inode.durable = inode.cached.clone();
        inode.pending.clear();
    }

    /// Changes what the disk has of a file; the page cache goes on showing what was written.
    pub fn rot(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        change(&mut state.inodes[inode].durable);
    }

    /// Removes a file behind the store's back.
    pub fn vanish(&self, name: &str) {
        let mut state = self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
    }

    /// Puts a file there behind the store's back.
    pub fn plant(&self, name: &str, content: Vec<u8>) {
        let mut state = self.state();
        let inode = Inode { cached: content.clone(), durable: content, pending: Vec::new() };
        state.inodes.push(inode);
        let number = state.inodes.len() - 1;
        state.names.insert(name.into(), number);
        state.durable_names.insert(name.into(), number);
    }

    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Segment files that exist.
    pub fn segments(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".seg")).collect()
    }

    /// Files of removed segments that wait to be used again.
    pub fn recycled(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.ends_with(".free")).collect()
    }

    /// Bytes of files that take space, holes left out.
    pub fn allocated(&self) -> u64 {
        let state = self.state();
        state.names.values().map(|inode| allocated(&state.inodes[*inode].cached)).sum()
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

fn apply_name(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        NameChange::Unlink(name) => {
            names.remove(name);
        }
        NameChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn punch(content: &mut [u8], offset: usize, len: usize) {
    let end = content.len().min(offset + len);
    if offset < end {
        content[offset..end].fill(0);
    }
}

fn apply_torn(content: &mut Vec<u8>, change: &Change, chance: f64, rng: &mut fastrand::Rng) {
    match change {
        Change::Write { offset, bytes } => {
            for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                if rng.f64() < chance {
                    write(content, offset + index * SECTOR, sector);
                }
            }
        }
        Change::SetLen(len) if rng.f64() < chance => content.resize(*len, 0),
        Change::Punch { offset, len } if rng.f64() < chance => punch(content, *offset, *len),
        _ => {}
    }
}

fn allocated(content: &[u8]) -> u64 {
    content.chunks(PAGE).filter(|page| page.iter().any(|byte| *byte != 0)).count() as u64 * PAGE as u64
}

impl State {
    /// Fails every change once the power is gone.
    fn powered(&mut self) -> io::Result<()> {
        match &mut self.faults.power_for {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("handle of a former life")
}

impl Mount {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.life == self.life { Ok(state) } else { Err(dead()) }
    }
}

impl Disk for Mount {
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state()?;
        state.powered()?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.names.insert(name.into(), inode);
        state.pending_names.push(NameChange::Link(name.into(), inode));
        Ok(Arc::new(SimFile { disk: self.disk.clone(), inode, life: state.life, name: name.into() }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state()?;
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.disk.clone(), inode, life: state.life, name: name.into() }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let state = self.state()?;
        let inside = state.names.keys().filter(|name| parent(name) == dir);
        Ok(inside.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state()?;
        state.powered()?;
        state.name_change()?;
        state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push(NameChange::Unlink(name.into()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state()?;
        state.powered()?;
        state.name_change()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), inode);
        state.pending_names.push(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut state = self.state()?;
        state.powered()?;
        state.name_change()?;
        let (here, elsewhere) = std::mem::take(&mut state.pending_names).into_iter().partition(|change| match change {
            NameChange::Link(name, _) | NameChange::Unlink(name) | NameChange::Rename(name, _) => parent(name) == dir,
        });
        state.pending_names = elsewhere;
        let here: Vec<NameChange> = here;
        for change in here {
            apply_name(&mut state.durable_names, &change);
        }
        Ok(())
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let state = self.state()?;
        let Some(total) = state.capacity else { return Ok(DiskSpace { total: 1 << 40, available: 1 << 40 }) };
        let used: u64 = state.names.values().map(|inode| allocated(&state.inodes[*inode].cached)).sum();
        Ok(DiskSpace { total, available: total.saturating_sub(used) })
    }
}

impl SimFile {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life == self.life { work(&mut state) } else { Err(dead()) }
    }
}

impl State {
    fn name_change(&mut self) -> io::Result<()> {
        if strikes(&mut self.faults.fail_name_after) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

/// True when a counted-down fault strikes now.
fn strikes(fault: &mut Option<u64>) -> bool {
    match fault {
        Some(0) => {
            *fault = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.with(|state| {
            state.powered()?;
            state.counts.writes += 1;
            let refused = state.faults.fail_writes_of.as_ref() == Some(&self.name);
            if refused || strikes(&mut state.faults.fail_write_after) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let mut bytes = Vec::new();
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            bytes.truncate(state.faults.short_writes.unwrap_or(usize::MAX));
            if let Some(capacity) = state.capacity {
                let used: u64 = state.names.values().map(|inode| allocated(&state.inodes[*inode].cached)).sum();
                bytes.truncate(capacity.saturating_sub(used) as usize);
                if bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            if let Some(left) = &mut state.faults.full_after {
                bytes.truncate(*left);
                *left -= bytes.len();
                if bytes.is_empty() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
            }
            let inode = &mut state.inodes[self.inode];
            write(&mut inode.cached, offset as usize, &bytes);
            let taken = bytes.len();
            inode.pending.push(Change::Write { offset: offset as usize, bytes });
            Ok(taken)
        })
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            if state.faults.fail_reads_of.as_deref() == Some(&self.name) {
                return Err(io::Error::from_raw_os_error(5));
            }
            let end = offset + buffer.len() as u64;
            if state
                .faults
                .bad_sector
                .as_ref()
                .is_some_and(|(name, at)| *name == self.name && (offset..end).contains(at))
            {
                return Err(io::Error::from_raw_os_error(5));
            }
            let content = &state.inodes[self.inode].cached;
            let from = content.len().min(offset as usize);
            let read = buffer.len().min(content.len() - from);
            buffer[..read].copy_from_slice(&content[from..from + read]);
            Ok(read)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            state.powered()?;
            state.counts.syncs += 1;
            self.disk.0.synced.notify_all();
            let failed = strikes(&mut state.faults.fail_sync_after);
            let inode = &mut state.inodes[self.inode];
            if failed {
                // As Linux does: the pages are marked clean, the cache goes on showing what the disk does not have.
                inode.pending.clear();
                return Err(io::Error::from_raw_os_error(5));
            }
            for change in std::mem::take(&mut inode.pending) {
                match change {
                    Change::Write { offset, bytes } => write(&mut inode.durable, offset, &bytes),
                    Change::SetLen(len) => inode.durable.resize(len, 0),
                    Change::Punch { offset, len } => punch(&mut inode.durable, offset, len),
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.inodes[self.inode].cached.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.powered()?;
            let inode = &mut state.inodes[self.inode];
            inode.cached.resize(len as usize, 0);
            inode.pending.push(Change::SetLen(len as usize));
            Ok(())
        })
    }

    fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.powered()?;
            let inode = &mut state.inodes[self.inode];
            punch(&mut inode.cached, offset as usize, len as usize);
            inode.pending.push(Change::Punch { offset: offset as usize, len: len as usize });
            Ok(())
        })
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.with(|state| {
            let inode = &mut state.inodes[self.inode];
            if inode.pending.is_empty() {
                inode.cached = inode.durable.clone();
            }
            Ok(())
        })
    }

    fn os_file(&self) -> Option<OsFile> {
        None
    }
}
