//! What each side demands of the other's HELLO: plain functions of two introductions.
//!
//! The listener always introduces itself before it refuses, so that a dialler learns *who* is there and can tell a
//! wrong peer from a broken one.

use crate::identity::{Identity, PeerCertificate, PeerInfo};
use bytes::Bytes;
use cairn_proto::limits::FRAME_BODY_MAX;
use cairn_proto::pb;
use cairn_proto::{BootId, ClusterId, NodeId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Oldest protocol this side speaks.
pub(crate) const PROTO_MIN: u32 = 1;
/// Newest protocol this side speaks.
pub(crate) const PROTO_MAX: u32 = 1;
/// Feature bits this side understands. None are defined in protocol 1.
pub(crate) const FEATURES_SUPPORTED: u64 = 0;
/// Feature bits without which this side will not talk.
pub(crate) const FEATURES_REQUIRED: u64 = 0;
/// Longest `software` text that is kept of a peer.
const SOFTWARE_LEN_MAX: usize = 128;

/// Why two sides do not talk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no common protocol: the other side speaks {min} to {max}, this one {PROTO_MIN} to {PROTO_MAX}")]
    Version { min: u32, max: u32 },
    #[error("the other side requires features {0:#x} that are unknown here")]
    FeaturesUnknown(u64),
    #[error("features {0:#x} are required here and missing on the other side")]
    FeaturesMissing(u64),
    #[error("node {expected} was expected here, this is node {here}")]
    WrongNode { expected: u32, here: u32 },
    #[error("cluster {theirs} is not cluster {ours}")]
    WrongCluster { ours: ClusterId, theirs: ClusterId },
    #[error("the other side says it is a {}, its certificate is of a {}", .says.as_str_name(), .is.as_str_name())]
    WrongRole { says: pb::Role, is: pb::Role },
    #[error("an identity in the introduction is not 16 bytes long")]
    Malformed,
}

impl Refusal {
    /// True when the other side is healthy but not the one that was meant.
    pub fn is_wrong_peer(self) -> bool {
        matches!(self, Self::WrongNode { .. } | Self::WrongCluster { .. } | Self::WrongRole { .. })
    }
}

fn id_bytes(id: [u8; 16]) -> Bytes {
    if id == [0; 16] { Bytes::new() } else { Bytes::copy_from_slice(&id) }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The dialler's introduction.
pub(crate) fn hello(identity: &Identity, expect_node: NodeId, bulk: bool, idle_timeout: Duration) -> pb::Hello {
    pb::Hello {
        proto_min: PROTO_MIN,
        proto_max: PROTO_MAX,
        features_supported: FEATURES_SUPPORTED,
        features_required: FEATURES_REQUIRED,
        cluster_id: id_bytes(identity.cluster_id.0),
        node_id: identity.node_id.0,
        boot_id: id_bytes(identity.boot_id.0),
        max_frame: FRAME_BODY_MAX,
        idle_timeout_ms: millis(idle_timeout),
        expect_node_id: expect_node.0,
        role: identity.role as i32,
        bulk,
        software: identity.software.clone(),
    }
}

/// The listener's introduction.
pub(crate) fn ack(identity: &Identity, idle_timeout: Duration) -> pb::HelloAck {
    pb::HelloAck {
        proto: PROTO_MAX,
        features_supported: FEATURES_SUPPORTED,
        features_required: FEATURES_REQUIRED,
        cluster_id: id_bytes(identity.cluster_id.0),
        node_id: identity.node_id.0,
        boot_id: id_bytes(identity.boot_id.0),
        max_frame: FRAME_BODY_MAX,
        idle_timeout_ms: millis(idle_timeout),
        role: identity.role as i32,
        software: identity.software.clone(),
    }
}

/// What both introductions have in common.
struct Introduction<'a> {
    features_supported: u64,
    features_required: u64,
    cluster_id: &'a [u8],
    node_id: u32,
    boot_id: &'a [u8],
    role: i32,
    software: &'a str,
}

