//! Every mode does what it says, and counts it.

use cairn_chaos::proxy::{Counts, Dialing, Direction, FaultProxy, FlipPlace, Latency, Mode};
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::{op, pb};
use prost::Message;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Long enough for anything that is going to happen.
const SOON: Duration = Duration::from_secs(10);
/// Long enough to see that nothing happens.
const NEVER: Duration = Duration::from_millis(150);

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// A proxy and the listener behind it.
struct Fixture {
    listener: TcpListener,
    proxy: FaultProxy,
}

impl Fixture {
    async fn new() -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let proxy = FaultProxy::start(loopback(), listener.local_addr().unwrap(), 1).await.unwrap();
        Self { listener, proxy }
    }

    /// Both ends of a connection through the proxy.
    async fn connect(&self) -> (TcpStream, TcpStream) {
        let (client, server) = tokio::join!(TcpStream::connect(self.proxy.addr()), self.listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    fn fired(&self, family: &str) -> u64 {
        self.proxy.counts().fired.get(family).copied().unwrap_or(0)
    }

    /// Waits until the counters say so.
    async fn until(&self, done: impl Fn(&Counts) -> bool) {
        let wait = async {
            while !done(&self.proxy.counts()) {
                tokio::time::sleep(Duration::from_millis(1)).await; // tidy: sleep-ok(polls counters of another task)
            }
        };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("never: {:?}", self.proxy.counts()));
    }
}

async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    timeout(SOON, stream.write_all(bytes)).await.unwrap().unwrap();
}

async fn receive(stream: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    timeout(SOON, stream.read_exact(&mut bytes)).await.expect("in time").expect("enough bytes");
    bytes
}

/// What comes until the end of the stream or its reset.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let mut bytes = Vec::new();
    let result = timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("in time");
    (bytes, result.err().map(|error| error.kind()))
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    timeout(NEVER, stream.read_u8()).await.is_err()
}

fn frame(frame_type: FrameType, request_id: u64, body: &[u8]) -> Vec<u8> {
    let header = FixedHeader {
        body_len: body.len() as u32,
        flags: flags::END,
        ..FixedHeader::new(frame_type, request_id, op::GET)
    };
    [&header.seal(b"abc")[..], b"abc", body].concat()
}

fn hello(role: pb::Role) -> Vec<u8> {
    let protobuf = pb::Hello { role: role as i32, ..Default::default() }.encode_to_vec();
    [&FixedHeader::new(FrameType::Hello, 0, 0).seal(&protobuf)[..], &protobuf].concat()
}

#[tokio::test]
async fn passes_bytes_and_ends_both_ways_and_counts_frames_of_clients() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    let asked = [hello(pb::Role::Client), frame(FrameType::Request, 1, b""), frame(FrameType::Ping, 0, b"")].concat();
    send(&mut client, &asked).await;
    assert_eq!(receive(&mut server, asked.len()).await, asked);
    let answer = frame(FrameType::Response, 1, &[5; 100_000]);
    send(&mut server, &answer).await;
    assert_eq!(receive(&mut client, answer.len()).await, answer);
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (vec![], None));
    send(&mut server, b"late").await;
    drop(server);
    assert_eq!(rest(&mut client).await, (b"late".to_vec(), None));

    let counts = fixture.proxy.counts();
    assert_eq!((counts.accepts, counts.client_dials, counts.client_gets, counts.client_pings), (1, 1, 1, 1));
    assert_eq!((counts.to_server.frames, counts.to_server.requests), (3, 1));
    assert_eq!(counts.to_client.bytes, answer.len() as u64 + 4);
    assert_eq!(counts.to_client.messages, 1);
    assert!(counts.fired.is_empty());
    fixture.until(|_| fixture.proxy.connections() == 0).await;
}

#[tokio::test]
async fn servers_are_told_from_clients() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    let asked = [hello(pb::Role::Node), frame(FrameType::Request, 1, b"")].concat();
    send(&mut client, &asked).await;
    receive(&mut server, asked.len()).await;
    let counts = fixture.proxy.counts();
    assert_eq!((counts.client_dials, counts.client_gets, counts.to_server.requests), (0, 0, 1));
}

