//! Which session holds locks on which files, as far as this client knows: it is the one that may change them.

use crate::session::Session;
use cairn_proto::InodeId;
use cairn_proto::pb::{self, request};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// A range that an owner locked.
struct Claim {
    kind: i32,
    owner: u64,
    range: Range<u64>,
}

struct Claims {
    session: Arc<Session>,
    claims: Vec<Claim>,
}

/// By file. As many as there are locks.
#[derive(Default)]
pub(crate) struct LockClaims(Mutex<HashMap<u64, Claims>>);

/// The file whose content or locks a mutation changes.
pub(crate) fn concerns(kind: &request::Kind) -> Option<InodeId> {
    let inode = match kind {
        request::Kind::Commit(ask) => ask.inode,
        request::Kind::Append(ask) => ask.inode,
        request::Kind::Truncate(ask) => ask.inode,
        request::Kind::Allocate(ask) => ask.inode,
        request::Kind::SetLock(ask) => ask.lock.as_ref()?.inode,
        _ => return None,
    };
    Some(InodeId(inode))
}

impl LockClaims {
    /// The session that holds locks on the file; it may have ended since.
    pub(crate) fn session(&self, inode: InodeId) -> Option<Arc<Session>> {
        self.0.lock().get(&inode.0).map(|claims| claims.session.clone())
    }

    /// Notes what a lock operation of `session` did.
    pub(crate) fn note(&self, lock: &pb::LockAsk, session: &Arc<Session>) {
        let range = lock.start..if lock.end == 0 { u64::MAX } else { lock.end };
        let mut all = self.0.lock();
        let taken = lock.mode() != pb::LockMode::Unlock;
        if taken {
            let new = || Claims { session: session.clone(), claims: Vec::new() };
            all.entry(lock.inode).or_insert_with(new);
        }
        let Some(entry) = all.get_mut(&lock.inode) else { return };
        let mut left = Vec::with_capacity(entry.claims.len() + 1);
        for claim in entry.claims.drain(..) {
            if (claim.kind, claim.owner) != (lock.kind, lock.owner) {
                left.push(claim);
                continue;
            }
            let Range { start, end } = claim.range;
            for range in [start..end.min(range.start), start.max(range.end)..end] {
                if range.start < range.end {
                    left.push(Claim { range, ..claim });
                }
            }
        }
        if taken {
            left.push(Claim { kind: lock.kind, owner: lock.owner, range });
        }
        entry.claims = left;
        if entry.claims.is_empty() {
            all.remove(&lock.inode);
        }
    }
}
