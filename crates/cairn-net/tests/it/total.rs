//! The bound of connections that the links of a client share.

use crate::support::{assert_quiet, call, error_of, gated, get, get_ok, link_with, pattern, poll_once, start, until};
use cairn_net::testing::PipeNet;
use cairn_net::{CloseReason, ConnectionTotal, LegErrorClass, Link, LinkConfig, Route, Sent, now};
use cairn_proto::pb;
use cairn_proto::pb::request::Kind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn link_of(net: &PipeNet, addr: &str, total: &Arc<ConnectionTotal>) -> Link {
    link_with(net.clone(), addr, |config| config.total_connections = Arc::clone(total))
}

/// A request that holds a bulk connection until the server's gate opens.
fn bulk_gated() -> cairn_net::Call {
    let mut call = gated();
    call.response_max = 100_000;
    call
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_elsewhere_makes_room() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(3);
    let links: Vec<_> = (0..10).map(|_| link_of(&net, &server.addr, &total)).collect();
    let began = now();
    for round in 0..3 {
        for link in &links {
            get_ok(link, round, 10).await;
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }
    assert!(now() - began < Duration::from_millis(50), "nobody waited");
    assert_eq!((total.used(), total.peak(), total.waiting()), (3, 3, 0));
    let evicted: u64 = links.iter().map(|link| link.stats().closed(CloseReason::Evicted)).sum();
    assert_eq!(evicted, 27);
    let open: Vec<_> = links.iter().map(|link| link.stats().control.open).collect();
    assert_eq!(open, [0, 0, 0, 0, 0, 0, 0, 1, 1, 1], "the one unused longest goes");
    drop(links);
    until("all places are back", || total.used() == 0).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_becomes_free_goes_to_who_waits_for_a_place() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(1);
    let one = link_of(&net, &server.addr, &total);
    let other = link_of(&net, &server.addr, &total);
    let mut held = one.start(bulk_gated());
    poll_once(&mut held).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let mut waiting = other.start(get(7, 10));
    poll_once(&mut waiting).await;
    until("it waits for a place", || total.waiting() == 1).await;
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    assert_eq!(waiting.await.unwrap().body, pattern(7, 10));
    assert_eq!(one.stats().closed(CloseReason::Evicted), 1);
    assert_eq!((total.used(), total.waiting()), (1, 0));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_link_gives_a_connection_up_after_its_present_request() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(2);
    let greedy = link_of(&net, &server.addr, &total);
    let mut held: Vec<_> = (0..4).map(|_| greedy.start(bulk_gated())).collect();
    for leg in &mut held {
        poll_once(leg).await;
    }
    until("two are there", || server.echo.seen.load(Ordering::SeqCst) == 2).await;
    let other = link_of(&net, &server.addr, &total);
    let mut waiting = other.start(get(7, 10));
    poll_once(&mut waiting).await;
    until("a connection is to end", || greedy.stats().bulk.retired == 1).await;
    // Its request is not cut off, and its successors wait their turn behind the other link.
    assert_eq!(greedy.stats().bulk.dialing, 2, "it wants more, but has some");
    server.echo.gate.add_permits(2);
    assert_eq!(waiting.await.unwrap().body, pattern(7, 10));
    server.echo.gate.add_permits(2);
    for leg in held {
        leg.await.unwrap();
    }
    assert_eq!(total.peak(), 2);
    assert_quiet(&greedy, &LinkConfig::default()).await;
    assert_quiet(&other, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn having_no_place_is_no_failure_of_the_peer() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(1);
    let one = link_of(&net, &server.addr, &total);
    let other = link_of(&net, &server.addr, &total);
    let mut held = one.start(gated());
    poll_once(&mut held).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let error = error_of(other.start(get(7, 10)).await);
    assert_eq!((error.class, error.sent, error.dial), (LegErrorClass::Overloaded, Sent::No, None));
    assert_eq!((other.stats().dial_failures, total.waiting()), (0, 0));
    let error = other.probe(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!((error.class, error.dial), (LegErrorClass::Deadline, None));
    assert_eq!(total.waiting(), 0, "who gave up left the queue");
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    get_ok(&other, 7, 10).await;
    server.stop().await;
}

/// Requests of one link amid connections that are cut, probes and too few places.
async fn work_amid_trouble(link: Link, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut avoid = None;
    for round in 0..150 {
        let len = [10, 100_000, 1_500_000][rng.usize(..3)];
        let mut call = get(round, len);
        call.deadline = now() + Duration::from_millis(rng.u64(1..400));
        let mut leg = link.start_on(call, Route { avoid: avoid.take(), alone: rng.bool() });
        let watch = leg.watch();
        if rng.u8(..3) == 0 {
            let _ = futures_util::poll!(&mut leg);
            for _ in 0..rng.usize(..20) {
                tokio::task::yield_now().await;
            }
            avoid = watch.connection();
            drop(leg);
        } else if let Ok(reply) = leg.await {
            assert_eq!(reply.body, pattern(round, len), "another request's payload");
        } else {
            avoid = watch.connection();
        }
        if rng.u8(..20) == 0 {
            let _ = link.probe(Duration::from_millis(rng.u64(1..50))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_left_behind_by_cuts_probes_and_too_few_places() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(6);
    let links: Vec<_> = (0..4).map(|_| link_of(&net, &server.addr, &total)).collect();
    let tasks: Vec<_> =
        (0..12).map(|seed| tokio::spawn(work_amid_trouble(links[seed as usize % 4].clone(), seed))).collect();
    let mut rng = fastrand::Rng::with_seed(99);
    while tasks.iter().any(|task| !task.is_finished()) {
        for _ in 0..rng.usize(1..3_000) {
            tokio::task::yield_now().await;
        }
        net.cut(&server.addr);
    }
    for task in tasks {
        task.await.unwrap();
    }
    for link in &links {
        assert_quiet(link, &LinkConfig::default()).await;
    }
    let open: usize = links.iter().map(|link| link.stats().control.open + link.stats().bulk.open).sum();
    until("only open connections have a place", || total.used() <= open).await;
    assert!(total.peak() <= 6 && total.waiting() == 0);
    let cuts: u64 = links.iter().map(|link| link.stats().closed(CloseReason::Reset)).sum();
    assert!(cuts > 0, "no connection was cut under its request");
    for link in &links {
        get_ok(link, 1, 100_000).await;
        link.close();
    }
    until("all places are back", || total.used() == 0).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stock_of_connections_takes_no_ones_place() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(2);
    let stocked = link_with(net.clone(), &server.addr, |config| {
        config.total_connections = Arc::clone(&total);
        config.bulk_min = 4;
    });
    get_ok(&stocked, 1, 10).await;
    until("there is a stock, within the total", || total.used() == 2).await;
    let other = link_of(&net, &server.addr, &total);
    get_ok(&other, 1, 10).await;
    let dials = net.dials(&server.addr);
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep-ok(virtual time)
        get_ok(&other, 1, 10).await;
    }
    assert_eq!((net.dials(&server.addr), other.stats().closed(CloseReason::Evicted)), (dials, 0));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_links_with_few_places_lose_nobody() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let total = ConnectionTotal::new(5);
    let tasks: Vec<_> = (0..20)
        .map(|seed| {
            let link = link_of(&net, &server.addr, &total);
            tokio::spawn(async move {
                let mut rng = fastrand::Rng::with_seed(seed);
                for round in 0..50 {
                    let mut legs: Vec<_> =
                        (0..rng.usize(1..6)).map(|_| link.start(get(round, [10, 100_000][rng.usize(..2)]))).collect();
                    if rng.bool() {
                        let mut leg = legs.swap_remove(0);
                        let _ = futures_util::poll!(&mut leg);
                    }
                    for leg in legs {
                        leg.await.unwrap();
                    }
                }
                link
            })
        })
        .collect();
    let mut links = Vec::new();
    for task in tasks {
        links.push(task.await.unwrap());
    }
    assert_eq!((total.peak(), total.waiting()), (5, 0));
    for link in &links {
        assert_quiet(link, &LinkConfig::default()).await;
    }
    let open: usize = links.iter().map(|link| link.stats().control.open + link.stats().bulk.open).sum();
    assert_eq!(open, total.used());
    let probe = call(Kind::Sync(pb::SyncBlocks::default()));
    assert!(error_of(links[0].start(probe).await).status().is_some());
    server.stop().await;
}