#[tokio::test]
async fn a_delay_keeps_order_and_does_not_serialise() {
    let fixture = Fixture::new().await;
    let latency = Duration::from_millis(100);
    fixture.proxy.set(Direction::ToServer, Mode::Delay(Latency::Fixed(latency)));
    let (mut client, mut server) = fixture.connect().await;
    let begun = Instant::now();
    let mut sent = Vec::new();
    for i in 0..30_u8 {
        send(&mut client, &[i; 100]).await;
        sent.extend_from_slice(&[i; 100]);
        tokio::time::sleep(Duration::from_millis(5)).await; // tidy: sleep-ok(spreads what is sent over time)
    }
    assert_eq!(receive(&mut server, sent.len()).await, sent);
    let elapsed = begun.elapsed();
    assert!(elapsed >= latency + Duration::from_millis(29 * 5), "{elapsed:?}");
    let held = fixture.fired("delay");
    assert!(elapsed < latency * held as u32, "{held} one after the other, or they would not take {elapsed:?}");
    // The other direction is as fast as ever, and the end of the stream is late, too.
    let begun = Instant::now();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await, (vec![], None));
    assert!(begun.elapsed() >= latency);
}

#[tokio::test]
async fn healing_a_delay_lets_nothing_overtake() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToServer, Mode::Delay(Latency::Fixed(Duration::from_millis(200))));
    let (mut client, mut server) = fixture.connect().await;
    send(&mut client, b"first").await;
    fixture.until(|counts| counts.to_server.bytes == 5).await;
    fixture.proxy.set(Direction::ToServer, Mode::Pass);
    send(&mut client, b"second").await;
    assert_eq!(receive(&mut server, 11).await, b"firstsecond");
}

#[tokio::test]
async fn throttled_bytes_take_their_time() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::Throttle { bytes_per_s: 100_000 });
    let (mut client, mut server) = fixture.connect().await;
    let begun = Instant::now();
    send(&mut server, &[1; 30_000]).await;
    receive(&mut client, 30_000).await;
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert!(fixture.fired("throttle") > 5);
}

#[tokio::test]
async fn a_drip_is_a_byte_a_second() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::Drip);
    let (mut client, mut server) = fixture.connect().await;
    send(&mut server, b"xyz").await;
    assert_eq!(receive(&mut client, 1).await, b"x");
    assert!(is_silent(&mut client).await);
    assert_eq!(fixture.fired("drip"), 1);
    fixture.proxy.set(Direction::ToClient, Mode::Pass);
    assert_eq!(receive(&mut client, 2).await, b"yz");
}

#[tokio::test]
async fn a_black_hole_swallows_bytes_and_ends_and_resets_only_when_it_is_over() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    let (mut idle, mut idle_server) = fixture.connect().await;
    fixture.proxy.set_both(Mode::BlackHole);
    send(&mut client, b"gone").await;
    send(&mut server, b"gone, too").await;
    fixture.until(|counts| counts.to_server.bytes == 4 && counts.to_client.bytes == 9).await;
    assert!(is_silent(&mut server).await);
    assert!(is_silent(&mut client).await);
    // Dialling works, and leads nowhere.
    let (mut late, mut late_server) = fixture.connect().await;
    send(&mut late, b"hello?").await;
    assert!(is_silent(&mut late_server).await);
    // The end of a stream is swallowed, too.
    client.shutdown().await.unwrap();
    fixture.until(|counts| counts.fired.get("black_hole").copied() >= Some(4)).await;
    assert!(is_silent(&mut server).await);
    fixture.proxy.heal().await.unwrap();
    assert_eq!(rest(&mut server).await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(rest(&mut late).await.1, Some(ErrorKind::ConnectionReset));
    // What lost nothing goes on.
    send(&mut idle, b"back").await;
    assert_eq!(receive(&mut idle_server, 4).await, b"back");
    let (mut client, mut server) = fixture.connect().await;
    send(&mut client, b"back").await;
    assert_eq!(receive(&mut server, 4).await, b"back");
}

#[tokio::test]
async fn half_open_keeps_the_end_of_the_stream_back() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    fixture.proxy.set(Direction::ToServer, Mode::HalfOpen);
    send(&mut client, b"bytes pass").await;
    assert_eq!(receive(&mut server, 10).await, b"bytes pass");
    drop(client);
    fixture.until(|counts| counts.fired.contains_key("half_open")).await;
    assert!(is_silent(&mut server).await);
    send(&mut server, b"to nobody").await;
    assert!(is_silent(&mut server).await, "writing to the one who is gone does not give it away");
}

