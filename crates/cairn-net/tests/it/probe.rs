//! Probes: a sign of life over a fresh connection.

use crate::hostile::{Raw, accept};
use crate::support::{assert_quiet, error_of, gated, get, get_ok, link, link_with, poll_once, start, until};
use cairn_net::testing::PipeNet;
use cairn_net::{CloseReason, ConnectionTotal, LegErrorClass, LinkConfig, Net, TcpNet, now};
use cairn_proto::frame::{FixedHeader, FrameType};
use cairn_proto::pb;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LIMIT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_over_tcp_leaves_its_connection_to_the_control_lane() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    assert_eq!(link.probe(Duration::from_secs(5)).await.unwrap().queue_depth, 3);
    get_ok(&link, 1, 10).await;
    assert_eq!(link.ping(Duration::from_secs(5)).await.unwrap().queue_depth, 3);
    let stats = link.stats();
    assert_eq!((stats.probes, stats.probe_failures, stats.dials, stats.control.open), (1, 0, 0, 1));
    assert!(stats.srtt_us > 0 && link.peer().is_some());
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_takes_the_place_of_an_older_connection_which_finishes_what_it_has() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 1, 100_000).await;
    let mut held = link.start(gated());
    poll_once(&mut held).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 2).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    link.probe(LIMIT).await.unwrap();
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.control.idle, stats.control.retired), (1, 1, 1));
    assert_eq!((stats.bulk.open, stats.bulk.closed(CloseReason::Distrusted)), (0, 1));
    get_ok(&link, 1, 10).await;
    assert_eq!(net.dials(&server.addr), 3);
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    until("the older one is closed", || link.stats().closed(CloseReason::Distrusted) == 2).await;
    assert_quiet(&link, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_younger_connection_stays_and_the_probes_own_is_closed() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net.clone(), "127.0.0.1:7");
    let probing = tokio::spawn({
        let link = link.clone();
        async move { link.probe(LIMIT).await }
    });
    let mut probed = accept(listener.as_mut()).await;
    let (ping, _, _) = probed.receive().await.unwrap();
    assert_eq!((ping.frame_type, ping.request_id), (FrameType::Ping, 1));
    tokio::time::advance(Duration::from_millis(1)).await;
    let mut leg = link.start(get(1, 10));
    poll_once(&mut leg).await;
    let mut younger = accept(listener.as_mut()).await;
    younger.receive().await.unwrap();
    probed.send(FixedHeader::new(FrameType::Pong, 1, 0), &pb::Pong::default().encode_to_vec(), b"").await;
    probing.await.unwrap().unwrap();
    assert_eq!(link.stats().closed(CloseReason::Spare), 1);
    let stats = link.stats();
    assert_eq!(
        (stats.control.open, stats.control.busy, stats.in_flight),
        (1, 1, 1),
        "the younger one keeps its request"
    );
    assert!(probed.receive().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_probe_does_not_trust_a_connection_that_still_works() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 1, 10).await;
    net.refuse(&server.addr, true);
    let error = link.probe(LIMIT).await.unwrap_err();
    assert_eq!(error.class, LegErrorClass::Connect);
    assert!(error.dial.is_some());
    link.ping(LIMIT).await.unwrap();
    let stats = link.stats();
    assert_eq!((stats.probes, stats.probe_failures, stats.dial_failures), (1, 1, 0));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn probes_at_once_are_one_dial_with_one_outcome() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    net.freeze(&server.addr, true);
    let began = now();
    let (one, two, three) = tokio::join!(link.probe(LIMIT), link.probe(LIMIT), link.probe(LIMIT));
    assert_eq!(now() - began, LIMIT);
    let dials: Vec<_> = [one, two, three].into_iter().map(|outcome| outcome.unwrap_err().dial.unwrap()).collect();
    assert!(dials.iter().all(|dial| *dial == dials[0]), "{dials:?}");
    assert_eq!((net.dials(&server.addr), link.stats().probes), (1, 1));
    net.freeze(&server.addr, false);
    link.probe(LIMIT).await.unwrap();
    server.stop().await;
}

