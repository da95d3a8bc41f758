//! Which connection a request goes over: another one than failed it, a second dial beside a slow one, the minimum kept.

use crate::hostile::accept;
use crate::support::{
    assert_quiet, call, error_of, gated, get, get_ok, link, link_with, pattern, poll_once, put, start, start_with,
    until,
};
use cairn_net::testing::PipeNet;
use cairn_net::{Call, CloseReason, ConnectionTotal, Leg, LegErrorClass, Link, LinkConfig, Net, Route, Sent, now};
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn avoiding(link: &Link, call: Call, avoid: Option<u64>) -> Leg {
    link.start_on(call, Route { avoid, ..Route::default() })
}

fn alone(link: &Link, call: Call) -> Leg {
    link.start_on(call, Route { alone: true, ..Route::default() })
}

#[tokio::test(start_paused = true)]
async fn a_second_attempt_goes_over_another_connection_than_the_first() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    for len in [10, 100_000] {
        let mut first = gated();
        first.response_max = len as u64;
        let mut first = link.start(first);
        let watch = first.watch();
        assert_eq!(watch.connection(), None);
        poll_once(&mut first).await;
        until("it has a connection", || watch.connection().is_some()).await;
        let second = avoiding(&link, get(7, len), watch.connection());
        let watch_second = second.watch();
        assert_eq!(second.await.unwrap().body, pattern(7, len));
        assert_ne!(watch_second.connection(), watch.connection());
        let stats = link.stats();
        assert_eq!(stats.in_flight, 1, "the first one is still under way");
        assert_eq!(stats.control.retired, usize::from(len == 10), "where it serves nobody else on the control lane");
        let third = avoiding(&link, get(8, len), watch.connection());
        let watch_third = third.watch();
        third.await.unwrap();
        assert_eq!(watch_third.connection(), watch_second.connection(), "which is reused");
        server.echo.gate.add_permits(1);
        first.await.unwrap();
    }
    assert_eq!(net.dials(&server.addr), 4);
    until("the older one is closed", || link.stats().closed(CloseReason::Distrusted) == 1).await;
    assert_quiet(&link, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_names_its_connection() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let mut late = gated();
    late.deadline = now() + Duration::from_millis(20);
    let error = error_of(link.start(late).await);
    assert_eq!((error.class.clone(), error.connection), (LegErrorClass::Deadline, Some(1)));
    let error = error_of(avoiding(&link, call(Kind::Sync(pb::SyncBlocks::default())), error.connection).await);
    assert_eq!((error.sent, error.connection), (Sent::Responded, Some(2)));
    net.refuse(&server.addr, true);
    let error = error_of(avoiding(&link, get(1, 10), error.connection).await);
    assert_eq!((error.class, error.connection), (LegErrorClass::Connect, None));
    get_ok(&link, 1, 10).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_dial_costs_little_where_nobody_else_can_answer() {
    let net = PipeNet::new();
    let server = start(&net).await;
    for (len, is_bulk) in [(10, false), (100_000, true)] {
        let total = ConnectionTotal::new(9);
        let link = link_with(net.clone(), &server.addr, |config| config.total_connections = Arc::clone(&total));
        net.freeze(&server.addr, true);
        let began = now();
        let mut leg = alone(&link, get(3, len));
        poll_once(&mut leg).await;
        tokio::time::sleep(Duration::from_millis(100)).await; // tidy: sleep-ok(virtual time)
        // The first dial hangs for ever: what it sent is lost.
        net.freeze(&server.addr, false);
        assert_eq!(leg.await.unwrap().body, pattern(3, len));
        let took = now() - began;
        assert!((250..300).contains(&took.as_millis()), "{took:?}");
        let stats = link.stats();
        let lane = if is_bulk { stats.bulk } else { stats.control };
        assert_eq!((lane.dials, lane.spare_dials, lane.dial_failures, lane.open), (1, 1, 0, 1));
        assert_eq!(total.used(), 1, "the loser's place is back");
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn where_others_can_answer_one_dial_is_enough() {
    let net = PipeNet::new();
    net.freeze("127.0.0.1:7", true);
    let link = link(net.clone(), "127.0.0.1:7");
    let error = error_of(link.start(get(3, 10)).await);
    assert_eq!(error.class, LegErrorClass::Connect);
    assert_eq!((net.dials("127.0.0.1:7"), link.stats().control.spare_dials), (1, 0));
    let error = error_of(alone(&link, get(3, 10)).await);
    assert_eq!(error.class, LegErrorClass::Connect);
    assert_eq!((net.dials("127.0.0.1:7"), link.stats().control.spare_dials), (3, 1), "one beside the first, not more");
    assert_eq!(link.stats().dial_failures, 2, "both together are one failure");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_is_dialled_once_for_all_who_wait() {
    let net = PipeNet::new();
    let link = link_with(net.clone(), "127.0.0.1:7", |config| config.connect_timeout = Duration::from_secs(1));
    net.freeze("127.0.0.1:7", true);
    let _ = error_of(link.start(get(1, 10)).await);
    let legs: Vec<_> = (0..8).map(|seed| link.start(get(seed, 100_000))).collect();
    let mut dials = Vec::new();
    for leg in legs {
        dials.push(error_of(leg.await).dial.unwrap());
    }
    dials.dedup();
    assert_eq!((dials.len(), net.dials("127.0.0.1:7")), (1, 2));

    net.freeze("127.0.0.1:7", false);
    let server = start_with(&net, "127.0.0.1:7", |_| ()).await;
    let mut legs: Vec<_> = (0..4)
        .map(|_| {
            let mut call = gated();
            call.response_max = 100_000;
            link.start(call)
        })
        .collect();
    for leg in &mut legs {
        poll_once(leg).await;
    }
    until("all are there at once", || server.echo.seen.load(Ordering::SeqCst) == 4).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_minimum_is_kept_once_the_peer_is_known() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.clone();
    let link = link_with(net.clone(), &addr, |config| {
        config.control_min = 1;
        config.bulk_min = 2;
    });
    tokio::time::sleep(Duration::from_secs(5)).await; // tidy: sleep-ok(virtual time)
    assert_eq!(net.dials(&addr), 0, "nobody asked it anything yet");
    get_ok(&link, 1, 10).await;
    until("the minimum is there", || link.stats().bulk.open == 2).await;
    tokio::time::sleep(Duration::from_secs(61)).await; // tidy: sleep-ok(virtual time)
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open, stats.closed(CloseReason::Idle)), (1, 2, 0));

    server.stop().await;
    until("they are gone", || link.stats().control.open + link.stats().bulk.open == 0).await;
    net.refuse(&addr, true);
    let dials = net.dials(&addr);
    tokio::time::sleep(Duration::from_secs(300)).await; // tidy: sleep-ok(virtual time)
    let tries = net.dials(&addr) - dials;
    assert!((4..=24).contains(&tries), "{tries} dials of a dead peer in five minutes");
    net.refuse(&addr, false);
    let server = start_with(&net, &addr, |_| ()).await;
    tokio::time::sleep(Duration::from_secs(65)).await; // tidy: sleep-ok(virtual time)
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open), (1, 2));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn drains_are_counted_with_what_became_of_them() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    for (len, frozen) in [(10, false), (100_000, false), (100_000, true)] {
        let mut call = gated();
        call.response_max = len;
        let mut leg = link.start(call);
        poll_once(&mut leg).await;
        until("it is sent", || leg.progress().sent).await;
        net.freeze(&server.addr, frozen);
        drop(leg);
        until("it is over", || link.stats().bulk.draining == 0).await;
    }
    let stats = link.stats();
    assert_eq!((stats.control.drains, stats.control.drains_survived), (1, 1));
    assert_eq!((stats.bulk.drains, stats.bulk.drains_survived), (2, 1));
    assert_eq!((stats.bulk.closed(CloseReason::Drain), stats.control.closed(CloseReason::Drain)), (1, 0));
    net.freeze(&server.addr, false);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_moves_may_take_longer_while_nobody_waits() {
    for (waits, moves, expected) in [(false, true, 200), (true, true, 50), (false, false, 50)] {
        let net = PipeNet::new();
        let mut listener = net.bind("127.0.0.1:7").await.unwrap();
        let link = link_with(net, "127.0.0.1:7", |config| config.bulk_max = 1);
        let mut leg = link.start(get(1, 100_000));
        poll_once(&mut leg).await;
        let mut raw = accept(listener.as_mut()).await;
        let (asked, _, _) = raw.receive().await.unwrap();
        let began = now();
        drop(leg);
        let mut waiting = waits.then(|| link.start(get(2, 100_000)));
        if let Some(leg) = &mut waiting {
            poll_once(leg).await;
        }
        while link.stats().closed(CloseReason::Drain) == 0 {
            if moves {
                raw.send(FixedHeader::new(FrameType::Pong, 99, 0), b"", b"").await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await; // tidy: sleep-ok(virtual time)
        }
        let took = (now() - began).as_millis() as u64;
        assert!((expected..expected + 10).contains(&took), "{waits} {moves}: {took}");
        drop((waiting, asked));
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_cancelled_on_a_slow_peer_keeps_its_connection() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net, "127.0.0.1:7");
    let mut leg = link.start(put(pattern(1, 20_000_000)));
    poll_once(&mut leg).await;
    let mut raw = accept(listener.as_mut()).await;
    let (asked, _, _) = raw.receive().await.unwrap();
    drop(leg);
    // What was begun trickles out for longer than the drain timeout, then the ABORT comes and is confirmed.
    let mut taken = 0;
    let last = loop {
        tokio::time::sleep(Duration::from_millis(30)).await; // tidy: sleep-ok(virtual time)
        let (fixed, _, body) = raw.receive().await.unwrap();
        taken += body.len();
        if fixed.has(flags::END) {
            break fixed;
        }
    };
    assert!(last.has(flags::ABORT) && taken <= 2 << 20, "{taken}");
    let done = FixedHeader {
        flags: flags::END | flags::CANCELLED,
        ..FixedHeader::new(FrameType::Response, asked.request_id, asked.op)
    };
    raw.send(done, b"", b"").await;
    until("the connection is free", || link.stats().bulk.idle == 1).await;
    assert_eq!(link.stats().bulk.drains_survived, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_permits_leaves_at_his_deadline_also_when_not_polled() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net, &server.addr, |config| config.ops = 1);
    let mut held = link.start(gated());
    poll_once(&mut held).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let mut late = get(1, 10);
    late.deadline = now() + Duration::from_millis(30);
    let late = link.start(late);
    until("it left by itself", || link.stats().waiting_permits == 0).await;
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    assert_eq!(error_of(late.await).class, LegErrorClass::Deadline);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_too_long_for_a_connection_is_not_sent() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net, &server.addr, |config| config.bulk_max = 1);
    let mut first = gated();
    first.response_max = 100_000;
    let mut first = link.start(first);
    poll_once(&mut first).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let mut late = get(1, 100_000);
    late.deadline = now() + Duration::from_millis(30);
    let late = link.start(late);
    let last = link.start(get(2, 100_000));
    tokio::time::sleep(Duration::from_millis(40)).await; // tidy: sleep-ok(virtual time)
    server.echo.gate.add_permits(1);
    first.await.unwrap();
    assert_eq!(last.await.unwrap().body, pattern(2, 100_000));
    let error = error_of(late.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Deadline, Sent::No));
    assert_eq!(server.echo.seen.load(Ordering::SeqCst), 2);
    assert_quiet(&link, &LinkConfig { bulk_max: 1, ..LinkConfig::default() }).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_connection_are_measured() {
    let net = PipeNet::new();
    let mut listener = net.bind("127.0.0.1:7").await.unwrap();
    let link = link(net, "127.0.0.1:7");
    let mut leg = link.start(get(1, 10));
    poll_once(&mut leg).await;
    tokio::time::sleep(Duration::from_millis(70)).await; // tidy: sleep-ok(virtual time)
    let mut raw = accept(listener.as_mut()).await;
    raw.receive().await.unwrap();
    let wait = link.stats().wait;
    assert_eq!((wait.count, wait.buckets), (1, [0, 0, 0, 1, 0, 0, 0, 0]));
    assert!((70_000..72_000).contains(&wait.max_us) && wait.sum_us == wait.max_us);
    assert!(link.stats().connect_us >= 70_000);
}
