//! Being told of changes: the change feed as a stream that goes on by itself and can be resumed.

use crate::client::DfsClient;
use crate::error::Error;
use crate::namespace::{FileKind, Metadata, at, at_inode};
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::pb::{self, request, response};
use futures_util::Stream;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Time that one request waits for something to happen.
const WAIT: Duration = Duration::from_secs(15);

/// Where a watcher is; from [`Changes::cursor`], to be kept and given to [`WatchOptions::since`] later. Its text is
/// hexadecimal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchCursor(Bytes);

impl fmt::Display for WatchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoCursor;

impl fmt::Display for NoCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a cursor is an even number of hexadecimal digits, as an earlier watch gave it")
    }
}

impl std::error::Error for NoCursor {}

impl FromStr for WatchCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        if text.is_empty() || !text.len().is_multiple_of(2) || !text.is_ascii() {
            return Err(NoCursor);
        }
        let byte = |index| u8::from_str_radix(&text[index..index + 2], 16).map_err(|_| NoCursor);
        (0..text.len()).step_by(2).map(byte).collect::<Result<Vec<u8>, _>>().map(|bytes| Self(bytes.into()))
    }
}

/// How to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Go on where an earlier watch was; else from now on.
    pub since: Option<WatchCursor>,
    /// Without `since`: from the oldest change that is kept (a day, at most about a million transactions a server).
    pub oldest: bool,
    /// Add the attributes, as they are when the change is told.
    pub with_metadata: bool,
    /// Leave out what this client changed itself.
    pub skip_own: bool,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchedKind {
    /// A name leads to something new: made, linked, restored, or moved here from outside of what is watched.
    Created {
        /// It was moved here: a directory comes with what is in it.
        moved: bool,
    },
    /// A name is gone: removed, or moved out of what is watched.
    Removed {
        /// It was moved away.
        moved: bool,
    },
    /// A name became another.
    Renamed {
        /// What it was; `None` where that cannot be told any more.
        from: Option<PathBuf>,
    },
    /// Something about it changed, its names apart.
    Changed {
        /// Content or length.
        content: bool,
        /// Mode, owner, times or policy.
        attributes: bool,
        /// Extended attributes.
        xattrs: bool,
    },
}

/// A change of a name or an inode.
#[derive(Clone, Debug)]
pub struct WatchedChange {
    /// What happened.
    pub kind: WatchedKind,
    /// Where, as the watcher named it. `None` where it cannot be told: what it was in is gone, or too large to look for
    /// the name of an inode.
    pub path: Option<PathBuf>,
    /// The inode.
    pub inode: u64,
    /// What it is.
    pub file_kind: FileKind,
    /// When, nanoseconds since 1970, by the clock of the server.
    pub time_ns: i64,
    /// The inode that the name leads to when this is told; `None` when it leads to nothing. Whoever mirrors names goes by
    /// this, since two servers' changes may be told in another order than they happened.
    pub now: Option<u64>,
    /// The same for the former name of what was renamed.
    pub from_now: Option<u64>,
    /// Attributes, if asked for and still there.
    pub metadata: Option<Metadata>,
    /// The directory of the name, by number; of a change of something else than names, one in which it has, or had, a name.
    pub dir: u64,
    /// The name in that directory: of what was made, removed, or what it became.
    pub name: OsString,
    /// The directory of the former name of what was renamed; 0 = it was not.
    pub from_dir: u64,
    /// That name.
    pub from_name: OsString,
    /// The version that a change of the inode left.
    pub version: u64,
}

type Page = (Vec<pb::Change>, Bytes);
type PageRequest = Pin<Box<dyn Future<Output = Result<Page, Error>> + Send>>;

/// Changes as they happen, without end. None is left out; after a failure of this client or of servers some may be told
/// again.
pub struct Changes {
    client: DfsClient,
    ask: pb::WatchChanges,
    skip_own: bool,
    path: PathBuf,
    waiting: VecDeque<pb::Change>,
    /// Where the page ends that `waiting` is the rest of.
    next: Bytes,
    page: Option<PageRequest>,
}

impl Changes {
    /// Where to go on, should this end here: behind everything that was told. While a part of a page is told, it is where
    /// that page begins.
    pub fn cursor(&self) -> WatchCursor {
        let from_here = self.waiting.is_empty() || self.ask.cursor.is_empty();
        WatchCursor(if from_here { self.next.clone() } else { self.ask.cursor.clone() })
    }

    /// The next change; waits for it.
    ///
    /// # Errors
    /// `CursorTooOld` when changes were removed before they were read: look at everything anew, and watch from now on.
    /// `Unavailable` and others of servers: the next call tries again. Cancelled, nothing is lost.
    pub async fn next_change(&mut self) -> Result<WatchedChange, Error> {
        std::future::poll_fn(|cx| self.poll_change(cx)).await
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Result<WatchedChange, Error>> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Poll::Ready(Ok(told(change, &self.path)));
            }
            self.ask.cursor = self.next.clone();
            let page = self.page.get_or_insert_with(|| {
                Box::pin(read_page(self.client.clone(), self.ask.clone(), self.skip_own, self.path.clone()))
            });
            let result = ready!(page.as_mut().poll(cx));
            self.page = None;
            let (changes, cursor) = match result {
                Ok(page) => page,
                Err(error) => return Poll::Ready(Err(error)),
            };
            self.waiting = changes.into();
            self.next = cursor;
        }
    }
}

