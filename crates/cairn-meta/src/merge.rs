//! Commits to one file that wait at the same time become one transaction, each with its own result.
//!
//! Changes of one file's content go one after another, because each reads what the one before it wrote. With a sync for
//! each, a file could be committed to as often as the disk syncs, however many clients write to it. So whoever waits for
//! the file leaves its commit where the one whose turn comes next finds it, and that one takes all of them along.

use crate::error::Fault;
use crate::kv::Durability;
use crate::limits::{MERGED_BYTES_MAX, MERGED_COMMITS_MAX, MERGED_WRITES_MAX};
use crate::meta::{Meta, transact};
use crate::slot::{Step, durability_of};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use tokio::sync::oneshot;

/// How a commit that another one took along has ended.
#[allow(clippy::large_enum_variant, reason = "one for each commit, on its way to whoever asked for it")]
enum Told {
    Ended(Result<Reply, Status>),
    /// It was refused among others, and has to be asked for by itself: only then it is certain why.
    Alone,
}

/// A commit that waits.
struct Waiting {
    request: pb::Request,
    done: oneshot::Sender<Told>,
}

/// Commits that wait, by file. As many as callers wait for an answer.
#[derive(Default)]
pub(crate) struct Waitings(Mutex<HashMap<u64, VecDeque<Waiting>>>);

/// The file whose content a mutation changes in one transaction.
pub(crate) fn merges(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::Commit(ask) => Some(ask.inode),
        Kind::Append(ask) => Some(ask.inode),
        _ => None,
    }
}

/// About how many rows a commit writes, and bytes beside the rows' usual ones.
fn weight_of(request: &pb::Request) -> (usize, usize) {
    let (pieces, bytes) = match &request.kind {
        Some(Kind::Commit(ask)) => (ask.pieces.len(), ask.inline.as_ref().map_or(0, |inline| inline.data.len())),
        Some(Kind::Append(ask)) => (ask.pieces.len(), ask.data.len()),
        _ => (0, 0),
    };
    // Its slot, and for each piece a row of the map, one that it cuts, and one for what that referred to.
    (2 + pieces * 3, bytes)
}

impl Waitings {
    fn add(&self, inode: u64, request: &pb::Request) -> oneshot::Receiver<Told> {
        let (done, told) = oneshot::channel();
        let waiting = Waiting { request: request.clone(), done };
        self.0.lock().entry(inode).or_default().push_back(waiting);
        told
    }

    /// The first that wait for the file, as many as one transaction takes; at least one if there is one. Who does not
    /// wait any more is left out.
    fn take(&self, inode: u64, writes_max: usize) -> Vec<Waiting> {
        let mut all = self.0.lock();
        let Some(queue) = all.get_mut(&inode) else { return Vec::new() };
        let mut taken = Vec::new();
        let (mut writes, mut bytes) = (0, 0);
        while let Some(next) = queue.pop_front() {
            if next.done.is_closed() {
                continue;
            }
            let weight = weight_of(&next.request);
            let full = taken.len() == MERGED_COMMITS_MAX
                || writes + weight.0 > writes_max.min(MERGED_WRITES_MAX)
                || bytes + weight.1 > MERGED_BYTES_MAX;
            if full && !taken.is_empty() {
                queue.push_front(next);
                break;
            }
            writes += weight.0;
            bytes += weight.1;
            taken.push(next);
        }
        if queue.is_empty() {
            all.remove(&inode);
        }
        taken
    }
}

impl Meta {
    /// Runs a commit to `inode`, together with others that wait for the same file.
    pub(crate) async fn commit_among_others(&self, inode: u64, request: &pb::Request) -> Result<Reply, Status> {
        let turn = self.inode_turn(inode);
        // Nobody else is at it.
        if let Ok(_turn) = turn.try_lock() {
            return self.run_alone(request).await;
        }
        let mut told = self.inner.waitings.add(inode, request);
        loop {
            let held = tokio::select! {
                biased;
                answer = &mut told => Err(answer),
                held = turn.lock() => Ok(held),
            };
            let answer = match held {
                Err(answer) => answer.ok(),
                Ok(_held) => match told.try_recv() {
                    Ok(answer) => Some(answer),
                    Err(oneshot::error::TryRecvError::Closed) => None,
                    Err(oneshot::error::TryRecvError::Empty) => {
                        let members = self.inner.waitings.take(inode, self.inner.engine.limits().writes / 2);
                        self.run_together(members).await;
                        continue;
                    }
                },
            };
            match answer {
                Some(Told::Ended(result)) => return result,
                Some(Told::Alone) => {
                    let _turn = turn.lock().await;
                    return self.run_alone(request).await;
                }
                // Whoever took it along was given up meanwhile; asked again, the slot tells what became of it.
                None => told = self.inner.waitings.add(inode, request),
            }
        }
    }

    /// Commits as many of the members as one transaction can, and tells everyone.
    async fn run_together(&self, mut members: Vec<Waiting>) {
        while !members.is_empty() {
            let durable = members.iter().any(|member| durability_of(&member.request) == Durability::Durable);
            let durability = if durable { Durability::Durable } else { Durability::Relaxed };
            let mut refused = None;
            let result = transact!(self, durability, async |tx: &mut Tx| {
                refused = None;
                let mut replies = Vec::with_capacity(members.len());
                for (index, member) in members.iter().enumerate() {
                    match self.step(tx, &member.request).await {
                        Ok(Step::Done(reply)) => replies.push(reply),
                        Ok(Step::Partial) => {
                            refused = Some(index);
                            return crate::error::fail(Code::Internal, "a commit is one step");
                        }
                        Err(Fault::Engine(error)) => return Err(Fault::Engine(error)),
                        Err(Fault::Status(status)) => {
                            refused = Some(index);
                            return Err(Fault::Status(status));
                        }
                    }
                }
                Ok(replies)
            });
            match (result, refused) {
                (Ok(replies), _) => {
                    for (member, reply) in members.drain(..).zip(replies) {
                        // Who went away does not need the answer.
                        let _ = member.done.send(Told::Ended(Ok(reply)));
                    }
                }
                // It saw what the ones before it wrote, which is not committed: the others go on without it.
                (Err(_), Some(index)) => drop(members.remove(index).done.send(Told::Alone)),
                (Err(status), None) if status.code == Code::TooLarge && members.len() > 1 => {
                    members.drain(..).for_each(|member| drop(member.done.send(Told::Alone)));
                }
                (Err(status), None) => {
                    members.drain(..).for_each(|member| drop(member.done.send(Told::Ended(Err(status.clone())))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(len: usize) -> pb::Request {
        let ask = pb::Append { inode: 1, data: vec![0; len].into(), ..Default::default() };
        pb::Request { kind: Some(Kind::Append(ask)), ..Default::default() }
    }

    #[test]
    fn a_transaction_takes_the_first_and_no_more_than_fit() {
        let waitings = Waitings::default();
        let told: Vec<_> = (0..10).map(|_| waitings.add(1, &append(10))).collect();
        assert_eq!(waitings.take(1, 6).len(), 3);
        assert_eq!(waitings.take(2, 6).len(), 0);
        drop(told);
        assert!(waitings.take(1, 100).is_empty(), "nobody waits any more");
        assert!(waitings.0.lock().is_empty());
    }

    #[test]
    fn one_that_is_too_big_goes_alone() {
        let waitings = Waitings::default();
        let _told: Vec<_> = (0..2).map(|_| waitings.add(1, &append(MERGED_BYTES_MAX))).collect();
        assert_eq!(waitings.take(1, 1).len(), 1);
        assert_eq!(waitings.take(1, 100).len(), 1);
    }
}
