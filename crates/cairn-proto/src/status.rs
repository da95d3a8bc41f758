//! A failed request as it travels: a code for programs, a message for people.

use crate::pb;
use std::fmt;

pub use crate::pb::Code;

/// The error half of a response.
#[derive(Clone, PartialEq, Debug)]
pub struct Status {
    /// What went wrong, for programs.
    pub code: Code,
    /// What, where and what to do, for people.
    pub message: String,
    /// With [`Code::Overloaded`] and [`Code::Unavailable`]: when to try again, in milliseconds; 0 = whenever.
    pub retry_after_ms: u32,
    /// With [`Code::StaleEpoch`] and [`Code::NoQuorum`]: the group's current row.
    pub pg: Option<Box<pb::PgInfo>>,
}

impl Status {
    /// A status of `code` with its explanation.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: 0, pg: None }
    }

    /// Adds when to try again.
    pub fn retry_after_ms(mut self, retry_after_ms: u32) -> Self {
        self.retry_after_ms = retry_after_ms;
        self
    }

    /// Adds the group's current row.
    pub fn with_pg(mut self, pg: pb::PgInfo) -> Self {
        self.pg = Some(Box::new(pg));
        self
    }

    /// For the wire.
    pub fn to_pb(&self) -> pb::Status {
        pb::Status {
            code: self.code as i32,
            message: self.message.clone(),
            retry_after_ms: self.retry_after_ms,
            pg: self.pg.as_deref().cloned(),
        }
    }

    /// From the wire; a code this side does not know becomes [`Code::Internal`], the message is kept.
    pub fn from_pb(status: pb::Status) -> Self {
        Self {
            code: Code::try_from(status.code).unwrap_or(Code::Internal),
            message: status.message,
            retry_after_ms: status.retry_after_ms,
            pg: status.pg.map(Box::new),
        }
    }
}

/// What metrics and traces call a code: `ok`, `not_found`, ...
pub fn code_name(code: Code) -> String {
    code.as_str_name().trim_start_matches("CODE_").to_ascii_lowercase()
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = code_name(self.code).replace('_', " ");
        if self.message.is_empty() { f.write_str(&name) } else { write!(f, "{}: {}", name, self.message) }
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn travels_and_reads_well() {
        let status = Status::new(Code::NotFound, "/a/b").retry_after_ms(5);
        assert_eq!(Status::from_pb(status.to_pb()), status);
        assert_eq!(status.to_string(), "not found: /a/b");
        let unknown = Status::from_pb(pb::Status { code: 9999, message: "m".into(), ..Default::default() });
        assert_eq!(unknown.code, Code::Internal);
    }
}
