//! Decisions, and nothing else: no I/O, no runtime, no clock, no random numbers of their own.
//!
//! Time comes in as a duration since an origin (that of the client, unless a function says otherwise), randomness as a
//! number from 0 to 1 or as a function that draws one. What is shared between tasks is atomic or sits behind a lock of
//! its owner. `model` puts the parts together in a simulation of a client with three replicas.

pub(crate) mod breaker;
pub(crate) mod budget;
pub(crate) mod classify;
pub(crate) mod groups;
pub(crate) mod histogram;
pub(crate) mod load;
#[cfg(test)]
mod model;
pub(crate) mod parking;
mod primitives;
pub(crate) mod probes;
pub(crate) mod read_plan;
pub mod rounds;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
pub(crate) mod timers;
pub(crate) mod write_plan;