#[tokio::test]
async fn resets_after_so_many_bytes() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::ResetAfter { bytes: 1000 });
    let (mut client, mut server) = fixture.connect().await;
    send(&mut server, &[1; 999]).await;
    assert_eq!(receive(&mut client, 999).await.len(), 999);
    send(&mut server, &[1; 999]).await;
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(rest(&mut server).await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(fixture.fired("reset"), 1);
}

#[tokio::test]
async fn truncates_after_so_many_bytes() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::Truncate { bytes: 1000 });
    let (mut client, mut server) = fixture.connect().await;
    send(&mut server, &[1; 1500]).await;
    assert_eq!(rest(&mut client).await, (vec![1; 1000], None));
    assert_eq!(fixture.fired("truncate"), 1);
    drop(client);
    assert_eq!(rest(&mut server).await, (vec![], None));
    drop(server);
    fixture.until(|_| fixture.proxy.connections() == 0).await;
}

#[tokio::test]
async fn flips_one_bit_of_each_body() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::FlipBit { place: FlipPlace::Body, one_in: 2 });
    let (mut client, mut server) = fixture.connect().await;
    let mut flips = 0;
    for i in 0..20 {
        let sent = [frame(FrameType::Response, i, &[7; 5000]), frame(FrameType::Pong, 0, b"")].concat();
        send(&mut server, &sent).await;
        let found = receive(&mut client, sent.len()).await;
        let changed: Vec<usize> = (0..sent.len()).filter(|at| sent[*at] != found[*at]).collect();
        let bits: u32 = changed.iter().map(|at| (sent[*at] ^ found[*at]).count_ones()).sum();
        assert_eq!(bits, u32::from(i % 2 == 1));
        assert!(changed.iter().all(|at| (FIXED_LEN + 3..FIXED_LEN + 3 + 5000).contains(at)));
        flips += u64::from(bits);
    }
    assert_eq!(fixture.fired("flip_bit"), flips);
    fixture.proxy.set(Direction::ToClient, Mode::FlipBit { place: FlipPlace::Any, one_in: 1 });
    let sent = frame(FrameType::Pong, 0, b"");
    send(&mut server, &sent).await;
    assert_ne!(receive(&mut client, sent.len()).await, sent);
}

#[tokio::test]
async fn flips_one_bit_on_each_connection_and_no_more() {
    let fixture = Fixture::new().await;
    for round in 1..3 {
        fixture.proxy.set(Direction::ToClient, Mode::FlipOnce { place: FlipPlace::Body, shot: round });
        let (mut client, mut server) = fixture.connect().await;
        let sent = [frame(FrameType::Pong, 0, b""), frame(FrameType::Response, 1, &[7; 50])].concat();
        send(&mut server, &sent).await;
        let found = receive(&mut client, sent.len()).await;
        assert_eq!(sent.iter().zip(&found).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>(), 1);
        send(&mut server, &sent).await;
        assert_eq!(receive(&mut client, sent.len()).await, sent);
        assert_eq!(fixture.fired("flip_bit"), round);
    }
}

#[tokio::test]
async fn a_long_message_has_one_bit_flipped() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::FlipBit { place: FlipPlace::Body, one_in: 1 });
    let (mut client, mut server) = fixture.connect().await;
    let part = |frame_type, flags| {
        let header = FixedHeader { body_len: 100, flags, ..FixedHeader::new(frame_type, 9, op::GET) };
        [&header.seal(b"")[..], &[0; 100]].concat()
    };
    let sent = [part(FrameType::Response, 0), part(FrameType::Data, 0), part(FrameType::Data, flags::END)].concat();
    for round in 1..4 {
        send(&mut server, &sent).await;
        let found = receive(&mut client, sent.len()).await;
        let bits: u32 = sent.iter().zip(&found).map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(bits, 1);
        assert_eq!(fixture.fired("flip_bit"), round);
    }
}

