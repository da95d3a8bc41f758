//! Exactly once: a mutation and its result are one transaction.
//!
//! Only results are stored. An operation that failed has changed nothing, so doing it again is doing it once; that it
//! may then succeed is the same as if it had been slower. Who wants to be sure that it never will writes that into the
//! slot: see [`Kind::AbortOp`].

use crate::access::Caller;
use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Durability;
use crate::merge;
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use cairn_proto::limits::SLOTS_PER_SESSION;
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use prost::Message;

/// How far an operation got in its transaction.
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way from a function to the one that called it")]
pub(crate) enum Step {
    /// This is the result.
    Done(Reply),
    /// A part is done and has to be committed before the rest.
    Partial,
}

impl Meta {
    /// Does a mutation once, however often it is asked for.
    pub(crate) async fn mutate(&self, request: &pb::Request, kind: &Kind) -> Result<Reply, Status> {
        let Some(id) = &request.op_id else {
            return Err(Status::new(Code::Invalid, "a mutation needs an operation id"));
        };
        if id.slot >= SLOTS_PER_SESSION || id.seq == 0 {
            let message = format!("operation id with slot {} and seq {}", id.slot, id.seq);
            return Err(Status::new(Code::Invalid, message));
        }
        let reply = match merge::merges(kind) {
            Some(inode) => self.commit_among_others(inode, request).await?,
            None => {
                let _order = self.order_of(kind).await;
                self.run_alone(request).await?
            }
        };
        self.heard_session(id.session);
        Ok(reply)
    }

    /// Runs a mutation until it is done.
    pub(crate) async fn run_alone(&self, request: &pb::Request) -> Result<Reply, Status> {
        let durability = durability_of(request);
        loop {
            let step = transact!(self, durability, async |tx: &mut Tx| self.step(tx, request).await)?;
            if let Step::Done(reply) = step {
                return Ok(reply);
            }
        }
    }

    /// One transaction of a mutation.
    pub(crate) async fn step(&self, tx: &mut Tx, request: &pb::Request) -> Op<Step> {
        let (Some(id), Some(kind)) = (&request.op_id, &request.kind) else {
            return fail(Code::Invalid, "a mutation needs an operation id");
        };
        tx.caller = Caller::of(request)?;
        check_session(tx, id.session, id.epoch).await?;
        tx.session = id.session;
        let key = keys::Slot { session: id.session, slot: id.slot };
        if let Some(slot) = tx.get(&key).await? {
            if slot.seq == id.seq {
                return stored(&slot, kind);
            }
            if slot.seq > id.seq {
                let message = format!("slot {} is at {}, asked for {}", id.slot, slot.seq, id.seq);
                return fail(Code::StaleSeq, message);
            }
        }
        let step = self.apply(tx, id.session, kind).await?;
        if let Step::Done(reply) = &step {
            let reply = pb::Response { kind: Some(reply.clone()), ..Default::default() }.encode_to_vec();
            tx.put(&key, &rows::Slot { seq: id.seq, reply: reply.into() });
        }
        Ok(step)
    }
}

/// How safe the caller wants the result to be.
pub(crate) fn durability_of(request: &pb::Request) -> Durability {
    if request.relaxed { Durability::Relaxed } else { Durability::Durable }
}

/// The result that the slot holds. That an operation was given up is the answer to whoever gave it up; to the operation
/// itself, come late, it is a refusal.
fn stored(slot: &rows::Slot, kind: &Kind) -> Op<Step> {
    match pb::Response::decode(slot.reply.clone()) {
        Ok(pb::Response { kind: Some(Reply::AbortOp(_)), .. }) if !matches!(kind, Kind::AbortOp(_)) => {
            fail(Code::Aborted, "this operation was given up by who had asked for it")
        }
        Ok(pb::Response { kind: Some(reply), .. }) => Ok(Step::Done(reply)),
        _ => fail(Code::Corrupt, "metadata: the stored result does not decode"),
    }
}

/// FENCED unless the session is open at that epoch.
pub(crate) async fn check_session(tx: &mut Tx, session: u64, epoch: u64) -> Op<()> {
    match tx.get(&keys::Session { session }).await? {
        Some(row) if row.open && row.epoch == epoch => Ok(()),
        _ => fail(Code::Fenced, format!("session {session} of epoch {epoch} has ended")),
    }
}

/// FENCED unless the writer is open and belongs to the session.
pub(crate) async fn check_writer(tx: &mut Tx, session: u64, writer: u64) -> Op<()> {
    match tx.get(&keys::Writer { writer }).await? {
        Some(row) if row.session == session => Ok(()),
        _ => fail(Code::Fenced, format!("writer {writer} is not open in session {session}")),
    }
}
