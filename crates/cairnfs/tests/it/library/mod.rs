//! The client library against a whole cluster in this process.

mod attributes;
mod backup;
mod caching;
mod cluster;
mod consistency;
mod content;
mod failures;
mod files;
mod locks;
mod model;
mod names;
mod spans;