#[tokio::test]
async fn duplicates_and_reorders_whole_frames() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    let (a, b, c) =
        (frame(FrameType::Response, 1, b"a"), frame(FrameType::Response, 2, b"bb"), frame(FrameType::Pong, 0, b""));
    // The mode is set in the middle of a frame, which passes.
    send(&mut server, &a[..20]).await;
    receive(&mut client, 20).await;
    fixture.proxy.set(Direction::ToClient, Mode::Duplicate { one_in: 2 });
    send(&mut server, &[&a[20..], &b, &c].concat()).await;
    let expected = [&a[20..], &b, &c, &c].concat();
    assert_eq!(receive(&mut client, expected.len()).await, expected);
    assert_eq!(fixture.fired("duplicate"), 1);

    fixture.proxy.set(Direction::ToClient, Mode::Reorder { one_in: 1 });
    send(&mut server, &[a.clone(), b.clone(), c.clone()].concat()).await;
    // The last one has no successor and is let go after a while.
    let expected = [b, a, c].concat();
    assert_eq!(receive(&mut client, expected.len()).await, expected);
    assert_eq!(fixture.fired("reorder"), 1);
}

#[tokio::test]
async fn stops_after_a_header() {
    let fixture = Fixture::new().await;
    fixture.proxy.set(Direction::ToClient, Mode::StopAfterHeader);
    let (mut client, mut server) = fixture.connect().await;
    let (pong, answer) = (frame(FrameType::Pong, 0, b""), frame(FrameType::Response, 1, &[1; 500]));
    send(&mut server, &[pong.clone(), answer.clone(), pong.clone()].concat()).await;
    let expected = [&pong[..], &answer[..FIXED_LEN + 3]].concat();
    assert_eq!(receive(&mut client, expected.len()).await, expected);
    assert!(is_silent(&mut client).await);
    assert_eq!(fixture.fired("stop_after_header"), 1);
    fixture.proxy.set(Direction::ToClient, Mode::Pass);
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn bytes_that_are_no_frames_pass_frame_aware_modes() {
    let fixture = Fixture::new().await;
    fixture.proxy.set_both(Mode::FlipBit { place: FlipPlace::Any, one_in: 1 });
    let (mut client, mut server) = fixture.connect().await;
    let sent = [b'x'; 3000];
    send(&mut client, &sent).await;
    assert_eq!(receive(&mut server, sent.len()).await, sent);
    assert_eq!(fixture.fired("flip_bit"), 0);
}

#[tokio::test]
async fn refuses_and_accepts_again() {
    let fixture = Fixture::new().await;
    let (mut client, mut server) = fixture.connect().await;
    fixture.proxy.set_dialing(Dialing::Refuse).await.unwrap();
    let error = TcpStream::connect(fixture.proxy.addr()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(fixture.fired("refuse"), 1);
    // What stands, stands.
    send(&mut client, b"on").await;
    assert_eq!(receive(&mut server, 2).await, b"on");
    assert_eq!(fixture.proxy.reset_connections(), 1);
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
    fixture.proxy.heal().await.unwrap();
    fixture.connect().await;
}

#[tokio::test]
async fn resets_diallers_after_their_hello() {
    let fixture = Fixture::new().await;
    fixture.proxy.set_dialing(Dialing::Reset).await.unwrap();
    let mut client = TcpStream::connect(fixture.proxy.addr()).await.unwrap();
    send(&mut client, &hello(pb::Role::Client)).await;
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
    fixture.until(|counts| counts.fired.get("reset") == Some(&1)).await;
    let counts = fixture.proxy.counts();
    assert_eq!((counts.accepts, counts.client_dials), (1, 1));
}

#[tokio::test]
async fn a_full_backlog_answers_no_syn() {
    let fixture = Fixture::new().await;
    fixture.proxy.set_dialing(Dialing::SynBlackHole).await.unwrap();
    assert!(timeout(NEVER, TcpStream::connect(fixture.proxy.addr())).await.is_err(), "the dial hangs");
    assert_eq!(fixture.fired("syn_black_hole"), 1);
    fixture.proxy.heal().await.unwrap();
    let (mut client, mut server) = timeout(SOON, fixture.connect()).await.unwrap();
    send(&mut client, b"back").await;
    assert_eq!(receive(&mut server, 4).await, b"back");
    // Those who filled the backlog were not taken for diallers.
    assert!(fixture.proxy.counts().accepts <= 2, "{:?}", fixture.proxy.counts());
}

#[tokio::test]
async fn a_dead_server_resets_its_diallers() {
    let fixture = Fixture::new().await;
    let Fixture { listener, proxy } = fixture;
    drop(listener);
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    send(&mut client, &hello(pb::Role::Client)).await;
    assert_eq!(rest(&mut client).await.1, Some(ErrorKind::ConnectionReset));
    assert_eq!(proxy.counts().client_dials, 1);
}
