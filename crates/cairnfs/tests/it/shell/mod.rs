//! The command line, as a user at a shell sees it.

mod copying;
mod faults;
mod garbage;
mod looking;
mod settings;
mod support;
mod tree;