impl Stream for Changes {
    type Item = Result<WatchedChange, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_change(cx).map(Some)
    }
}

async fn read_page(client: DfsClient, mut ask: pb::WatchChanges, skip_own: bool, path: PathBuf) -> Result<Page, Error> {
    let work = async {
        let inner = &client.inner;
        // The session of the client may be another one by now.
        ask.skip_session = if skip_own { inner.sessions.current_id().await } else { 0 };
        let deadline = inner.deadline(inner.config.meta_timeout + Duration::from_millis(ask.wait_ms.into()));
        match inner.meta_read(request::Kind::WatchChanges(ask), deadline).await? {
            response::Kind::WatchChanges(reply) => Ok((reply.changes, reply.cursor)),
            _ => Err(inner.unexpected("watch")),
        }
    };
    client.operation("watch", &path, work).await
}

fn joined(watched: &Path, below: Bytes) -> PathBuf {
    match below.is_empty() {
        true => watched.to_path_buf(),
        false => watched.join(OsString::from_vec(below.into())),
    }
}

/// What an inode number on the wire stands for: 0 is none.
fn inode(number: u64) -> Option<u64> {
    (number != 0).then_some(number)
}

fn told(change: pb::Change, watched: &Path) -> WatchedChange {
    let moved = change.moved;
    let has = |of: pb::ChangeOf| change.what & of as u32 != 0;
    let kind = match change.kind() {
        pb::ChangeKind::Created => WatchedKind::Created { moved },
        pb::ChangeKind::Removed => WatchedKind::Removed { moved },
        pb::ChangeKind::Renamed => {
            WatchedKind::Renamed { from: change.from_path.clone().map(|from| joined(watched, from)) }
        }
        pb::ChangeKind::Changed | pb::ChangeKind::Unknown => WatchedKind::Changed {
            content: has(pb::ChangeOf::Content),
            attributes: has(pb::ChangeOf::Attributes),
            xattrs: has(pb::ChangeOf::Xattrs),
        },
    };
    WatchedChange {
        kind,
        inode: change.inode,
        file_kind: FileKind::from_pb(change.inode_kind()),
        time_ns: change.time_ns,
        now: inode(change.now_inode),
        from_now: inode(change.from_now_inode),
        path: change.path.map(|path| joined(watched, path)),
        metadata: change.attr.map(Metadata::from_pb),
        dir: change.parent,
        name: OsString::from_vec(change.name.into()),
        from_dir: change.from_parent,
        from_name: OsString::from_vec(change.from_name.into()),
        version: change.version,
    }
}

impl DfsClient {
    /// Tells what changes at `path` and below, from now on.
    ///
    /// # Errors
    /// `NotFound` and others of the path.
    pub async fn watch(&self, path: impl AsRef<Path>) -> Result<Changes, Error> {
        self.watch_with(path, WatchOptions::default()).await
    }

    /// Tells what changes at `path` and below. What is watched is the file or directory that `path` leads to now; it is
    /// followed when it is renamed.
    ///
    /// # Errors
    /// `NotFound` and others of the path; `CursorTooOld`; `InvalidInput` for a cursor that is none.
    pub async fn watch_with(&self, path: impl AsRef<Path>, options: WatchOptions) -> Result<Changes, Error> {
        let path = path.as_ref();
        let watched = self.metadata(path).await?.inode;
        // Everything is watched without looking where it is.
        let whole = watched == InodeId::ROOT.0;
        let mut ask = pb::WatchChanges {
            cursor: options.since.map(|cursor| cursor.0).unwrap_or_default(),
            oldest: options.oldest,
            at: if whole { None } else { Some(at_inode(InodeId(watched))) },
            limit: 0,
            wait_ms: 0,
            skip_session: 0,
            with_attr: options.with_metadata,
        };
        at(path)?;
        let (changes, next) = read_page(self.clone(), ask.clone(), options.skip_own, path.to_path_buf()).await?;
        ask.oldest = false;
        ask.wait_ms = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
        let waiting = changes.into();
        let (client, path, skip_own) = (self.clone(), path.to_path_buf(), options.skip_own);
        Ok(Changes { client, ask, skip_own, path, waiting, next, page: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_text_and_back() {
        let cursor = WatchCursor(Bytes::from_static(&[1, 0xab, 0]));
        assert_eq!(cursor.to_string(), "01ab00");
        assert_eq!("01ab00".parse(), Ok(cursor));
        for wrong in ["", "1", "zz", "0\u{e9}x"] {
            assert_eq!(wrong.parse::<WatchCursor>(), Err(NoCursor), "{wrong}");
        }
    }

    #[test]
    fn paths_are_told_as_the_watcher_named_what_it_watches() {
        let change = |path: Option<&'static [u8]>| pb::Change {
            path: path.map(Bytes::from_static),
            kind: pb::ChangeKind::Created as i32,
            ..Default::default()
        };
        let path = |change| told(change, Path::new("/a/b")).path;
        assert_eq!(path(change(Some(b"c/d"))), Some(PathBuf::from("/a/b/c/d")));
        assert_eq!(path(change(Some(b""))), Some(PathBuf::from("/a/b")));
        assert_eq!(path(change(None)), None);
    }
}
