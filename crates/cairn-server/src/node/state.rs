//! What the handler and the duties of one node share.

use super::fence::Fence;
use super::identity::NodeIdentity;
use super::ledger::{Finder, Ledger};
use super::metalog::Metalog;
use super::progress::Progress;
use super::recent::Recent;
use super::scrub::Positions;
use super::slot::StoreSlot;
use crate::gate::Gate;
use crate::limits::{
    COLD_READS_MAX, COPIES_IN_FLIGHT_MAX, DELETED_REMEMBERED, HEAL_QUEUE_MAX, MISSES_REMEMBERED, READS_MAX,
    VERIFIES_MAX, WARM_BLOCKS, WARM_FOR, WRITES_MAX,
};
use crate::links::{MetaClient, Peers};
use crate::tasks::blocking;
use crate::view::ClusterView;
use arc_swap::ArcSwap;
use cairn_net::SharedIdentity;
use cairn_proto::status::{Code, Status};
use cairn_proto::{BootId, Incarnation, NodeId, PgId, StoreId};
use cairn_store::{BlockKey, RealDisk};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

/// How a node stands with its metadata server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Not registered in this life of the process yet; the error of the last attempt, if there was one. Next:
    /// `Registered`, `Refused`.
    Waiting {
        /// Why the last attempt failed.
        error: Option<String>,
    },
    /// Metadata knows this node. Next: `Waiting` when it is told to register again, or metadata falls silent.
    Registered {
        /// Its number.
        node: NodeId,
    },
    /// Metadata is of another cluster, or takes this node for another: an operator has to look. Attempts go on, in
    /// case the metadata server was at fault. Next: `Registered`, `Waiting`.
    Refused {
        /// Why.
        reason: String,
    },
}

/// Where a node's directory says what it is.
pub(crate) struct Home {
    pub(crate) disk: RealDisk,
    pub(crate) identity: Mutex<NodeIdentity>,
    pub(crate) fence: Fence,
    pub(crate) scrubs: Positions,
}

/// Bounds on what the handler does at once.
pub(crate) struct Gates {
    pub(crate) reads: Gate,
    pub(crate) cold_reads: Arc<Semaphore>,
    pub(crate) writes: Gate,
    pub(crate) verifies: Gate,
}

/// Calls for the duties.
#[derive(Default)]
pub(crate) struct Wakes {
    /// The cluster map has moved.
    pub(crate) map: Notify,
    /// A new cluster map has arrived.
    pub(crate) join: Notify,
    /// As `join`.
    pub(crate) audit: Notify,
    /// There are degraded rows of our stores.
    pub(crate) catch_up: Notify,
    /// A block of ours is bad or missing.
    pub(crate) heal: Notify,
    /// A new cluster map has arrived.
    pub(crate) compare: Notify,
    /// As `compare`.
    pub(crate) purge: Notify,
}

/// One storage node.
pub(crate) struct Node {
    pub(crate) boot: BootId,
    /// Where it listens, as others reach it.
    pub(crate) addr: String,
    pub(crate) zone: String,
    pub(crate) rack: String,
    pub(crate) host: String,
    pub(crate) home: Arc<Home>,
    pub(crate) stores: Vec<Arc<StoreSlot>>,
    pub(crate) speaks_as: SharedIdentity,
    /// How often orphans, and copies of groups that were left, are looked for.
    pub(crate) sweep_every: Duration,
    /// How often each group is compared with another member.
    pub(crate) compare_every: Duration,
    pub(crate) meta: MetaClient,
    pub(crate) peers: Peers,
    pub(crate) view: ArcSwap<ClusterView>,
    pub(crate) membership: watch::Sender<Membership>,
    pub(crate) gates: Gates,
    pub(crate) wakes: Wakes,
    /// Bounds the blocks that are copied from peers, by all duties together.
    pub(crate) copies: Semaphore,
    /// When blocks were last asked for: the headers of the latest are expected in the page cache.
    pub(crate) warm: Mutex<Recent<BlockKey, Instant>>,
    /// Blocks that were asked for and are not here, with the group the reader named.
    pub(crate) misses: Mutex<Recent<BlockKey, PgId>>,
    /// Blocks that were deleted on command. Noted before the store deletes them and looked at after a copy was stored, so
    /// that one of the two sees the other and no copy outlives its delete.
    pub(crate) deleted: Mutex<Recent<BlockKey, ()>>,
    /// Reported blocks that are not here but should be.
    pub(crate) missing: Mutex<BTreeMap<(StoreId, BlockKey), (PgId, Finder)>>,
    pub(crate) ledger: Arc<Ledger>,
    /// Openings of stores that metadata has seen, and compared with what it knew of them.
    pub(crate) registered: Mutex<BTreeSet<Incarnation>>,
    /// The degraded rows were looked through once in this life of the process.
    pub(crate) caught_up_once: AtomicBool,
    /// The last look at the degraded rows left some that could not be caught up.
    pub(crate) catch_up_stuck: AtomicBool,
    pub(crate) draining: AtomicBool,
    pub(crate) progress: Progress,
    /// What is kept for an embedded metadata engine.
    pub(crate) metalog: Arc<Metalog>,
}

