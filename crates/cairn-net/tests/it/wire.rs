//! The bytes on the wire, pinned: each fixture stands in docs/formats/wire.md as it is produced here.

use crate::hostile::{Raw, accept};
use crate::support::{call, gated, get, link, poll_once, server_identity, start_with, until};
use bytes::Bytes;
use cairn_net::testing::PipeNet;
use cairn_net::{Body, Call, Identity, Link, LinkConfig, Net};
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::pb::request::Kind;
use cairn_proto::{BootId, ClusterId, NodeId, op, pb};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

const WIRE: &str = include_str!("../../../../docs/formats/wire.md");

/// Hexadecimal, in rows of 40 bytes as the document has them.
fn hex(bytes: &[u8]) -> String {
    let rows: Vec<String> =
        bytes.chunks(FIXED_LEN).map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    rows.join("\n")
}

fn assert_pinned(name: &str, bytes: &[u8]) {
    let fixture = format!("{name}:\n\n```text\n{}\n```", hex(bytes));
    assert!(WIRE.contains(&fixture), "docs/formats/wire.md does not contain\n{fixture}");
}

/// Reads one frame and returns it as it came.
async fn frame(raw: &mut Raw) -> Vec<u8> {
    let mut bytes = raw.take(FIXED_LEN).await;
    let fixed = FixedHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    bytes.extend(raw.take((fixed.header_len + fixed.body_len) as usize).await);
    bytes
}

fn identity() -> Identity {
    Identity {
        role: pb::Role::Client,
        cluster_id: ClusterId([0xc1; 16]),
        node_id: NodeId(0),
        boot_id: BootId([0xb0; 16]),
        software: "cairn/1".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_is_pinned() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let config = Arc::new(LinkConfig::default());
    let link = Link::new(Arc::new(net), "127.0.0.1:7".into(), NodeId(3), identity().shared(), config, 1);
    let mut leg = link.start(call(Kind::Get(pb::GetBlock {
        block: Some(pb::BlockId { inode: 5, writer: 6, seq: 7 }),
        len: 65_536,
        ..Default::default()
    })));
    poll_once(&mut leg).await;
    let (stream, _) = listener.accept().await.unwrap();
    let mut raw = Raw::new(stream);
    assert_pinned("HELLO", &frame(&mut raw).await);
    let ack = pb::HelloAck { proto: 1, node_id: 3, ..Default::default() };
    raw.send(FixedHeader::new(FrameType::HelloAck, 0, 0), &ack.encode_to_vec(), b"").await;
    assert_pinned("REQ, a GET without body", &frame(&mut raw).await);
    drop(leg);
    assert_pinned("CANCEL of it", &frame(&mut raw).await);
    let ping = link.ping(Duration::from_secs(1));
    let answer = async { frame(&mut raw).await };
    let (_, bytes) = tokio::join!(ping, answer);
    assert_pinned("PING", &bytes);

    let mut put = Call {
        body: Body::from_bytes(Bytes::from_static(b"cairn")),
        hedge: true,
        retry: true,
        attempt: 2,
        ..call(Kind::Put(pb::PutBlock {
            block: Some(pb::BlockId { inode: 5, writer: 6, seq: 8 }),
            ..Default::default()
        }))
    };
    put.request.relaxed = true;
    let mut leg = link.start(put);
    poll_once(&mut leg).await;
    assert_pinned("REQ, a PUT with a body of 5 bytes", &frame(&mut raw).await);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_sends_is_pinned() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |config| {
        let identity = Identity { cluster_id: ClusterId([0xc1; 16]), software: "cairn/1".into(), ..server_identity(3) };
        config.identity = identity.shared();
    })
    .await;
    let mut raw = Raw::dial(&net, &server.addr).await;
    let hello = pb::Hello { proto_min: 1, proto_max: 1, bulk: true, ..Default::default() };
    raw.send(FixedHeader::new(FrameType::Hello, 0, 0), &hello.encode_to_vec(), b"").await;
    assert_pinned("HELLO_ACK", &frame(&mut raw).await);

    let request = |id, op| FixedHeader { flags: flags::END, ..FixedHeader::new(FrameType::Request, id, op) };
    let encode = |kind, total_len| pb::Request { kind: Some(kind), total_len, ..Default::default() }.encode_to_vec();
    raw.send(request(1, op::PUT), &encode(Kind::Put(pb::PutBlock::default()), 5), b"cairn").await;
    assert_pinned("RESP, with a body of 5 bytes", &frame(&mut raw).await);
    raw.send(request(2, op::SYNC), &encode(Kind::Sync(pb::SyncBlocks::default()), 0), b"").await;
    assert_pinned("RESP, an error", &frame(&mut raw).await);
    raw.send(request(3, op::LIST), &encode(Kind::List(pb::ListBlocks::default()), 0), b"").await;
    raw.send(FixedHeader::new(FrameType::Cancel, 3, op::LIST), b"", b"").await;
    assert_pinned("RESP, cancelled", &frame(&mut raw).await);
    raw.send(FixedHeader::new(FrameType::Ping, 9, 0), b"", b"").await;
    assert_pinned("PONG", &frame(&mut raw).await);
    let put = Kind::Put(pb::PutBlock { pg_epoch: 1_234, ..Default::default() });
    raw.send(request(10, op::PUT), &encode(put, 5), b"cairn").await;
    assert_pinned("RESP, with what it cost", &frame(&mut raw).await);
    let stopping = tokio::spawn(server.stop());
    assert_pinned("GOAWAY", &frame(&mut raw).await);
    drop(raw);
    stopping.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_body_continues_in_data_frames() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net, "127.0.0.1:7");
    let mut leg = link.start(Call { body: Body::from_bytes(Bytes::from(vec![0; (2 << 20) + 1])), ..gated() });
    poll_once(&mut leg).await;
    let mut raw = accept(listener.as_mut()).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (fixed, header, body) = raw.receive().await.unwrap();
        seen.push((fixed.frame_type, fixed.flags, fixed.request_id, header.is_empty(), body.len()));
    }
    assert_eq!(
        seen,
        [
            (FrameType::Request, 0, 1, false, 1 << 20),
            (FrameType::Data, 0, 1, true, 1 << 20),
            (FrameType::Data, flags::END, 1, true, 1),
        ]
    );
    drop(leg);
    let bytes = frame(&mut raw).await;
    let fixed = FixedHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!((fixed.frame_type, fixed.request_id), (FrameType::Cancel, 1), "after the last frame it is CANCEL");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_in_the_middle_of_an_upload_is_an_abort() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net, "127.0.0.1:7");
    let mut leg = link.start(Call { body: Body::from_bytes(Bytes::from(vec![0; 20 << 20])), ..get(1, 1) });
    poll_once(&mut leg).await;
    let mut raw = accept(listener.as_mut()).await;
    raw.receive().await.unwrap();
    drop(leg);
    let mut bytes_after = 0;
    let last = loop {
        let (fixed, _, body) = raw.receive().await.unwrap();
        bytes_after += body.len();
        if fixed.has(flags::END) {
            break fixed;
        }
    };
    assert_eq!((last.frame_type, last.flags), (FrameType::Data, flags::END | flags::ABORT));
    // What lay in the pipe, and at most the frame that was being written.
    assert!(bytes_after <= 2 << 20, "{bytes_after}");
    assert_eq!(link.stats().bulk.draining, 1);
    let fixed =
        FixedHeader { flags: flags::END | flags::CANCELLED, ..FixedHeader::new(FrameType::Response, 1, op::GET) };
    raw.send(fixed, b"", b"").await;
    until("the connection is free", || link.stats().bulk.idle == 1).await;
}
