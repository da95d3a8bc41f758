use super::{Origin, Refusal, ack, hello, judge_ack, judge_hello};
use crate::identity::{Identity, PeerCertificate};
use bytes::Bytes;
use cairn_proto::pb::Role;
use cairn_proto::{BootId, ClusterId, NodeId};
use std::sync::Arc;
use std::time::Duration;

const A: ClusterId = ClusterId([1; 16]);
const B: ClusterId = ClusterId([2; 16]);

fn node(cluster_id: ClusterId, id: u32) -> Identity {
    Identity { role: Role::Node, cluster_id, node_id: NodeId(id), boot_id: BootId([9; 16]), software: "t".into() }
}

#[test]
fn clusters_must_match_when_both_are_known() {
    for (ours, theirs, talk) in [
        (A, A, true),
        (A, B, false),
        (A, ClusterId::NIL, true),
        (ClusterId::NIL, A, true),
        (ClusterId::NIL, ClusterId::NIL, true),
    ] {
        let hello = hello(&node(theirs, 0), NodeId(0), false, Duration::from_secs(60));
        assert_eq!(judge_hello(&node(ours, 1), &hello, Origin::default()).is_ok(), talk);
        let ack = ack(&node(theirs, 1), Duration::from_secs(60));
        let verdict = judge_ack(&node(ours, 0), NodeId(1), &ack, Origin::default());
        assert_eq!(verdict.is_ok(), talk);
        assert!(verdict.is_ok() || verdict.is_err_and(Refusal::is_wrong_peer));
    }
}

#[test]
fn the_expected_node_must_be_there() {
    for (expected, here, talk) in [(0, 0, true), (0, 5, true), (5, 5, true), (5, 6, false), (5, 0, false)] {
        let hello = hello(&node(A, 0), NodeId(expected), false, Duration::ZERO);
        assert_eq!(judge_hello(&node(A, here), &hello, Origin::default()).is_ok(), talk);
        let ack = ack(&node(A, here), Duration::ZERO);
        let verdict = judge_ack(&node(A, 0), NodeId(expected), &ack, Origin::default());
        let wrong = Err(Refusal::WrongNode { expected, here });
        assert_eq!(verdict.clone().map(|_| ()), if talk { Ok(()) } else { wrong });
    }
}

#[test]
fn versions_must_overlap_and_features_be_known() {
    let ours = node(A, 1);
    let good = hello(&node(A, 0), NodeId(0), true, Duration::ZERO);
    for (min, max, talk) in [(1, 1, true), (0, 9, true), (2, 3, false), (0, 0, false)] {
        let hello = cairn_proto::pb::Hello { proto_min: min, proto_max: max, ..good.clone() };
        assert_eq!(judge_hello(&ours, &hello, Origin::default()).is_ok(), talk, "{min}..={max}");
    }
    let hello = cairn_proto::pb::Hello { features_required: 4, ..good.clone() };
    assert_eq!(judge_hello(&ours, &hello, Origin::default()), Err(Refusal::FeaturesUnknown(4)));
    let hello = cairn_proto::pb::Hello { features_supported: u64::MAX, ..good.clone() };
    assert!(judge_hello(&ours, &hello, Origin::default()).is_ok(), "features a peer offers are no demand");
    let hello = cairn_proto::pb::Hello { boot_id: Bytes::from_static(b"short"), ..good };
    assert_eq!(judge_hello(&ours, &hello, Origin::default()), Err(Refusal::Malformed));
}

#[test]
fn what_is_said_is_what_is_heard() {
    let hello = hello(&node(A, 7), NodeId(0), false, Duration::from_secs(60));
    let peer = judge_hello(&node(A, 1), &hello, Origin::default()).expect("same cluster");
    assert_eq!((peer.role, peer.cluster_id, peer.node_id), (Role::Node, A, NodeId(7)));
    assert_eq!((peer.boot_id, peer.software.as_str()), (BootId([9; 16]), "t"));
    assert_eq!(hello.idle_timeout_ms, 60_000);
}

#[test]
fn a_certificate_is_of_the_role_that_is_said() {
    let of = |role| {
        let certificate = PeerCertificate { role, name: "a".into(), admin: false, fingerprint: [3; 32] };
        Origin { addr: None, certificate: Some(Arc::new(certificate)) }
    };
    let hello = hello(&node(A, 7), NodeId(0), false, Duration::ZERO);
    let ack = ack(&node(A, 7), Duration::ZERO);
    for (role, talk) in [(Role::Node, true), (Role::Client, false), (Role::Meta, false)] {
        let wrong = Err(Refusal::WrongRole { says: Role::Node, is: role });
        let expected = if talk { Ok(Some(role)) } else { wrong };
        let heard = judge_hello(&node(A, 1), &hello, of(role));
        assert_eq!(heard.map(|peer| peer.certificate.map(|shown| shown.role)), expected);
        let heard = judge_ack(&node(A, 0), NodeId(7), &ack, of(role));
        assert_eq!(heard.map(|peer| peer.certificate.map(|shown| shown.role)), expected);
    }
}
