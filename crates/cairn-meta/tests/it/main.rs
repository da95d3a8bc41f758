//! Metadata against its engines, whole: one binary.

mod checks;
mod cluster;
mod concurrency;
mod dump;
mod durability;
mod engine;
mod extents;
mod judge;
mod moves;
mod names;
mod once;
mod policies;
mod rollback;
mod sessions;
mod support;
mod tree;
mod upgrade;
