//! The atomics and the lock that concurrent policy state is made of: those of the platform, or under the feature
//! `shuttle` (unit tests only) those of a scheduler that tries many interleavings.

#[cfg(not(all(test, feature = "shuttle")))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(all(test, feature = "shuttle"))]
pub(crate) use shuttle::sync::atomic::{AtomicU64, Ordering};
