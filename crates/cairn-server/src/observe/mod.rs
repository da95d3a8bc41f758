//! What every server measures of its requests, whatever its role: a handler around the role's own one counts, times and
//! traces each of them.

mod handler;
mod requests;

pub(crate) use handler::Observed;
pub(crate) use requests::{RequestStats, ServerSource};
