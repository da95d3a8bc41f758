//! Who speaks: what each side says of itself in HELLO and HELLO_ACK.

use arc_swap::ArcSwap;
use cairn_proto::pb::Role;
use cairn_proto::{BootId, ClusterId, NodeId};
use std::net::SocketAddr;
use std::sync::Arc;

/// What this process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Client, metadata server or storage node.
    pub role: Role,
    /// The cluster it belongs to; [`ClusterId::NIL`] while unknown.
    pub cluster_id: ClusterId,
    /// Its node id; 0 for clients, metadata servers and nodes that are not registered yet.
    pub node_id: NodeId,
    /// Drawn when the process started.
    pub boot_id: BootId,
    /// Name and version, for logs and status.
    pub software: String,
}

/// An identity that may still be learnt: a node hears its cluster and number when it registers. Connections made
/// before keep what they said.
pub type SharedIdentity = Arc<ArcSwap<Identity>>;

impl Identity {
    /// A client of a cluster it does not know yet.
    pub fn client(boot_id: BootId) -> Self {
        Self {
            role: Role::Client,
            cluster_id: ClusterId::NIL,
            node_id: NodeId(0),
            boot_id,
            software: concat!("cairn/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// Makes it shareable.
    pub fn shared(self) -> SharedIdentity {
        Arc::new(ArcSwap::from_pointee(self))
    }
}

/// What a certificate proves of whoever shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The role it was issued for. Operators' programs are clients, too.
    pub role: Role,
    /// Whom it was issued to, unique within its role.
    pub name: String,
    /// It may do what operators do.
    pub admin: bool,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

/// What the other side said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// Client, metadata server or storage node.
    pub role: Role,
    /// Its cluster; [`ClusterId::NIL`] while it does not know.
    pub cluster_id: ClusterId,
    /// Its node id; 0 when it has none.
    pub node_id: NodeId,
    /// Tells a restarted process from a slow one.
    pub boot_id: BootId,
    /// Name and version.
    pub software: String,
    /// What it has proved of itself; `None` on a network without certificates.
    pub certificate: Option<Arc<PeerCertificate>>,
    /// Where it was reached, or where it came from; `None` when the connection was gone before it could be asked.
    pub addr: Option<SocketAddr>,
}
