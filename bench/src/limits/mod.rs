//! Limits of the machine: what a cluster on it could reach if it cost nothing.
//!
//! Nothing here knows of the cluster. What runs between processes starts this program a second time (peer.rs), because
//! a client and its nodes are processes, too.

pub mod disk;
pub mod echo;
pub mod link;
pub mod memory;
pub mod peer;
pub mod tcp;

use crate::sample::Sample;

/// A measurement and its name in the report.
pub type Named = (&'static str, Sample);
