//! Peers that are broken, hostile or from another time: every one of them loses its connection, and nobody else notices.

use crate::support::{
    CLUSTER, call, error_of, get, get_ok, link, link_with, pattern, poll_once, put, server_identity, start, start_with,
    until,
};
use bytes::Bytes;
use cairn_net::testing::{Direction, PipeNet};
use cairn_net::{CloseReason, LegErrorClass, Listener, Net, ReadHalf, Sent, Stream, WriteHalf, now};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::{BootId, op};
use proptest::prelude::*;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A connection spoken by hand.
pub struct Raw {
    read: Box<dyn ReadHalf>,
    write: Box<dyn WriteHalf>,
}

impl Raw {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        let (read, write) = stream.split();
        Self { read, write }
    }

    pub async fn dial(net: &PipeNet, addr: &str) -> Self {
        Self::new(net.connect(addr).await.unwrap())
    }

    /// Dials and says HELLO.
    pub async fn greet(net: &PipeNet, addr: &str, bulk: bool) -> Self {
        let mut raw = Self::dial(net, addr).await;
        raw.send(FixedHeader::new(FrameType::Hello, 0, 0), &hello(bulk).encode_to_vec(), b"").await;
        let (fixed, _, _) = raw.receive().await.unwrap();
        assert_eq!(fixed.frame_type, FrameType::HelloAck);
        raw
    }

    pub async fn send(&mut self, fixed: FixedHeader, header: &[u8], body: &[u8]) {
        let fixed = FixedHeader { body_len: body.len() as u32, body_crc: crc32c(body), ..fixed };
        let mut bytes = fixed.seal(header).to_vec();
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(body);
        self.send_raw(&bytes).await;
    }

    /// Writing to a peer that has closed already is no error of the test.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        let _ = self.write.write_all(bytes).await;
    }

    /// The next `len` bytes as they are.
    pub async fn take(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    pub async fn receive(&mut self) -> Option<(FixedHeader, Vec<u8>, Vec<u8>)> {
        let mut bytes = [0; FIXED_LEN];
        self.read.read_exact(&mut bytes).await.ok()?;
        let fixed = FixedHeader::decode(&bytes).unwrap();
        let mut header = vec![0; fixed.header_len as usize];
        self.read.read_exact(&mut header).await.ok()?;
        fixed.check(&header).unwrap();
        let mut body = vec![0; fixed.body_len as usize];
        self.read.read_exact(&mut body).await.ok()?;
        Some((fixed, header, body))
    }

    /// The peer closes, whatever it says before.
    async fn assert_closed(mut self) {
        let mut sink = vec![0; 4096];
        let closing = async { while self.read.read(&mut sink).await.is_ok_and(|len| len > 0) {} };
        tokio::time::timeout(Duration::from_secs(300), closing).await.expect("the server keeps a broken connection");
    }
}

fn hello(bulk: bool) -> pb::Hello {
    pb::Hello {
        proto_min: 1,
        proto_max: 1,
        cluster_id: Bytes::copy_from_slice(&CLUSTER.0),
        boot_id: Bytes::copy_from_slice(&BootId([4; 16]).0),
        role: pb::Role::Client as i32,
        bulk,
        ..Default::default()
    }
}

fn request(kind: Kind, total_len: u64) -> Vec<u8> {
    pb::Request { total_len, kind: Some(kind), ..Default::default() }.encode_to_vec()
}

fn put_request(total_len: u64) -> Vec<u8> {
    request(Kind::Put(pb::PutBlock::default()), total_len)
}

fn req(id: u64, op: u16, flags: u16) -> FixedHeader {
    FixedHeader { flags, ..FixedHeader::new(FrameType::Request, id, op) }
}