impl Node {
    pub(crate) fn gates() -> Gates {
        Gates {
            reads: Gate::new(READS_MAX, "reads"),
            cold_reads: Arc::new(Semaphore::new(COLD_READS_MAX)),
            writes: Gate::new(WRITES_MAX, "writes"),
            verifies: Gate::new(VERIFIES_MAX, "blocks to verify"),
        }
    }

    pub(crate) fn copy_permits() -> Semaphore {
        Semaphore::new(COPIES_IN_FLIGHT_MAX)
    }

    pub(crate) fn warm_blocks() -> Mutex<Recent<BlockKey, Instant>> {
        Mutex::new(Recent::new(WARM_BLOCKS))
    }

    pub(crate) fn none_deleted() -> Mutex<Recent<BlockKey, ()>> {
        Mutex::new(Recent::new(DELETED_REMEMBERED))
    }

    pub(crate) fn no_misses() -> Mutex<Recent<BlockKey, PgId>> {
        Mutex::new(Recent::new(MISSES_REMEMBERED))
    }

    /// Notes that a block was read or written just now, so that its header is in the page cache.
    pub(crate) fn touch(&self, key: BlockKey) {
        self.warm.lock().insert(key, cairn_net::now());
    }

    /// True when it was a short time ago: its header is expected in the page cache.
    pub(crate) fn is_warm(&self, key: BlockKey) -> bool {
        let touched = self.warm.lock().get(&key);
        touched.is_some_and(|touched| cairn_net::now().saturating_duration_since(touched) < WARM_FOR)
    }

    /// This node's number; 0 until it is registered for the first time.
    pub(crate) fn id(&self) -> NodeId {
        self.speaks_as.load().node_id
    }

    /// The store that a request names.
    ///
    /// WRONG_PEER when it is none of ours: the caller's map is old. UNAVAILABLE before the first registration, and while the
    /// store is not open.
    pub(crate) fn store(&self, id: u32) -> Result<&Arc<StoreSlot>, Status> {
        let id = StoreId(id);
        if let Some(slot) = self.stores.iter().find(|slot| slot.id() == Some(id)) {
            if !slot.is_open() {
                return Err(Status::new(Code::Unavailable, format!("{id} is not open: {}", slot.fault())));
            }
            return Ok(slot);
        }
        Err(if self.id() == NodeId(0) {
            Status::new(Code::Unavailable, "this node is not registered yet").retry_after_ms(200)
        } else {
            Status::new(Code::WrongPeer, format!("store {id} is not on node {}", self.id()))
        })
    }

    /// Copies are brought into a group from now on, under its lock: no verdict of an earlier epoch purges any more.
    pub(crate) async fn raise_fence(&self, pg: PgId) -> std::io::Result<()> {
        let (home, epoch) = (self.home.clone(), self.view.load().epoch(pg));
        blocking(move || home.fence.raise(&home.disk, pg, epoch)).await
    }

    /// A store that has lost its past does not know it: until metadata has compared what it says with what it said before,
    /// what it lists is no inventory, and what it does not have may be lacking.
    ///
    /// UNAVAILABLE before the node was registered with this opening of the store.
    pub(crate) fn trusted(&self, slot: &StoreSlot) -> Result<(), Status> {
        if slot.incarnation().is_some_and(|opening| self.registered.lock().contains(&opening)) {
            return Ok(());
        }
        Err(Status::new(Code::Unavailable, "the store is not registered since it was opened").retry_after_ms(200))
    }

    /// Numbers of our stores, as far as they have one.
    pub(crate) fn store_ids(&self) -> Vec<StoreId> {
        self.stores.iter().filter_map(|slot| slot.id()).collect()
    }

    /// Remembers a block that should be here and is not, for the repair duty. Dropped when too many wait: its next
    /// reader reports it again.
    pub(crate) fn note_missing(&self, store: StoreId, key: BlockKey, pg: PgId, finder: Finder) {
        let mut missing = self.missing.lock();
        if missing.len() < HEAL_QUEUE_MAX {
            missing.insert((store, key), (pg, finder));
            self.wakes.heal.notify_one();
        }
    }
}
