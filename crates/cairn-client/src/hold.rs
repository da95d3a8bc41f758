//! Holds: files whose content this client keeps, also after somebody has removed their last name.

use crate::client::{DfsClient, Inner};
use crate::error::Error;
use cairn_proto::limits::HOLDS_PER_REQUEST_MAX;
use cairn_proto::pb::{self, request, response};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};

/// Holds that may wait to be let go; further ones end with the session.
const GOING_MAX: usize = 64 * 1024;

/// Keeps the content of a file. Clones share it; when the last is dropped, the file is let go of behind the caller's back.
/// It ends with the client's session, too: when the client was cut off from metadata for longer than its lease.
#[derive(Clone)]
pub struct Hold(Arc<Held>);

struct Held {
    inner: Arc<Inner>,
    session: u64,
    inode: u64,
}

/// What this client holds, and what it is about to let go.
#[derive(Default)]
pub(crate) struct Holds {
    live: Mutex<HashMap<u64, Weak<Held>>>,
    /// Session and inode. While there is something here, a task sends it, or the next drop starts one.
    going: Mutex<Going>,
}

#[derive(Default)]
struct Going {
    holds: Vec<(u64, u64)>,
    /// A task is at work.
    sending: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let holds = &self.inner.holds;
        {
            let mut live = holds.live.lock();
            // Somebody may hold it anew by now.
            if live.get(&self.inode).is_some_and(|held| held.strong_count() == 0) {
                live.remove(&self.inode);
            }
        }
        let mut going = holds.going.lock();
        if going.holds.len() < GOING_MAX {
            going.holds.push((self.session, self.inode));
        }
        // A handle may be dropped where there is no runtime; what waits goes with the next.
        if !going.sending
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            going.sending = true;
            self.inner.tasks.spawn_on(let_go(self.inner.clone()), &runtime);
        }
    }
}

/// Sends what waits to be let go, in batches.
async fn let_go(inner: Arc<Inner>) {
    loop {
        let (session, inodes) = {
            let mut going = inner.holds.going.lock();
            let Some(&(session, _)) = going.holds.first() else {
                going.sending = false;
                return;
            };
            let (mut some, rest): (Vec<_>, Vec<_>) = going.holds.drain(..).partition(|hold| hold.0 == session);
            going.holds = rest;
            let later = some.split_off(some.len().min(HOLDS_PER_REQUEST_MAX));
            going.holds.extend(later);
            (session, some.into_iter().map(|(_, inode)| inode).collect::<Vec<u64>>())
        };
        if !inner.sessions.is_current(session).await {
            continue;
        }
        let release = request::Kind::Release(pb::Release { session, inodes });
        let deadline = inner.deadline(inner.config.meta_timeout);
        // What is not let go now ends with the session.
        let _ = inner.sessions.mutate(&inner, release, true, deadline).await;
    }
}

impl DfsClient {
    /// Holds the file of that number: its content stays until the hold is dropped, whatever becomes of its names. For who
    /// hands out files by number, as a mount does; [`OpenOptions::sustained`](crate::OpenOptions::sustained) does it for a
    /// handle. Acknowledged before it is on disk: only metadata's loss of power within a second could take it back.
    ///
    /// # Errors
    /// `NotFound` when it does not exist any more, `IsADirectory`: a directory cannot be held.
    pub async fn sustain(&self, inode: u64) -> Result<Hold, Error> {
        let shown = format!("inode {inode}");
        self.operation("sustain", Path::new(&shown), self.sustain_quietly(inode)).await
    }

    pub(crate) async fn sustain_quietly(&self, inode: u64) -> Result<Hold, Error> {
        if let Some(held) = self.inner.holds.live.lock().get(&inode).and_then(Weak::upgrade)
            && self.inner.sessions.may_be_current(held.session)
        {
            return Ok(Hold(held));
        }
        let kind = request::Kind::Sustain(pb::Sustain { inodes: vec![inode] });
        let response::Kind::Sustain(reply) = self.mutate(kind, Some(true)).await? else {
            return Err(self.inner.unexpected("sustain"));
        };
        Ok(self.adopt(reply.session, inode))
    }

    /// A hold that metadata counts already.
    pub(crate) fn adopt(&self, session: u64, inode: u64) -> Hold {
        let held = Arc::new(Held { inner: self.inner.clone(), session, inode });
        self.inner.holds.live.lock().insert(inode, Arc::downgrade(&held));
        Hold(held)
    }
}

impl Hold {
    /// The number of the file.
    pub fn inode(&self) -> u64 {
        self.0.inode
    }
}
