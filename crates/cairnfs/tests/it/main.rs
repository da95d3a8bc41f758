//! Everything together: the library and the command line against real clusters.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "tests work on real files and sockets")]

mod library;
mod metrics;
mod mounted;
mod shell;
