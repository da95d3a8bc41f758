//! The command line, as a user at a shell sees it.

mod copying;
mod faults;
mod garbage;
mod inspecting;
mod looking;
mod observing;
mod operating;
mod settings;
mod support;
mod tree;

pub use support::{CONSOLE_STEP, Cluster, http_get};
