//! Decisions, and nothing else: no I/O, no runtime, no clock. Time comes in as a duration since the operation began.

pub(crate) mod groups;
pub(crate) mod load;
pub(crate) mod read_plan;
pub mod rounds;
pub(crate) mod write_plan;