fn parse_id(bytes: &[u8]) -> Result<[u8; 16], Refusal> {
    if bytes.is_empty() { Ok([0; 16]) } else { bytes.try_into().map_err(|_| Refusal::Malformed) }
}

/// Where an introduction came from.
#[derive(Clone, Default)]
pub(crate) struct Origin {
    /// The other end; `None` when the connection was gone before it could be asked.
    pub addr: Option<SocketAddr>,
    /// What the other end has proved of itself; `None` on a network without certificates.
    pub certificate: Option<Arc<PeerCertificate>>,
}

fn judge(identity: &Identity, other: &Introduction<'_>, origin: Origin) -> Result<PeerInfo, Refusal> {
    let role = pb::Role::try_from(other.role).unwrap_or(pb::Role::Unknown);
    if let Some(certificate) = origin.certificate.as_ref().filter(|certificate| certificate.role != role) {
        return Err(Refusal::WrongRole { says: role, is: certificate.role });
    }
    let unknown = other.features_required & !FEATURES_SUPPORTED;
    if unknown != 0 {
        return Err(Refusal::FeaturesUnknown(unknown));
    }
    let missing = FEATURES_REQUIRED & !other.features_supported;
    if missing != 0 {
        return Err(Refusal::FeaturesMissing(missing));
    }
    let cluster_id = ClusterId(parse_id(other.cluster_id)?);
    if !cluster_id.is_nil() && !identity.cluster_id.is_nil() && cluster_id != identity.cluster_id {
        return Err(Refusal::WrongCluster { ours: identity.cluster_id, theirs: cluster_id });
    }
    Ok(PeerInfo {
        role,
        cluster_id,
        node_id: NodeId(other.node_id),
        boot_id: BootId(parse_id(other.boot_id)?),
        software: other.software.chars().take(SOFTWARE_LEN_MAX).collect(),
        certificate: origin.certificate,
        addr: origin.addr,
    })
}

/// The listener's verdict on a dialler.
pub(crate) fn judge_hello(identity: &Identity, hello: &pb::Hello, origin: Origin) -> Result<PeerInfo, Refusal> {
    if hello.proto_min > PROTO_MAX || hello.proto_max < PROTO_MIN {
        return Err(Refusal::Version { min: hello.proto_min, max: hello.proto_max });
    }
    if hello.expect_node_id != 0 && hello.expect_node_id != identity.node_id.0 {
        return Err(Refusal::WrongNode { expected: hello.expect_node_id, here: identity.node_id.0 });
    }
    let introduction = Introduction {
        features_supported: hello.features_supported,
        features_required: hello.features_required,
        cluster_id: &hello.cluster_id,
        node_id: hello.node_id,
        boot_id: &hello.boot_id,
        role: hello.role,
        software: &hello.software,
    };
    judge(identity, &introduction, origin)
}

/// The dialler's verdict on a listener.
pub(crate) fn judge_ack(
    identity: &Identity,
    expect_node: NodeId,
    ack: &pb::HelloAck,
    origin: Origin,
) -> Result<PeerInfo, Refusal> {
    if !(PROTO_MIN..=PROTO_MAX).contains(&ack.proto) {
        return Err(Refusal::Version { min: ack.proto, max: ack.proto });
    }
    if expect_node.0 != 0 && expect_node.0 != ack.node_id {
        return Err(Refusal::WrongNode { expected: expect_node.0, here: ack.node_id });
    }
    let introduction = Introduction {
        features_supported: ack.features_supported,
        features_required: ack.features_required,
        cluster_id: &ack.cluster_id,
        node_id: ack.node_id,
        boot_id: &ack.boot_id,
        role: ack.role,
        software: &ack.software,
    };
    judge(identity, &introduction, origin)
}

#[cfg(test)]
mod tests;