#[tokio::test(start_paused = true)]
async fn what_no_correct_client_sends_closes_its_connection() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    let end = flags::END;
    let data = FixedHeader::new(FrameType::Data, 1, op::PUT);
    let mut wrong_magic = req(1, op::GET, end).seal(b"").to_vec();
    wrong_magic[0] = b'X';
    let mut long_header = req(1, op::GET, end).seal(b"").to_vec();
    long_header[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut long_body = req(1, op::GET, end).seal(b"").to_vec();
    long_body[28..32].copy_from_slice(&(64_u32 << 20).to_le_bytes());
    let mut flipped = req(1, op::PUT, end).seal(&put_request(0)).to_vec();
    flipped.extend(put_request(0));
    *flipped.last_mut().unwrap() ^= 1;
    for (what, bytes) in
        [("magic", wrong_magic), ("header length", long_header), ("body length", long_body), ("flip", flipped)]
    {
        let mut raw = Raw::greet(&net, addr, true).await;
        raw.send_raw(&bytes).await;
        raw.assert_closed().await;
        get_ok(&link(net.clone(), addr), 1, what.len()).await;
    }
    type Frames = Vec<(FixedHeader, Vec<u8>, Vec<u8>)>;
    let sync = || request(Kind::Sync(pb::SyncBlocks::default()), 0);
    let cases: Vec<(&str, Frames)> = vec![
        ("announces more than allowed", vec![(req(1, op::PUT, 0), put_request(104_857_601), vec![1; 10])]),
        ("sends more than announced", vec![(req(1, op::PUT, end), put_request(5), vec![1; 6])]),
        ("sends less than announced", vec![(req(1, op::PUT, end), put_request(5), vec![1; 4])]),
        ("does not end", vec![(req(1, op::PUT, 0), put_request(4), vec![1; 4])]),
        ("sends empty frames", vec![(req(1, op::PUT, 0), put_request(4), vec![])]),
        ("sends data without a request", vec![(data, vec![], vec![1])]),
        ("names another op", vec![(req(1, op::GET, end), put_request(0), vec![])]),
        ("sends no protobuf", vec![(req(1, op::GET, end), vec![0xff; 9], vec![])]),
        ("uses id 0", vec![(req(0, op::SYNC, end), sync(), vec![])]),
        ("uses an id twice", vec![(req(1, op::SYNC, end), sync(), vec![]), (req(1, op::SYNC, end), sync(), vec![])]),
        (
            "mixes bodies",
            vec![
                (req(1, op::PUT, 0), put_request(4), vec![1; 2]),
                (FixedHeader { request_id: 2, flags: end, ..data }, vec![], vec![1; 2]),
            ],
        ),
        (
            "aborts without an end",
            vec![
                (req(1, op::PUT, 0), put_request(4), vec![1; 2]),
                (FixedHeader { flags: flags::ABORT, ..data }, vec![], vec![]),
            ],
        ),
        ("says HELLO again", vec![(FixedHeader::new(FrameType::Hello, 0, 0), hello(true).encode_to_vec(), vec![])]),
        ("answers", vec![(FixedHeader::new(FrameType::Response, 1, op::GET), vec![], vec![])]),
        ("pings with a body", vec![(FixedHeader::new(FrameType::Ping, 1, 0), vec![], vec![1])]),
        (
            "asks twice at once",
            vec![
                (req(1, op::LIST, end), request(Kind::List(pb::ListBlocks::default()), 0), vec![]),
                (req(2, op::LIST, end), request(Kind::List(pb::ListBlocks::default()), 0), vec![]),
            ],
        ),
    ];
    let count = cases.len() + 4;
    for (what, frames) in cases {
        let mut raw = Raw::greet(&net, addr, true).await;
        for (fixed, header, body) in frames {
            raw.send(fixed, &header, &body).await;
        }
        let began = now();
        raw.assert_closed().await;
        assert!(now() - began < Duration::from_secs(1), "{what}: closed by a timer only");
    }
    let stats = &server.config.stats;
    until("all are counted", || stats.broken.load(Ordering::Relaxed) == count as u64).await;
    until("no connection is left", || stats.connections.load(Ordering::Relaxed) == 0).await;
    get_ok(&link(net.clone(), addr), 1, 100).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_control_lane_carries_no_large_bodies() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let mut raw = Raw::greet(&net, &server.addr, false).await;
    raw.send(req(1, op::PUT, flags::END), &put_request(65_537), &[1; 65_537]).await;
    raw.assert_closed().await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_changed_bit_in_a_body_closes_the_connection_but_for_put() {
    let net = PipeNet::new();
    let server = start(&net).await;
    for (kind, op, survives) in
        [(Kind::Put(pb::PutBlock::default()), op::PUT, true), (Kind::Get(pb::GetBlock::default()), op::GET, false)]
    {
        let mut raw = Raw::greet(&net, &server.addr, true).await;
        let fixed = FixedHeader { body_len: 3, body_crc: 1, ..req(1, op, flags::END) };
        let header = request(kind, 3);
        let mut bytes = fixed.seal(&header).to_vec();
        bytes.extend(header);
        bytes.extend(b"abc");
        raw.send_raw(&bytes).await;
        if survives {
            assert_eq!(raw.receive().await.unwrap().2, b"abc", "whoever stores it verifies it");
        } else {
            raw.assert_closed().await;
        }
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_introduce_himself_or_drips_or_sleeps_or_does_not_read_is_put_out() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    let timed = async |raw: Raw| {
        let began = now();
        raw.assert_closed().await;
        (now() - began).as_secs()
    };

    assert_eq!(timed(Raw::dial(&net, addr).await).await, 5, "no HELLO");

    let mut raw = Raw::greet(&net, addr, true).await;
    raw.send_raw(b"CRN1").await;
    let took = timed(raw).await;
    assert!((29..=32).contains(&took), "half a header: {took}");

    let mut raw = Raw::greet(&net, addr, true).await;
    raw.send(req(1, op::PUT, 0), &put_request(10), b"abc").await;
    let took = timed(raw).await;
    assert!((29..=32).contains(&took), "half a body: {took}");

    let Raw { mut read, mut write } = Raw::greet(&net, addr, true).await;
    let drip = tokio::spawn(async move {
        let header = put_request(1_000);
        let fixed = FixedHeader { body_len: 1_000, ..req(1, op::PUT, flags::END) };
        let bytes = [fixed.seal(&header).as_slice(), header.as_slice()].concat();
        let _ = write.write_all(&bytes).await;
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep-ok(virtual time)
        }
    });
    let began = now();
    let _ = read.read_u8().await;
    let took = (now() - began).as_secs();
    assert!((29..=32).contains(&took), "one byte a second: {took}");
    drip.await.unwrap();

    let took = timed(Raw::greet(&net, addr, false).await).await;
    assert!((179..=182).contains(&took), "idle: {took}");

    // Asks for much and reads nothing: the writer is stuck.
    let mut raw = Raw::greet(&net, addr, true).await;
    let get = Kind::Get(pb::GetBlock { offset: 1, len: 8 << 20, ..Default::default() });
    raw.send(req(1, op::GET, flags::END), &request(get, 0), b"").await;
    let stats = &server.config.stats;
    let began = now();
    tokio::time::sleep(Duration::from_secs(25)).await; // tidy: sleep-ok(virtual time)
    assert_eq!(stats.connections.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_secs(8)).await; // tidy: sleep-ok(virtual time)
    assert_eq!(stats.connections.load(Ordering::Relaxed), 0, "after {:?}", now() - began);
    drop(raw);
    get_ok(&link(net.clone(), addr), 1, 100).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_connections_are_turned_away_and_harm_nobody() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |config| config.max_connections = 3).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 1, 10).await;
    let held = [Raw::dial(&net, &server.addr).await, Raw::dial(&net, &server.addr).await];
    Raw::dial(&net, &server.addr).await.assert_closed().await;
    get_ok(&link, 1, 10).await;
    drop(held);
    let stats = &server.config.stats;
    until("they are gone", || stats.connections.load(Ordering::Relaxed) == 1).await;
    get_ok(&link, 1, 100_000).await;
    assert_eq!(stats.turned_away.load(Ordering::Relaxed), 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_handshake_says_why() {
    let net = PipeNet::new();
    let server = start(&net).await;
    for (change, text) in [
        (pb::Hello { proto_min: 2, proto_max: 9, ..hello(false) }, "protocol"),
        (pb::Hello { features_required: 8, ..hello(false) }, "0x8"),
        (pb::Hello { expect_node_id: 77, ..hello(false) }, "node 77"),
        (pb::Hello { cluster_id: Bytes::from(vec![9; 16]), ..hello(false) }, "cluster"),
    ] {
        let mut raw = Raw::dial(&net, &server.addr).await;
        raw.send(FixedHeader::new(FrameType::Hello, 0, 0), &change.encode_to_vec(), b"").await;
        let (fixed, header, _) = raw.receive().await.unwrap();
        assert_eq!(fixed.frame_type, FrameType::HelloAck);
        assert_eq!(pb::HelloAck::decode(header.as_slice()).unwrap().node_id, 5);
        let (fixed, header, _) = raw.receive().await.unwrap();
        assert_eq!(fixed.frame_type, FrameType::GoAway);
        let reason = pb::GoAway::decode(header.as_slice()).unwrap().reason;
        assert!(reason.contains(text), "{reason}");
        raw.assert_closed().await;
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_operation_is_an_answer() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let mut raw = Raw::greet(&net, &server.addr, true).await;
    let newer = pb::Request { total_len: 9, ..Default::default() }.encode_to_vec();
    raw.send(req(1, 9_999, flags::END), &newer, b"from 2031").await;
    let (fixed, header, _) = raw.receive().await.unwrap();
    assert!(fixed.has(flags::ERROR) && fixed.has(flags::END));
    let error = pb::Response::decode(header.as_slice()).unwrap().error.unwrap();
    assert_eq!(error.code(), pb::Code::Unsupported);
    raw.send(req(2, op::SYNC, flags::END | 1 << 15), &request(Kind::Sync(pb::SyncBlocks::default()), 0), b"").await;
    assert_eq!(raw.receive().await.unwrap().0.request_id, 2, "unknown flags are ignored");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_deadline_passed_on_the_way_never_reaches_the_handler() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let mut raw = Raw::greet(&net, &server.addr, true).await;
    let late = FixedHeader { deadline_ms: 100, ..req(1, op::PUT, 0) };
    raw.send(late, &put_request(2), b"a").await;
    tokio::time::sleep(Duration::from_millis(101)).await; // tidy: sleep-ok(virtual time)
    raw.send(FixedHeader { flags: flags::END, ..FixedHeader::new(FrameType::Data, 1, op::PUT) }, b"", b"b").await;
    let (_, header, _) = raw.receive().await.unwrap();
    assert_eq!(pb::Response::decode(header.as_slice()).unwrap().error.unwrap().code(), pb::Code::Deadline);
    assert_eq!(server.echo.seen.load(Ordering::SeqCst), 0);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_given_up_is_confirmed() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let mut raw = Raw::greet(&net, &server.addr, true).await;
    raw.send(req(1, op::PUT, 0), &put_request(10), b"abc").await;
    let abort = flags::ABORT | flags::END;
    raw.send(FixedHeader { flags: abort, ..FixedHeader::new(FrameType::Data, 1, op::PUT) }, b"", b"").await;
    let (fixed, _, _) = raw.receive().await.unwrap();
    assert_eq!((fixed.request_id, fixed.flags), (1, flags::END | flags::CANCELLED));
    assert_eq!(server.echo.seen.load(Ordering::SeqCst), 0);
    raw.send(req(2, op::PUT, flags::END), &put_request(3), b"abc").await;
    assert_eq!(raw.receive().await.unwrap().2, b"abc");
    server.stop().await;
}

/// A server spoken by hand: says HELLO_ACK and hands over.
pub async fn accept(listener: &mut dyn Listener) -> Raw {
    let (stream, _) = listener.accept().await.unwrap();
    let mut raw = Raw::new(stream);
    let (fixed, _, _) = raw.receive().await.unwrap();
    assert_eq!(fixed.frame_type, FrameType::Hello);
    let identity = server_identity(5);
    let ack = pb::HelloAck {
        proto: 1,
        cluster_id: Bytes::copy_from_slice(&identity.cluster_id.0),
        node_id: identity.node_id.0,
        ..Default::default()
    };
    raw.send(FixedHeader::new(FrameType::HelloAck, 0, 0), &ack.encode_to_vec(), b"").await;
    raw
}

fn response(total_len: u64) -> Vec<u8> {
    let kind = Some(response::Kind::Get(pb::GetBlockReply::default()));
    pb::Response { total_len, kind, ..Default::default() }.encode_to_vec()
}

fn resp(id: u64, flags: u16) -> FixedHeader {
    FixedHeader { flags, ..FixedHeader::new(FrameType::Response, id, op::GET) }
}

#[tokio::test(start_paused = true)]
async fn what_no_correct_server_sends_fails_the_leg_and_closes() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let end = flags::END;
    let data = |flags| FixedHeader { flags, ..FixedHeader::new(FrameType::Data, 1, op::GET) };
    type Frames = Vec<(FixedHeader, Vec<u8>, Vec<u8>)>;
    use LegErrorClass::{Aborted, Cancelled, Protocol, TooLarge};
    let cases: Vec<(LegErrorClass, Frames)> = vec![
        (TooLarge, vec![(resp(1, 0), response(104_857_601), vec![1; 10])]),
        (TooLarge, vec![(resp(1, 0), response(100_001), vec![1; 10])]),
        (Protocol, vec![(resp(1, end), response(5), vec![1; 6])]),
        (Protocol, vec![(resp(1, end), response(5), vec![1; 4])]),
        (Protocol, vec![(resp(1, 0), response(5), vec![])]),
        (Protocol, vec![(resp(2, end), response(0), vec![])]),
        (Protocol, vec![(FixedHeader { op: op::PUT, ..resp(1, end) }, response(0), vec![])]),
        (Protocol, vec![(resp(1, end), vec![0xff; 9], vec![])]),
        (Protocol, vec![(data(end), vec![], vec![1])]),
        (Protocol, vec![(resp(1, 0), response(5), vec![1; 2]), (resp(1, end), response(3), vec![1; 3])]),
        (Aborted, vec![(resp(1, 0), response(5), vec![1; 2]), (data(end | flags::ABORT), vec![], vec![])]),
        (Cancelled, vec![(resp(1, end | flags::CANCELLED), vec![], vec![])]),
    ];
    for (index, (class, frames)) in cases.into_iter().enumerate() {
        let link = link(net.clone(), "127.0.0.1:7");
        let mut leg = link.start(get(1, 100_000));
        poll_once(&mut leg).await;
        let mut raw = accept(listener.as_mut()).await;
        raw.receive().await.unwrap();
        for (fixed, header, body) in frames {
            raw.send(fixed, &header, &body).await;
        }
        let error = error_of(leg.await);
        assert_eq!(error.class, class, "case {index}: {error}");
        assert_ne!(error.sent, Sent::No);
        if matches!(class, Protocol | TooLarge) {
            raw.assert_closed().await;
            assert_eq!(link.stats().closed(CloseReason::Protocol), 1);
        } else {
            assert_eq!(link.stats().bulk.idle, 1, "an orderly end leaves the connection usable");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_response_sent_twice_reaches_nobody_twice() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net.clone(), "127.0.0.1:7");
    let mut first = link.start(get(1, 3));
    poll_once(&mut first).await;
    let mut raw = accept(listener.as_mut()).await;
    raw.receive().await.unwrap();
    raw.send(resp(1, flags::END), &response(3), b"one").await;
    assert_eq!(first.await.unwrap().body, "one");
    let mut second = link.start(get(2, 3));
    poll_once(&mut second).await;
    raw.receive().await.unwrap();
    raw.send(resp(1, flags::END), &response(3), b"one").await;
    raw.send(resp(2, flags::END), &response(3), b"two").await;
    assert_eq!(second.await.unwrap().body, "two");
    assert_eq!(link.stats().late_responses, 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_upload_stops_and_its_connection_lives() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net.clone(), "127.0.0.1:7");
    let mut leg = link.start(put(pattern(1, 20_000_000)));
    poll_once(&mut leg).await;
    let mut raw = accept(listener.as_mut()).await;
    raw.receive().await.unwrap();
    let status = pb::Status { code: pb::Code::NoSpace as i32, message: "full".into(), ..Default::default() };
    let refusal = pb::Response { error: Some(status), ..Default::default() }.encode_to_vec();
    let fixed = FixedHeader { op: op::PUT, ..resp(1, flags::END | flags::ERROR) };
    raw.send(fixed, &refusal, b"").await;
    let error = error_of(leg.await);
    assert_eq!(error.status().unwrap().code, pb::Code::NoSpace);
    let mut frames = 0;
    loop {
        let (fixed, _, body) = raw.receive().await.unwrap();
        frames += 1;
        if fixed.has(flags::END) {
            assert!(fixed.has(flags::ABORT) && body.is_empty());
            break;
        }
    }
    assert!(frames < 10, "{frames} of 20 frames came after the refusal");
    until("the connection is free", || link.stats().bulk.idle == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_anywhere_in_a_response_is_never_delivered() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    let link = link_with(net.clone(), addr, |_| ());
    let reply = get_ok(&link, 3, 5_000).await;
    let ack_len = {
        let mut raw = Raw::dial(&net, addr).await;
        raw.send(FixedHeader::new(FrameType::Hello, 0, 0), &hello(false).encode_to_vec(), b"").await;
        let (fixed, _, _) = raw.receive().await.unwrap();
        FIXED_LEN as u64 + u64::from(fixed.header_len)
    };
    let response_len = FIXED_LEN as u64 + reply.response.encoded_len() as u64 + 5_000;
    let mut rng = fastrand::Rng::with_seed(5);
    let flips = Arc::new(AtomicUsize::new(0));
    for round in 0..300 {
        // All of the header, some of the body.
        let at = ack_len + if round < 60 { round } else { rng.u64(..response_len) };
        let bit = rng.u8(..8);
        let fired = Arc::clone(&flips);
        net.tamper(
            addr,
            Some(Arc::new(move |direction, offset, bytes: &mut [u8]| {
                if direction == Direction::ToDialler && (offset..offset + bytes.len() as u64).contains(&at) {
                    bytes[(at - offset) as usize] ^= 1 << bit;
                    fired.fetch_add(1, Ordering::SeqCst);
                }
            })),
        );
        let link = link_with(net.clone(), addr, |_| ());
        let mut wanted = get(3, 5_000);
        wanted.deadline = now() + Duration::from_secs(1);
        let error = error_of(link.start(wanted).await);
        assert!(matches!(error.class, LegErrorClass::Corrupt), "byte {at}, bit {bit}: {error}");
    }
    assert_eq!(flips.load(Ordering::SeqCst), 300);
    net.tamper(addr, None);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_unverified_body_is_the_callers_to_verify() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    net.tamper(
        addr,
        Some(Arc::new(|direction, offset, bytes: &mut [u8]| {
            if direction == Direction::ToDialler && (offset..offset + bytes.len() as u64).contains(&50_000) {
                bytes[(50_000 - offset) as usize] ^= 1;
            }
        })),
    );
    let link = link(net.clone(), addr);
    let mut blind = get(3, 100_000);
    blind.verify_body = false;
    assert_ne!(link.start(blind).await.unwrap().body, pattern(3, 100_000));
    let link = crate::support::link(net.clone(), addr);
    assert_eq!(error_of(link.start(get(3, 100_000)).await).class, LegErrorClass::Corrupt);
    assert_eq!(link.stats().body_crc_failures, 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_response_whose_first_frame_was_changed_still_comes_whole_for_who_verifies_it() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    net.tamper(
        addr,
        Some(Arc::new(|direction, offset, bytes: &mut [u8]| {
            if direction == Direction::ToDialler && (offset..offset + bytes.len() as u64).contains(&50_000) {
                bytes[(50_000 - offset) as usize] ^= 1;
            }
        })),
    );
    let link = link(net.clone(), addr);
    let mut blind = get(3, 5_000_000);
    blind.verify_body = false;
    let body = link.start(blind).await.unwrap().body;
    let sent = pattern(3, 5_000_000);
    assert_eq!(body.len(), sent.len());
    assert_eq!(body.iter().zip(sent.iter()).filter(|(one, other)| one != other).count(), 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_largest_response_is_accepted() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 9, 99 << 20).await;
    let mut call = call(Kind::Get(pb::GetBlock { offset: 1, len: 104_857_601, ..Default::default() }));
    call.response_max = u64::MAX;
    let error = error_of(link.start(call).await);
    assert_eq!(error.status().unwrap().code, pb::Code::TooLarge);
    server.stop().await;
}

/// A frame that is almost right.
fn fuzzed_frame() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        Just(put_request(5)),
        Just(request(Kind::Sync(pb::SyncBlocks::default()), 0)),
        prop::collection::vec(any::<u8>(), 0..60),
    ];
    (1u8..=9, any::<u16>(), 0u64..4, any::<u16>(), header, prop::collection::vec(any::<u8>(), 0..300), 0usize..4)
        .prop_map(|(kind, flags, request_id, op, header, body, damage)| {
            let kinds = [
                FrameType::Hello,
                FrameType::HelloAck,
                FrameType::Request,
                FrameType::Response,
                FrameType::Data,
                FrameType::Cancel,
                FrameType::Ping,
                FrameType::Pong,
                FrameType::GoAway,
            ];
            let fixed = FixedHeader {
                flags: flags & 0x3f,
                body_len: body.len() as u32,
                body_crc: crc32c(&body),
                ..FixedHeader::new(kinds[usize::from(kind) - 1], request_id, if op % 2 == 0 { op::PUT } else { op })
            };
            let mut bytes = fixed.seal(&header).to_vec();
            bytes.extend(header);
            bytes.extend(body);
            if damage == 0 {
                let at = usize::from(op) % bytes.len();
                bytes[at] ^= 1 << (op % 8);
            }
            bytes
        })
}

#[test]
fn fuzzed_frames_neither_stop_a_server_nor_a_client() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let net = PipeNet::new();
    let server = runtime.block_on(start(&net));
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(frames in prop::collection::vec(fuzzed_frame(), 1..6), greet in any::<bool>(), bulk in any::<bool>())| {
        runtime.block_on(async {
            let bytes = frames.concat();
            let mut raw = if greet {
                Raw::greet(&net, &server.addr, bulk).await
            } else {
                Raw::dial(&net, &server.addr).await
            };
            raw.send_raw(&bytes).await;
            raw.assert_closed().await;

            let mut listener = net.bind("127.0.0.1:7").await.unwrap();
            let link = link(net.clone(), "127.0.0.1:7");
            let mut leg = link.start(get(1, if bulk { 100_000 } else { 100 }));
            poll_once(&mut leg).await;
            let mut raw = accept(listener.as_mut()).await;
            raw.receive().await.unwrap();
            raw.send_raw(&bytes).await;
            drop(raw);
            // Whatever it is, it ends; a well-formed answer may be among the frames.
            let _ = leg.await;
        });
    });
    runtime.block_on(async {
        get_ok(&link(net.clone(), &server.addr), 1, 1_000).await;
        until("nothing is left", || server.config.stats.running.load(Ordering::Relaxed) == 0).await;
        assert_eq!(server.config.body_bytes.available_permits(), 256 << 20);
        server.stop().await;
    });
}
