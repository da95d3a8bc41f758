//! On whose behalf a client asks.

use crate::client::DfsClient;
use cairn_proto::pb::{self, request};
use std::sync::Arc;

/// A user, as POSIX knows one. User 0 may do everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Credentials {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups, at most 1,024.
    pub groups: Vec<u32>,
}

/// Who asks; nobody in particular is trusted.
pub(crate) type CallerRef = Option<Arc<pb::Credentials>>;

/// A request to metadata, and on whose behalf.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) kind: request::Kind,
    pub(crate) caller: CallerRef,
}

impl From<request::Kind> for Call {
    fn from(kind: request::Kind) -> Self {
        Self { kind, caller: None }
    }
}

impl Call {
    /// As it travels, but for its operation id.
    pub(crate) fn to_request(&self) -> pb::Request {
        let caller = self.caller.as_deref().cloned();
        pb::Request { kind: Some(self.kind.clone()), caller, ..Default::default() }
    }
}

impl DfsClient {
    /// Another handle to the same connection, whose operations metadata checks as that user's: modes and ACLs of what is
    /// named and of every directory on the way, and what is made belongs to the user. Whether a file may be read or
    /// written is checked when it is opened.
    ///
    /// The word of the client is taken for who the user is, as with AUTH_SYS of NFS: this is for servers that act for
    /// others, and keeps nobody out who can reach metadata.
    pub fn on_behalf_of(&self, credentials: &Credentials) -> Self {
        let Credentials { uid, gid, groups } = credentials.clone();
        let mut client = self.clone();
        client.caller = Some(Arc::new(pb::Credentials { uid, gid, groups }));
        client
    }
}