/// What hung since before the peer came back does not delay one that begins after it.
#[tokio::test(start_paused = true)]
async fn a_probe_of_its_own_shares_nothing() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    net.freeze(&server.addr, true);
    let hanging = link.probe(LIMIT);
    tokio::pin!(hanging);
    assert!(tokio::time::timeout(Duration::from_millis(1), &mut hanging).await.is_err());
    net.freeze(&server.addr, false);
    let began = now();
    link.probe_anew(LIMIT).await.unwrap();
    assert!(now() - began < LIMIT / 2);
    assert_eq!(net.dials(&server.addr), 2);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_connections_and_answers_nothing_is_not_alive() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let total = ConnectionTotal::new(1);
    let link = link_with(net.clone(), "127.0.0.1:7", |config| config.total_connections = Arc::clone(&total));
    let (probed, mut raw) = tokio::join!(link.probe(LIMIT), accept(listener.as_mut()));
    let error = probed.unwrap_err();
    assert_eq!((error.class, error.dial), (LegErrorClass::Deadline, None));
    assert_eq!(raw.receive().await.unwrap().0.frame_type, FrameType::Ping);
    assert!(raw.receive().await.is_none(), "its connection is gone");
    assert_eq!(total.used(), 0);
    assert_eq!(link.stats().control.open, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_nobody_waits_for_ends_and_closing_ends_it_too() {
    let net = PipeNet::new();
    net.freeze("127.0.0.1:7", true);
    let link = link(net.clone(), "127.0.0.1:7");
    assert!(tokio::time::timeout(Duration::from_millis(1), link.probe(LIMIT)).await.is_err());
    until("its task is gone", || link.stats().tasks == 0).await;
    let (outcome, ()) = tokio::join!(link.probe(LIMIT), async { link.close() });
    assert_eq!(outcome.unwrap_err().class, LegErrorClass::Cancelled);
    assert_eq!(link.probe(LIMIT).await.unwrap_err().class, LegErrorClass::Cancelled);
    until("its task is gone", || link.stats().tasks == 0).await;
}

#[tokio::test(start_paused = true)]
async fn one_failed_dial_has_one_number() {
    let net = PipeNet::new();
    net.refuse("127.0.0.1:7", true);
    let link = link(net.clone(), "127.0.0.1:7");
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let legs: Vec<_> = (0..3).map(|seed| link.start(get(seed, 10))).collect();
        for leg in legs {
            let error = error_of(leg.await);
            assert!(!error.resent);
            numbers.push(error.dial.unwrap());
        }
    }
    assert!(numbers[0] == numbers[1] && numbers[1] == numbers[2] && numbers[2] < numbers[3], "{numbers:?}");
    assert_eq!((numbers[3], numbers[4]), (numbers[5], numbers[5]));
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_the_leg_from_the_side_and_outlives_it() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net, &server.addr);
    assert_eq!((link.last_received(), link.last_sent(), link.last_traffic()), (None, None, None));
    let leg = link.start(get(1, 5_000_000));
    let watch = leg.watch();
    assert_eq!(watch.started(), now());
    assert!(!watch.progress().sent);
    leg.await.unwrap();
    let progress = watch.progress();
    assert!(progress.first_byte && progress.max_gap.is_some() && watch.timing().done.is_some());
    assert_eq!(progress.bytes_received, 5_000_000);
    assert_eq!(link.last_received(), link.stats().last_received);
    assert!(link.last_traffic().is_some() && link.last_traffic() >= link.last_sent());
    drop((link, watch));
    until("the watch does not keep the link", || server.config.stats.connections.load(Ordering::Relaxed) == 0).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_longest_gap_between_frames_is_kept() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net, "127.0.0.1:7");
    let mut leg = link.start(get(1, 70_000));
    let watch = leg.watch();
    poll_once(&mut leg).await;
    let mut raw: Raw = accept(listener.as_mut()).await;
    let (asked, _, _) = raw.receive().await.unwrap();
    let kind = Some(pb::response::Kind::Get(pb::GetBlockReply::default()));
    let header = pb::Response { total_len: 70_000, kind, ..Default::default() }.encode_to_vec();
    raw.send(FixedHeader::new(FrameType::Response, asked.request_id, asked.op), &header, &[0; 10]).await;
    for (pause_ms, len) in [(3, 10), (20, 10), (7, 10)] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await; // tidy: sleep-ok(virtual time)
        raw.send(FixedHeader::new(FrameType::Data, asked.request_id, asked.op), b"", &vec![0; len]).await;
    }
    until("all came", || watch.progress().bytes_received == 40).await;
    assert_eq!(watch.progress().max_gap, Some(Duration::from_millis(20)));
}
