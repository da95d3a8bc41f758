//! Exactly once: a mutation and its result are one transaction.
//!
//! Only results are stored. An operation that failed has changed nothing, so doing it again is doing it once; that it
//! may then succeed is the same as if it had been slower.

use crate::access::Caller;
use crate::error::{Op, fail};
use crate::keys;
use crate::kv::Durability;
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
    pub(crate) async fn mutate(
        &self,
        request: &pb::Request,
        kind: &Kind,
        caller: Option<&Caller>,
    ) -> Result<Reply, Status> {
        let Some(id) = &request.op_id else {
            return Err(Status::new(Code::Invalid, "a mutation needs an operation id"));
        };
        if id.slot >= SLOTS_PER_SESSION || id.seq == 0 {
            let message = format!("operation id with slot {} and seq {}", id.slot, id.seq);
            return Err(Status::new(Code::Invalid, message));
        }
        let durability = if request.relaxed { Durability::Relaxed } else { Durability::Durable };
        let order = self.order_of(kind).await;
        let reply = loop {
            let step = transact!(self, durability, async |tx: &mut Tx| {
                tx.caller = caller.cloned();
                self.step(tx, id, kind).await
            })?;
            if let Step::Done(reply) = step {
                break reply;
            }
        };
        drop(order);
        self.heard_session(id.session);
        Ok(reply)
    }

    async fn step(&self, tx: &mut Tx, id: &pb::OpId, kind: &Kind) -> Op<Step> {
        check_session(tx, id.session, id.epoch).await?;
        let key = keys::Slot { session: id.session, slot: id.slot };
        if let Some(slot) = tx.get(&key).await? {
            if slot.seq == id.seq {
                return stored(&slot);
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

fn stored(slot: &rows::Slot) -> Op<Step> {
    match pb::Response::decode(slot.reply.clone()) {
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
