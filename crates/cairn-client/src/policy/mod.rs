//! Decisions, and nothing else: no I/O, no runtime, no clock, no random numbers of their own.
//!
//! Time comes in as a duration since an origin (that of the client, unless a function says otherwise), randomness as a
//! number from 0 to 1 or as a function that draws one. What is shared between tasks is atomic or sits behind a lock of
//! its owner. `model` puts the parts together in a simulation of a client with three replicas.

#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod breaker;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod budget;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod classify;
pub(crate) mod groups;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod histogram;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod load;
#[cfg(test)]
mod model;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod parking;
mod primitives;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod probes;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod read_plan;
pub mod rounds;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod timers;
#[allow(dead_code, reason = "used by the connection layer that is being rewritten")]
pub(crate) mod write_plan;
