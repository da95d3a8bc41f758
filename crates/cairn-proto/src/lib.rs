//! The shared language of CairnFS: ids, limits, checksums, layout arithmetic, the quorum rule, placement groups,
//! frames and messages.
//!
//! Everything here is a pure function of its arguments. This crate must never open a file or a socket, read a clock
//! or draw a random number.

pub mod acl;
pub mod checksum;
pub mod frame;
pub mod ids;
pub mod layout;
pub mod limits;
pub mod op;
pub mod pb;
pub mod placement;
pub mod quorum;
pub mod status;
pub mod trace;

pub use ids::{
    BlockId, BlockSeq, BootId, ClusterId, Generation, Incarnation, InodeId, NodeId, OpId, PgEpoch, PgId, SessionId,
    Shard, StoreId, StoreUuid, WriterId,
};
