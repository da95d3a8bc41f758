//! Measurements as text that Prometheus reads: the OpenMetrics exposition format.
//!
//! A role (client, metadata server, storage node) keeps its measurements in its own atomics, shows them as a [`Source`],
//! and puts its sources into an [`Exposition`] of its own: there are no globals, so that many roles live in one process.
//! [`Histogram`] counts durations and sizes without a lock.
//!
//! This crate knows no role, no clock and no socket. What each name means is in docs/operations/metrics.md.

mod histogram;
mod page;

pub use histogram::{Histogram, Reading};
pub use page::{CONTENT_TYPE, Exposition, Family, Page, Source};
