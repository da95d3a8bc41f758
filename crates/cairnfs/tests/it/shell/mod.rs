//! The command line, as a user at a shell sees it.

mod certs;
mod checking;
mod content;
mod copying;
mod faults;
mod garbage;
mod inspecting;
mod keeping;
mod looking;
mod mending;
mod metadata;
mod mounting;
mod naming;
mod observing;
mod operating;
mod outages;
mod policies;
mod settings;
mod snapshots;
pub mod support;
mod tree;
mod watching;
pub mod wire;

pub use support::{CONSOLE_STEP, Cluster, http_get};
