//! The collector stopped, because so much became garbage at once: written down, so that every server says so and an
//! operator can let it go on, whichever of them answers.

use crate::error::{Op, fail};
use crate::keys::{self, setting};
use crate::kv::Durability;
use crate::meta::{Meta, transact};
use crate::rows;
use crate::tx::Tx;
use bytes::{BufMut, Bytes, BytesMut};
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
use std::sync::atomic::Ordering;

const KEY: keys::Setting = keys::Setting { name: Bytes::from_static(setting::MASS_STOP) };

/// Why nothing is collected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MassStop {
    /// An operator has said that it is meant, or the time to do so is over: what waits is collected.
    pub accepted: bool,
    /// Copies of blocks that were to be deleted when it stopped.
    pub copies: u64,
    /// Copies of blocks that all stores held then.
    pub held: u64,
}

impl MassStop {
    /// 17 bytes: accepted (0 or 1), copies and held, both little-endian.
    fn encode(self) -> Bytes {
        let mut out = BytesMut::with_capacity(17);
        out.put_u8(u8::from(self.accepted));
        out.put_u64_le(self.copies);
        out.put_u64_le(self.held);
        out.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (accepted, rest) = bytes.split_first()?;
        let (copies, held) = rest.split_first_chunk()?;
        Some(Self {
            accepted: *accepted != 0,
            copies: u64::from_le_bytes(*copies),
            held: u64::from_le_bytes(held.try_into().ok()?),
        })
    }

    fn alarm(self) -> String {
        let percent = u128::from(self.copies) * 100 / u128::from(self.held.max(1));
        format!(
            "collection stopped: {} of {} copies of blocks ({percent} %) became garbage at once, and none is deleted. If files \
             were removed on purpose: cairn admin collect --accept. If not, restore the metadata: every block is still there",
            self.copies, self.held
        )
    }
}

pub(crate) async fn load(tx: &mut Tx) -> Op<Option<MassStop>> {
    // One that does not decode was written by a newer server, which sees to it.
    Ok(tx.get(&KEY).await?.and_then(|row| MassStop::decode(&row.value)))
}

/// What an operator is told while collection is stopped.
pub(crate) async fn alarm(tx: &mut Tx) -> Op<Option<String>> {
    Ok(load(tx).await?.filter(|stop| !stop.accepted).map(MassStop::alarm))
}

impl Meta {
    /// Why nothing is collected; `None` when it is.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub async fn mass_stop(&self) -> Result<Option<MassStop>, Status> {
        let stop = transact!(self, Durability::Relaxed, async |tx: &mut Tx| load(tx).await)?;
        self.note_mass_stop(stop);
        Ok(stop)
    }

    /// Notes that collection stops, goes on by consent, or is as usual again.
    ///
    /// # Errors
    /// As [`Meta::execute`].
    pub async fn set_mass_stop(&self, stop: Option<MassStop>) -> Result<(), Status> {
        self.as_holder(self.write_mass_stop(stop)).await.map(|_| ())
    }

    async fn write_mass_stop(&self, stop: Option<MassStop>) -> Result<(), Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            match stop {
                Some(stop) => tx.put(&KEY, &rows::Setting { value: stop.encode() }),
                None => tx.delete(&KEY),
            }
            Ok(())
        })?;
        self.note_mass_stop(stop);
        Ok(())
    }

    fn note_mass_stop(&self, stop: Option<MassStop>) {
        let stopped = stop.is_some_and(|stop| !stop.accepted);
        self.inner.collection_stopped.store(stopped, Ordering::Relaxed);
    }

    /// Copies of blocks that all stores hold, as they reported last.
    pub fn held_copies(&self) -> u64 {
        let cluster = self.inner.cluster.lock();
        let present = |node: u32| cluster.nodes.get(&node).is_some_and(|node| !node.row.replaced);
        cluster.stores.values().filter(|store| present(store.row.node)).map(|store| store.beat.blocks).sum()
    }

    pub(crate) async fn accept_collection(&self) -> Result<Reply, Status> {
        let stop = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let Some(stop) = load(tx).await?.filter(|stop| !stop.accepted) else {
                return fail(Code::Conflict, "collection is not stopped: there is nothing to accept");
            };
            let stop = MassStop { accepted: true, ..stop };
            tx.put(&KEY, &rows::Setting { value: stop.encode() });
            Ok(stop)
        })?;
        self.note_mass_stop(Some(stop));
        tracing::warn!(copies = stop.copies, held = stop.held, "an operator accepted that so much is collected");
        Ok(Reply::Empty(pb::Empty::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_pinned() {
        let stop = MassStop { accepted: true, copies: 0x0102, held: 3 };
        let bytes = stop.encode();
        assert_eq!(bytes[..], [1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(MassStop::decode(&bytes), Some(stop));
        assert_eq!(MassStop::decode(&bytes[..16]), None);
        assert_eq!(MassStop::decode(&[]), None);
    }
}
