//! Storage policies of directories: what files made in them are given, and how a writer learns of it in time.

use crate::client::{DfsClient, Inner};
use crate::error::Error;
use crate::namespace::Metadata;
use crate::place::Place;
use bytes::Bytes;
use cairn_proto::pb::{self, request, response};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// A policy learnt so long ago is asked for again before a file is made: how late a change may reach other clients.
const FRESH: Duration = Duration::from_secs(1);
/// Directories whose policies are remembered.
const REMEMBERED_MAX: usize = 1024;

/// What to change about the policy of a directory; absent fields stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Copies kept of each block, 1 to 5.
    pub replicas: Option<u32>,
    /// Bytes per block: a multiple of 64 KiB from 64 KiB to 64 MiB.
    pub block_len: Option<u32>,
    /// Writes return before they survive power loss: see [`OpenOptions::relaxed`](crate::OpenOptions::relaxed).
    pub relaxed: Option<bool>,
    /// How long what is removed from the directory is kept, in seconds; 0 = not at all.
    pub trash_s: Option<u64>,
}

/// Policies of directories that files were made in lately.
#[derive(Default)]
pub(crate) struct DirPolicies(Mutex<HashMap<(u64, Bytes), (Instant, pb::Policy)>>);

impl DirPolicies {
    fn fresh(&self, dir: &(u64, Bytes), now: Instant) -> Option<pb::Policy> {
        let known = self.0.lock();
        known.get(dir).filter(|(learnt, _)| now.saturating_duration_since(*learnt) < FRESH).map(|(_, policy)| *policy)
    }

    fn note(&self, dir: (u64, Bytes), asked: Instant, policy: pb::Policy) {
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(dir, (asked, policy));
    }

    fn forget(&self) {
        self.0.lock().clear();
    }
}

/// The policy for new files in the directory at `dir`, at most [`FRESH`] old.
///
/// # Errors
/// `NotFound`, and what asking metadata can fail with.
pub(crate) async fn of_directory(inner: &Inner, dir: pb::At) -> Result<pb::Policy, Error> {
    let asked = Instant::now();
    let place = (dir.dir, dir.path.clone());
    if let Some(policy) = inner.dir_policies.fresh(&place, asked) {
        return Ok(policy);
    }
    let stat = request::Kind::Stat(pb::Stat { at: Some(dir), follow: true, ..Default::default() });
    match inner.meta_read(stat, inner.deadline(inner.config.meta_timeout)).await? {
        response::Kind::Attr(attr) => {
            let policy = attr.policy.unwrap_or_default();
            inner.dir_policies.note(place, asked, policy);
            Ok(policy)
        }
        _ => Err(inner.unexpected("stat")),
    }
}

impl DfsClient {
    /// Changes what files and directories made in the directory at `path` from now on are given. What is there already
    /// keeps its policy. Other clients follow within a second.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`; `InvalidInput` for values out of range; `Conflict` when the cluster has fewer storage
    /// nodes than the replicas asked for.
    pub async fn set_policy(&self, place: impl Into<Place>, change: PolicyChange) -> Result<Metadata, Error> {
        let place = place.into();
        let work = async {
            let PolicyChange { replicas, block_len, relaxed, trash_s } = change;
            let set = pb::SetPolicy { at: Some(place.at()?), replicas, block_len, relaxed, trash_s };
            let reply = self.mutate(request::Kind::SetPolicy(set), None).await;
            self.inner.dir_policies.forget();
            match reply? {
                response::Kind::Attr(attr) => Ok(Metadata::from_pb(attr)),
                _ => Err(self.inner.unexpected("set_policy")),
            }
        };
        self.operation("set_policy", place.shown(), work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_asked_for_again_after_a_while() {
        let policies = DirPolicies::default();
        let (path, at) = ((1, Bytes::from_static(b"/a")), Instant::now());
        let policy = pb::Policy { replicas: 2, ..Default::default() };
        policies.note(path.clone(), at, policy);
        assert_eq!(policies.fresh(&path, at), Some(policy));
        assert_eq!(policies.fresh(&path, at + FRESH), None);
        assert_eq!(policies.fresh(&(2, path.1.clone()), at), None);
        policies.forget();
        assert_eq!(policies.fresh(&path, at), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let policies = DirPolicies::default();
        for n in 0..3 * REMEMBERED_MAX {
            policies.note((1, Bytes::from(n.to_string())), Instant::now(), pb::Policy::default());
        }
        assert!(policies.0.lock().len() <= REMEMBERED_MAX);
    }
}
