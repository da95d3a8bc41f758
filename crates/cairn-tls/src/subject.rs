//! What a certificate says of its holder.

use cairn_proto::pb::Role;
use std::fmt;
use std::str::FromStr;

/// Bytes of a name.
pub const NAME_LEN_MAX: usize = 64;
/// How the one URI among a certificate's alternative names begins.
const PREFIX: &str = "urn:cairn:";

/// What a certificate is issued for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A metadata server.
    Meta,
    /// A storage node.
    Node,
    /// A program that uses files: library, command line, mount, gateway.
    Client,
    /// A client that may also do what operators do.
    Admin,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Meta, Self::Node, Self::Client, Self::Admin];

    /// As commands and certificates spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Node => "node",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }

    /// The role that its holder may introduce itself with.
    pub fn role(self) -> Role {
        match self {
            Self::Meta => Role::Meta,
            Self::Node => Role::Node,
            Self::Client | Self::Admin => Role::Client,
        }
    }

    /// It may be dialled.
    pub fn is_server(self) -> bool {
        matches!(self, Self::Meta | Self::Node)
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.word() == text);
        found.ok_or_else(|| format!("{text:?} is none of meta, node, client, admin"))
    }
}

/// The holder of a certificate.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Subject {
    kind: Kind,
    name: String,
}

impl Subject {
    /// # Errors
    /// The name is empty, too long, or has something else in it than letters, digits, `.`, `-` and `_`.
    pub fn new(kind: Kind, name: &str) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if name.is_empty() || name.len() > NAME_LEN_MAX || !name.bytes().all(is_plain) {
            let allowed = format!("1 to {NAME_LEN_MAX} letters, digits, '.', '-' and '_'");
            return Err(format!("{name:?} is no name of a certificate: allowed are {allowed}"));
        }
        Ok(Self { kind, name: name.to_owned() })
    }

    /// What it was issued for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whom it was issued to, unique within its kind.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As it stands among the alternative names of a certificate.
    pub fn uri(&self) -> String {
        format!("{PREFIX}{}:{}", self.kind.word(), self.name)
    }

    /// Of what [`Subject::uri`] gave.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (kind, name) = uri.strip_prefix(PREFIX)?.split_once(':')?;
        Self::new(kind.parse().ok()?, name).ok()
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_come_back() {
        for kind in Kind::ALL {
            let subject = Subject::new(kind, "rack-1.a_b").expect("a plain name");
            assert_eq!(Subject::from_uri(&subject.uri()), Some(subject));
        }
        assert_eq!(Subject::new(Kind::Node, "n1").expect("plain").uri(), "urn:cairn:node:n1");
    }

    #[test]
    fn other_uris_are_nobodys() {
        let long = format!("urn:cairn:node:{}", "x".repeat(NAME_LEN_MAX + 1));
        for uri in ["", "urn:cairn:", "urn:cairn:node", "urn:cairn:node:", "urn:cairn:root:x", "urn:cairn:node:a/b"] {
            assert_eq!(Subject::from_uri(uri), None, "{uri}");
        }
        assert_eq!(Subject::from_uri(&long), None);
        assert_eq!(Subject::from_uri("https://node/n1"), None);
    }
}
