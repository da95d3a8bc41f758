//! Looking ahead: whoever looks at one name of a directory after another soon looks at the next. After a few such lookups a
//! page of the directory is read at once, and those that follow are answered from it, also that there is nothing: for as
//! long as the kernel would believe what it was told when the page was read.
//!
//! Attributes of directories are kept, too, because the kernel asks for them again after every name that is made or removed
//! here: what that changes about them is known.
//!
//! What this mount changes, or hears to have been changed, is *touched*: pages that were asked for before say nothing about
//! it any more.

use crate::limits::{PAGE_DIRS_MAX, PAGE_MISSES, PAGE_MISSES_MAX, PAGES_PER_DIR, TOUCHED_MAX};
use cairn_client::{DirEntry, FileKind, Metadata};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;
use tokio::time::Instant;

/// Longest name that may be there.
const NAME_LEN_MAX: usize = 255;
/// Hits from which on reading a page was worth it.
const HITS_GOOD: u32 = 8;

/// What is known without asking.
#[derive(Clone, Debug)]
pub enum Known {
    /// It is there; believe it so long.
    Here(Box<Metadata>, Duration),
    /// Nothing is there; believe it so long.
    Nothing(Duration),
}

/// Entries of a directory, as of one moment.
struct Page {
    /// When it was asked for: it knows everything that had happened by then.
    asked: Instant,
    /// Names behind this one, ...
    after: OsString,
    /// ... up to and with this one; `None` = all.
    upto: Option<OsString>,
    entries: BTreeMap<OsString, Metadata>,
    hits: u32,
}

impl Page {
    fn covers(&self, name: &OsStr) -> bool {
        *name > *self.after && self.upto.as_deref().is_none_or(|upto| name <= upto)
    }
}

#[derive(Default)]
struct Dir {
    pages: Vec<Page>,
    /// Lookups that no page could answer, since the last page was asked for.
    misses: u32,
    /// So many are needed for another page.
    needed: u32,
    /// A page is being read.
    reading: bool,
    used: Option<Instant>,
}

#[derive(Default)]
struct State {
    dirs: HashMap<u64, Dir>,
    inodes: HashMap<u64, Instant>,
    names: HashMap<u64, HashMap<OsString, Instant>>,
    names_count: usize,
    /// Attributes of directories, each with when they were asked for.
    attributes: HashMap<u64, (Box<Metadata>, Instant)>,
    /// Attributes of directories that were asked for before say nothing.
    moved: Option<Instant>,
    /// When a name was last made or removed here, by directory.
    bumped: HashMap<u64, Instant>,
    /// Everything that was asked for before says nothing.
    all: Option<Instant>,
}

/// See the module.
pub struct Ahead {
    /// How long what was told holds; zero = nothing is kept.
    ttl: Duration,
    state: Mutex<State>,
}

/// Where a page is to begin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageAsk {
    /// The directory.
    pub dir: u64,
    /// The page has the names behind this one.
    pub after: OsString,
    asked: Instant,
}

