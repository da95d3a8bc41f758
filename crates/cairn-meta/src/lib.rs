//! The namespace of CairnFS over a transactional key-value engine: inodes, names, maps of files, exactly-once
//! mutations, sessions, and the tables of nodes and placement groups.
//!
//! Give [`Meta::execute`] a request and it returns the reply; call the duties (`expire_sessions`, `drop_maps`,
//! `ensure_groups`, ...) from a timer. This crate knows no socket, no client and no store. Time comes in through
//! [`clock::Clock`], disk through [`kv::Engine`], randomness through a seed.

mod access;
mod allocate;
mod append;
mod attrs;
mod changes;
mod checks;
pub mod clock;
mod clone;
mod cluster;
mod counters;
pub mod dump;
mod duties;
mod error;
mod extents;
mod feed;
mod first;
mod gauges;
mod groups;
mod history;
mod holder;
mod holds;
mod judge;
mod jump;
mod kept;
pub mod keys;
pub mod kv;
mod lacking;
mod lease;
pub mod limits;
mod links;
mod locks;
mod map;
mod map_tx;
mod mass;
mod members;
mod merge;
mod meta;
pub mod migrate;
mod moves;
mod names;
mod past;
mod path;
mod permit;
pub mod placement;
mod plan;
mod policies;
mod publish;
mod quota;
mod rename;
mod rollback;
pub mod rows;
mod running;
mod servers;
mod session;
mod settings;
mod shares;
mod silence;
mod slot;
mod snapshots;
mod stat_fs;
mod state;
mod steps;
mod survey;
mod tables;
mod tasks;
mod tend;
mod trash;
mod truncate;
mod tx;
mod upgrade;
mod usage;
mod write;
mod writers;
mod xattrs;

pub use checks::check_engine;
pub use duties::{GarbageRow, GroupMembers};
pub use error::OpenError;
pub use gauges::Gauges;
pub use mass::MassStop;
pub use meta::{Meta, MetaOptions};
pub use running::{RunningServer, ServerSigns};

#[cfg(test)]
mod tests {
    fn is_send<T: Send>(value: T) -> T {
        value
    }

    #[test]
    fn every_call_may_move_between_threads() {
        // Compiled, not run: a spawned task has to be able to await each of these.
        let _ = |meta: super::Meta, request: cairn_proto::pb::Request| {
            is_send(async move {
                let _ = meta.execute(&request).await;
                let _ = meta.execute_timed(&request).await;
                let _ = meta.expire_sessions().await;
                let _ = meta.drop_maps().await;
                let _ = meta.trim_snapshots().await;
                let _ = meta.expire_snapshots().await;
                let _ = meta.ensure_groups().await;
                let _ = meta.note_silence().await;
                let _ = meta.persist_beats().await;
                let _ = meta.pulse().await;
                let _ = meta.tend_servers().await;
                let _ = meta.leave().await;
                let _ = meta.tend_feed().await;
                let _ = meta.feed_moved(0).await;
                let _ = meta.garbage(None, 1).await;
                let _ = meta.garbage_done(&[]).await;
            })
        };
    }
}
