//! Listings: a directory's entries in pages, in order of their names.
//!
//! A listing goes on behind the last name that was told, so it ends, and tells no entry twice and leaves none out that
//! stays, whatever happens to others meanwhile. The kernel asks by number; which name a number stands for is remembered by
//! the listing, all of the newest and every so many-th of the older ones.

use super::{Done, Face, type_bits};
use crate::errno;
use crate::kernel::reply::{self, Answer, Page};
use crate::kernel::request::Request;
use crate::limits::{LISTED_COUNT_MAX, LISTED_STRIDE};
use cairn_client::{DirEntry, FileKind, Place, ReadDir};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::sync::Arc;

/// Number behind `.` and `..`.
const DOTS: u64 = 2;

/// What opendir(3) opened.
pub struct Listing {
    inode: u64,
    client: cairn_client::DfsClient,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the stream is.
    stream: Option<ReadDir>,
    /// Entries as they came, the number of the first being `first`.
    entries: VecDeque<DirEntry>,
    first: u64,
    /// Names of older entries, by number.
    marks: BTreeMap<u64, OsString>,
    /// Nothing follows `entries`.
    end: bool,
}

impl State {
    fn next_number(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Remembers one entry more; the oldest goes.
    fn push(&mut self, entry: DirEntry) {
        if self.entries.len() >= LISTED_COUNT_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            if self.first.is_multiple_of(LISTED_STRIDE as u64) {
                self.marks.insert(self.first, oldest.name);
            }
            self.first += 1;
        }
        self.entries.push_back(entry);
    }
}

impl Listing {
    /// Goes to number `at`, which the caller has been told before, or is the first.
    async fn go_to(&self, state: &mut State, at: u64) -> Result<(), Errno> {
        let there = at >= state.first && at <= state.next_number();
        if state.stream.is_some() && there && at != DOTS {
            return Ok(());
        }
        // From the beginning, or from the nearest name that is remembered: entries are what they are now.
        let mark = state.marks.range(..at).next_back().map(|(number, name)| (*number, name.clone()));
        let (number, name) = mark.map_or((DOTS, OsString::new()), |(number, name)| (number + 1, name));
        let stream = self.client.read_dir_after(Place::inode(self.inode), &name).await;
        state.stream = Some(stream.map_err(|error| errno::of_inode(&error))?);
        state.entries.clear();
        state.first = number;
        state.end = false;
        while state.next_number() < at && self.more(state).await? {}
        Ok(())
    }

    /// Fetches one entry more; false at the end.
    async fn more(&self, state: &mut State) -> Result<bool, Errno> {
        if state.end {
            return Ok(false);
        }
        let stream = state.stream.as_mut().ok_or(Errno::BADF)?;
        match stream.next_entry().await.map_err(|error| errno::of_inode(&error))? {
            Some(entry) => {
                state.push(entry);
                Ok(true)
            }
            None => {
                state.end = true;
                Ok(false)
            }
        }
    }
}

impl Face {
    pub(super) async fn open_dir(&self, request: &Request) -> Done {
        let client = self.identity.client(request);
        let listing = Listing { inode: self.inode(request.node), client, state: tokio::sync::Mutex::default() };
        let handle = self.new_handle();
        self.listings.lock().insert(handle, Arc::new(listing));
        Ok(reply::opened(handle, 0))
    }

    pub(super) async fn read_dir(&self, handle: u64, offset: u64, len: u32, plus: bool) -> Done {
        let listing = self.listings.lock().get(&handle).cloned().ok_or(Errno::BADF)?;
        let mut state = listing.state.lock().await;
        let mut page = Page::new(len);
        let mut at = offset;
        while at < DOTS {
            let (name, number) = if at == 0 { (".", self.node_number(listing.inode)) } else { ("..", 1) };
            if !add_dots(&mut page, plus, number, at + 1, name) {
                return Ok(page.finish());
            }
            at += 1;
        }
        listing.go_to(&mut state, at).await?;
        let mut told = false;
        loop {
            if at >= state.next_number() {
                // What is there is told at once.
                if told && !has_more_at_hand(&state) || !listing.more(&mut state).await? {
                    break;
                }
            }
            let Some(entry) = state.entries.get((at - state.first) as usize) else { break };
            if !self.add_entry(&mut page, plus, entry, at + 1) {
                break;
            }
            told = true;
            at += 1;
        }
        Ok(page.finish())
    }

    fn add_entry(&self, page: &mut Page, plus: bool, entry: &DirEntry, next: u64) -> bool {
        let (number, kind) = (self.node_number(entry.inode), type_bits(entry.kind) >> 12);
        if !plus {
            return page.add(number, next, kind, &entry.name);
        }
        let node = self.node_answer(entry.metadata.clone());
        let added = page.add_node(Some(&node), number, next, kind, &entry.name);
        if !added {
            // The kernel has not been told.
            self.shown.lock().remove(&entry.inode);
        }
        added
    }

    pub(super) fn release_dir(&self, handle: u64) -> Done {
        self.listings.lock().remove(&handle).map(|_| Answer::Empty).ok_or(Errno::BADF)
    }

    /// Changes of names are durable when they return, unless the mount or the directory's policy says otherwise: a durable transaction
    /// behind them takes them along.
    pub(super) async fn fsync_dir(&self, inode: u64) -> Done {
        let place = Place::inode(inode);
        let metadata = self.client.symlink_metadata(&place).await.map_err(|error| errno::of_inode(&error))?;
        if metadata.relaxed || self.options.relaxed {
            self.client.sync_names(place).await.map_err(|error| errno::of_inode(&error))?;
        }
        Ok(Answer::Empty)
    }
}

/// More of the page that metadata sent is here: to go on costs no request.
fn has_more_at_hand(state: &State) -> bool {
    state.stream.as_ref().is_some_and(ReadDir::has_more_at_hand)
}

fn add_dots(page: &mut Page, plus: bool, number: u64, next: u64, name: &str) -> bool {
    let (kind, name) = (type_bits(FileKind::Directory) >> 12, name.as_ref());
    match plus {
        true => page.add_node(None, number, next, kind, name),
        false => page.add(number, next, kind, name),
    }
}