impl Ahead {
    /// Keeps what holds so long.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, state: Mutex::default() }
    }

    /// What is known of a name. Not knowing, and having been asked often enough, asks for a page: read it, and give it to
    /// [`Ahead::learn`] whatever comes of it.
    pub fn look(&self, dir: u64, name: &OsStr) -> Result<Known, Option<PageAsk>> {
        // Names that no listing has: the one of snapshots, and those that are too long to be.
        if self.ttl.is_zero() || name.len() > NAME_LEN_MAX || name == ".snapshots" {
            return Err(None);
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        if let Some(known) = state.known(dir, name, now, self.ttl) {
            return Ok(known);
        }
        if state.dirs.len() >= PAGE_DIRS_MAX && !state.dirs.contains_key(&dir) {
            let ttl = self.ttl;
            state.dirs.retain(|_, dir| dir.reading || dir.used.is_some_and(|used| now.duration_since(used) < ttl));
            if state.dirs.len() >= PAGE_DIRS_MAX {
                return Err(None);
            }
        }
        let of = state.dirs.entry(dir).or_default();
        if of.used.is_none_or(|used| now.duration_since(used) >= self.ttl) {
            // Lookups that are far apart are none of a walk.
            (of.misses, of.needed) = (0, PAGE_MISSES);
        }
        of.used = Some(now);
        of.misses += 1;
        if of.reading || of.misses < of.needed {
            return Err(None);
        }
        (of.misses, of.reading) = (0, true);
        // The page has the name itself, so it begins before it, and as near as a byte string can say.
        let bytes = name.as_bytes();
        let after = OsString::from_vec(bytes[..bytes.len().saturating_sub(1)].to_vec());
        Err(Some(PageAsk { dir, after, asked: now }))
    }

    /// Takes a page that was read, or that it could not be read.
    pub fn learn(&self, ask: PageAsk, read: Option<(Vec<DirEntry>, bool)>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.prune(now, self.ttl);
        let Some(of) = state.dirs.get_mut(&ask.dir) else { return };
        of.reading = false;
        let Some((entries, more)) = read else { return };
        let upto = entries.last().filter(|_| more).map(|entry| entry.name.clone());
        if more && upto.is_none() {
            return;
        }
        // A page that told nobody anything: walks are not what is going on here.
        let is_bad = of.pages.last().is_some_and(|page| page.hits < HITS_GOOD);
        of.needed = if is_bad { (of.needed * 2).min(PAGE_MISSES_MAX) } else { PAGE_MISSES };
        if of.pages.len() >= PAGES_PER_DIR {
            of.pages.remove(0);
        }
        let entries = entries.into_iter().map(|entry| (entry.name, entry.metadata)).collect();
        of.pages.push(Page { asked: ask.asked, after: ask.after, upto, entries, hits: 0 });
    }

    /// An inode was changed.
    pub fn touch(&self, inode: u64) {
        if !self.ttl.is_zero() {
            let mut state = self.state.lock();
            state.inodes.insert(inode, Instant::now());
            state.attributes.remove(&inode);
            state.bound();
        }
    }

    /// Where a name leads was changed.
    pub fn touch_name(&self, dir: u64, name: &OsStr) {
        if !self.ttl.is_zero() {
            let now = Instant::now();
            let mut state = self.state.lock();
            if state.names.entry(dir).or_default().insert(name.to_owned(), now).is_none() {
                state.names_count += 1;
            }
            state.bound();
        }
    }

    /// A name that is no directory's was made or removed here, and its directory's times became `time_ns`, or were later
    /// already.
    pub fn bump(&self, dir: u64, time_ns: i64) {
        if !self.ttl.is_zero() {
            let mut state = self.state.lock();
            state.bumped.insert(dir, Instant::now());
            if let Some((metadata, _)) = state.attributes.get_mut(&dir) {
                metadata.mtime_ns = metadata.mtime_ns.max(time_ns);
                metadata.ctime_ns = metadata.ctime_ns.max(time_ns);
            }
            state.bound();
        }
    }

    /// The attributes of a directory, and how long to believe them.
    pub fn attributes(&self, dir: u64) -> Option<(Metadata, Duration)> {
        let state = self.state.lock();
        let (metadata, asked) = state.attributes.get(&dir)?;
        let holds = self.ttl.checked_sub(asked.elapsed()).filter(|holds| !holds.is_zero())?;
        Some((Metadata::clone(metadata), holds))
    }

    /// The attributes of a directory were told, which were asked for at `asked`.
    pub fn learn_attributes(&self, metadata: &Metadata, asked: Instant) {
        if self.ttl.is_zero() || metadata.kind != FileKind::Directory {
            return;
        }
        let mut state = self.state.lock();
        let inode = &metadata.inode;
        let changed = [state.inodes.get(inode), state.bumped.get(inode), state.all.as_ref(), state.moved.as_ref()];
        let is_doubtful = changed.into_iter().flatten().any(|at| *at >= asked);
        let is_newest = state.attributes.get(&metadata.inode).is_none_or(|(_, known)| *known <= asked);
        if !is_doubtful && is_newest {
            state.attributes.insert(metadata.inode, (Box::new(metadata.clone()), asked));
            state.bound();
        }
    }

    /// Directories were renamed or removed here, and it is not known which.
    pub fn touch_directories(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.attributes.clear();
        state.moved = Some(now);
    }

    /// Anything may have been changed.
    pub fn touch_all(&self) {
        let mut state = self.state.lock();
        state.forget(Instant::now());
    }
}

impl State {
    fn known(&mut self, dir: u64, name: &OsStr, now: Instant, ttl: Duration) -> Option<Known> {
        let (all, names, inodes) = (self.all, &self.names, &self.inodes);
        let of = self.dirs.get_mut(&dir)?;
        let touched = names.get(&dir).and_then(|names| names.get(name)).copied().max(all);
        let page = of.pages.iter_mut().rev().find(|page| page.covers(name))?;
        let holds = ttl.checked_sub(now.duration_since(page.asked)).filter(|holds| !holds.is_zero())?;
        // What happened at the very moment of asking may or may not be in it.
        if touched.is_some_and(|touched| touched >= page.asked) {
            return None;
        }
        let known = match page.entries.get(name) {
            None => Known::Nothing(holds),
            Some(metadata) => {
                // A further name may be removed without this one being heard of; and how many directories a directory has is
                // not counted for all entries of a page.
                let is_whole = metadata.nlink == 1 && metadata.kind != FileKind::Directory;
                if !is_whole || inodes.get(&metadata.inode).is_some_and(|touched| *touched >= page.asked) {
                    return None;
                }
                Known::Here(Box::new(metadata.clone()), holds)
            }
        };
        page.hits += 1;
        of.used = Some(now);
        Some(known)
    }

    /// Forgets what is too old to be asked for.
    fn prune(&mut self, now: Instant, ttl: Duration) {
        let young = |at: &Instant| now.duration_since(*at) < ttl;
        for dir in self.dirs.values_mut() {
            dir.pages.retain(|page| young(&page.asked));
        }
        self.attributes.retain(|_, (_, asked)| young(asked));
        // A page that is being read may have been asked for a long time ago.
        if self.dirs.values().all(|dir| !dir.reading) {
            self.bumped.retain(|_, at| young(at));
            self.inodes.retain(|_, at| young(at));
            self.names.retain(|_, names| {
                names.retain(|_, at| young(at));
                !names.is_empty()
            });
            self.names_count = self.names.values().map(HashMap::len).sum();
        }
    }

    fn bound(&mut self) {
        if self.inodes.len() + self.names_count + self.bumped.len() + self.attributes.len() > TOUCHED_MAX {
            self.forget(Instant::now());
        }
    }

    fn forget(&mut self, now: Instant) {
        self.all = Some(now);
        self.inodes.clear();
        self.names.clear();
        self.names_count = 0;
        self.attributes.clear();
        self.bumped.clear();
        self.dirs.values_mut().for_each(|dir| dir.pages.clear());
    }
}

#[cfg(test)]
mod tests;
