//! Metadata against its engines, whole: one binary.

mod checks;
mod cluster;
mod concurrency;
mod content;
mod dump;
mod durability;
mod engine;
mod extents;
mod give_up;
mod holds;
mod judge;
mod links;
mod locks;
mod mending;
mod moves;
mod names;
mod once;
mod permissions;
mod policies;
mod rollback;
mod sessions;
mod support;
mod tree;
mod upgrade;
mod watched;
mod xattrs;
