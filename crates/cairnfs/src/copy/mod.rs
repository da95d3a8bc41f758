//! Copying between the local disk and CairnFS: what lands where (plan.rs), how a tree is walked (engine.rs), the two
//! directions (put.rs, get.rs), what is said about it (report.rs, progress.rs).

pub mod engine;
pub mod get;
mod links;
mod local;
mod memory;
pub mod plan;
pub mod progress;
pub mod put;
pub mod report;

/// A file of at most this many bytes is copied in one piece: read whole, then written in one step.
const PIECE_LEN: usize = 4 * 1024 * 1024;

/// The path that stands for standard input or output.
pub fn is_standard(path: &std::path::Path) -> bool {
    path.as_os_str() == "-"
}
