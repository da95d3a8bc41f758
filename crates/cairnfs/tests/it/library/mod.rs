//! The client library against a whole cluster in this process.

mod attributes;
mod cluster;
mod consistency;
mod failures;
mod files;
mod model;
mod names;
mod spans;
