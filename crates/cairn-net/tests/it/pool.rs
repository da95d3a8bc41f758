//! Life of connections: dialling, reuse, staleness, age, idleness, silence, limits.

use crate::support::{
    assert_quiet, call, error_of, gated, get, get_ok, link, link_with, pattern, poll_once, put, start, start_with,
    until,
};
use cairn_net::testing::PipeNet;
use cairn_net::{CloseReason, LegErrorClass, LinkConfig, Sent, TcpNet, now};
use cairn_proto::pb::request::Kind;
use cairn_proto::{ClusterId, NodeId, pb};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;

#[tokio::test(start_paused = true)]
async fn one_dial_serves_everybody_and_fails_everybody() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let legs: Vec<_> = (0..50).map(|seed| link.start(get(seed, 100))).collect();
    for (seed, leg) in legs.into_iter().enumerate() {
        assert_eq!(leg.await.unwrap().body, pattern(seed as u32, 100));
    }
    assert_eq!(net.dials(&server.addr), 1);

    net.refuse(&server.addr, true);
    net.cut(&server.addr);
    until("the cut is noticed", || link.stats().control.open == 0).await;
    let legs: Vec<_> = (0..50).map(|seed| link.start(get(seed, 100))).collect();
    for leg in legs {
        let error = error_of(leg.await);
        assert_eq!((error.class, error.sent), (LegErrorClass::Connect, Sent::No));
        assert!(error.source.is_some());
    }
    assert_eq!(net.dials(&server.addr), 2, "one failed dial, one error for all its waiters");
    assert_eq!(link.stats().dial_failures, 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dial_has_a_ceiling() {
    let net = PipeNet::new();
    net.freeze("127.0.0.1:1", true);
    let link = link(net.clone(), "127.0.0.1:1");
    let began = now();
    let error = error_of(link.start(get(1, 1)).await);
    assert_eq!(error.class, LegErrorClass::Connect);
    assert_eq!(now() - began, Duration::from_secs(5));
    link.set_connect_timeout(Duration::from_millis(250));
    let error = error_of(link.start(get(1, 1)).await);
    assert_eq!(error.class, LegErrorClass::Connect);
    assert_eq!(now() - began, Duration::from_millis(5_250));
}

#[tokio::test(start_paused = true)]
async fn idle_connections_go_after_a_minute_down_to_the_minimum() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |config| config.bulk_min = 1);
    let legs: Vec<_> = (0..3).map(|seed| link.start(get(seed, 1_000_000))).collect();
    for leg in legs {
        leg.await.unwrap();
    }
    get_ok(&link, 1, 10).await;
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open), (1, 3));
    tokio::time::sleep(Duration::from_secs(58)).await; // tidy: sleep-ok(virtual time)
    assert_eq!(link.stats().bulk.open, 3);
    tokio::time::sleep(Duration::from_secs(5)).await; // tidy: sleep-ok(virtual time)
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open), (0, 1));
    assert_eq!(stats.closed(CloseReason::Idle), 3);
    assert_eq!(net.open(&server.addr), 1, "the sockets are gone too");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_connections_no_task_remains() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net, &server.addr);
    get_ok(&link, 1, 10).await;
    get_ok(&link, 1, 100_000).await;
    tokio::time::sleep(Duration::from_secs(70)).await; // tidy: sleep-ok(virtual time)
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.bulk.open, stats.tasks), (0, 0, 0));
    get_ok(&link, 1, 10).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_replaced_when_they_are_old() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |config| config.max_age = Duration::from_secs(100));
    let began = now();
    while now() - began < Duration::from_secs(79) {
        get_ok(&link, 1, 10).await;
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep-ok(virtual time)
    }
    assert_eq!(link.stats().dials, 1);
    let mut held = link.start(gated());
    poll_once(&mut held).await;
    while now() - began < Duration::from_secs(122) {
        get_ok(&link, 1, 10).await;
        tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep-ok(virtual time)
        // It would be over its own deadline otherwise.
        if now() - began > Duration::from_secs(95) && server.echo.gate.available_permits() == 0 {
            server.echo.gate.add_permits(1);
        }
    }
    assert_eq!(link.stats().dials, 2, "somewhere between 80 and 120 seconds");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_retired_connection_finishes_what_it_has() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |config| config.max_age = Duration::from_secs(10));
    let mut held = link.start(gated());
    poll_once(&mut held).await;
    tokio::time::sleep(Duration::from_secs(14)).await; // tidy: sleep-ok(virtual time)
    let stats = link.stats();
    assert_eq!((stats.control.open, stats.control.retired, stats.in_flight), (0, 1, 1));
    get_ok(&link, 1, 10).await;
    assert_eq!(link.stats().dials, 2);
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    until("it is closed", || link.stats().closed(CloseReason::Age) == 1).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_stream_on_an_idle_connection_is_noticed_at_once() {
    let server = start(&TcpNet).await;
    let link = link(TcpNet, &server.addr);
    get_ok(&link, 1, 10).await;
    get_ok(&link, 1, 100_000).await;
    let began = now();
    server.stop().await;
    until("both connections are gone", || {
        let stats = link.stats();
        stats.control.open + stats.bulk.open == 0
    })
    .await;
    assert!(now() - began < Duration::from_secs(5));
    let stats = link.stats();
    assert_eq!(
        stats.closed(CloseReason::GoAway) + stats.closed(CloseReason::PeerClosed),
        2,
        "not a failure: {stats:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_costs_no_request() {
    let mut server = start(&TcpNet).await;
    let addr = server.addr.clone();
    let link = link(TcpNet, &addr);
    for round in 0..10 {
        get_ok(&link, round, 10).await;
        get_ok(&link, round, 100_000).await;
        server.stop().await;
        server = start_with(&TcpNet, &addr, |_| ()).await;
    }
    get_ok(&link, 99, 10).await;
    assert_eq!(link.stats().dial_failures, 0);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_connection_is_retried_once_on_a_fresh_one() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    for (len, control) in [(10, true), (100_000, false)] {
        get_ok(&link, 1, len).await;
        let dials = net.dials(&server.addr);
        // Reset while the request is under way, before the first byte of its answer.
        let mut leg = if control { link.start(gated()) } else { link.start(put(pattern(3, len))) };
        if control {
            poll_once(&mut leg).await;
            until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 2).await;
        }
        net.cut(&server.addr);
        if control {
            until("it is there again", || server.echo.seen.load(Ordering::SeqCst) == 3).await;
            server.echo.gate.add_permits(1);
        }
        leg.await.unwrap();
        assert_eq!(net.dials(&server.addr), dials + 1);
    }
    assert_eq!(link.stats().stale_retries, 2);
    assert_eq!(link.stats().closed(CloseReason::Reset), 2);
    assert_quiet(&link, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reuse_races_lose_nothing() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let mut rng = fastrand::Rng::with_seed(4);
    for round in 0..1_000 {
        let len = if rng.bool() { 100 } else { 100_000 };
        get_ok(&link, round, len).await;
        let mut leg = link.start(get(round, len));
        for _ in 0..rng.u8(..3) {
            poll_once(&mut leg).await;
            tokio::task::yield_now().await;
            if leg.progress().first_byte {
                break;
            }
        }
        // From the first byte on it would be a failure of the request, not a stale connection.
        if !leg.progress().first_byte {
            net.cut(&server.addr);
        }
        assert_eq!(leg.await.unwrap().body, pattern(round, len));
    }
    let stats = link.stats();
    assert!(stats.stale_retries > 300, "{stats:?}");
    assert!(stats.bulk.open <= 4 && stats.control.open <= 1);
    assert_quiet(&link, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_reset_is_an_error_that_says_maybe() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 1, 10).await;
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 2).await;
    net.cut(&server.addr);
    until("it is there again", || server.echo.seen.load(Ordering::SeqCst) == 3).await;
    net.cut(&server.addr);
    let error = error_of(leg.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Reset, Sent::Maybe));

    // The resend cannot even connect: the first sending may still have arrived.
    get_ok(&link, 1, 10).await;
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("it is sent", || leg.progress().sent).await;
    net.refuse(&server.addr, true);
    net.cut(&server.addr);
    let error = error_of(leg.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Connect, Sent::Maybe));
    net.refuse(&server.addr, false);
    assert_quiet(&link, &LinkConfig::default()).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_a_connection_that_never_answered_is_not_retried() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    net.cut(&server.addr);
    let error = error_of(leg.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Reset, Sent::Maybe));
    assert_eq!(link.stats().stale_retries, 0);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_pinged_and_given_up_only_when_it_does_not_answer() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let mut slow = gated();
    slow.deadline = now() + Duration::from_secs(600);
    slow.response_max = 100_000;
    let mut leg = link.start(slow);
    poll_once(&mut leg).await;
    tokio::time::sleep(Duration::from_secs(100)).await; // tidy: sleep-ok(virtual time)
    assert_eq!(link.stats().bulk.busy, 1, "slow is not dead");
    assert_eq!(link.stats().closed(CloseReason::Stalled), 0);
    net.freeze(&server.addr, true);
    let began = now();
    let error = error_of(leg.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Stalled, Sent::Maybe));
    assert!(now() - began < Duration::from_secs(33));
    net.freeze(&server.addr, false);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiters_take_turns_and_a_cancelled_one_passes_its_turn() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |config| config.bulk_max = 1);
    let bulk_gated = || {
        let mut call = gated();
        call.response_max = 100_000;
        call
    };
    let mut first = link.start(bulk_gated());
    poll_once(&mut first).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let second = link.start(bulk_gated());
    let third = link.start(get(7, 100_000));
    assert_eq!(link.stats().waiting_connection, 2);
    drop(second);
    assert_eq!(link.stats().waiting_connection, 1);
    server.echo.gate.add_permits(1);
    first.await.unwrap();
    assert_eq!(third.await.unwrap().body, pattern(7, 100_000));
    assert_eq!(net.dials(&server.addr), 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn bytes_and_operations_are_bounded() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let change = |config: &mut LinkConfig| {
        config.ops = 3;
        config.bytes = 300_000;
        config.waiting_max = 2;
    };
    let link = link_with(net.clone(), &server.addr, change);
    let mut held: Vec<_> = (0..3).map(|_| link.start(gated())).collect();
    let mut waiting: Vec<_> = (0..2).map(|_| link.start(get(1, 10))).collect();
    until("they wait", || link.stats().waiting_permits == 2).await;
    let error = error_of(link.start(get(1, 10)).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Overloaded, Sent::No));
    drop(waiting.pop());
    until("a waiter is gone", || link.stats().waiting_permits == 1).await;
    drop(held.pop());
    waiting.pop().unwrap().await.unwrap();
    drop(held);
    // More than the budget of the link takes all of it, and passes alone.
    get_ok(&link, 5, 2_000_000).await;
    until("all is back", || {
        let stats = link.stats();
        (stats.ops_available, stats.bytes_available, stats.waiting_permits) == (3, 300_000, 0)
    })
    .await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_wrong_peer_is_told_from_a_broken_one() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    get_ok(&link, 1, 10).await;
    for (change, text) in [
        (Box::new(|identity: &mut cairn_net::Identity| identity.node_id = NodeId(6)) as Box<dyn Fn(&mut _)>, "node 6"),
        (Box::new(|identity: &mut cairn_net::Identity| identity.cluster_id = ClusterId([8; 16])), "0808"),
    ] {
        let mut identity = server.config.identity.load_full().as_ref().clone();
        change(&mut identity);
        let before = server.config.identity.swap(Arc::new(identity));
        // Connections that exist keep what was said; new ones see who is there.
        get_ok(&link, 1, 10).await;
        net.cut(&server.addr);
        until("the cut is noticed", || link.stats().control.open == 0).await;
        let error = error_of(link.start(get(1, 10)).await);
        assert_eq!((&error.class, error.sent), (&LegErrorClass::WrongPeer, Sent::No));
        assert!(error.message.contains(text), "{error}");
        server.config.identity.store(before);
        get_ok(&link, 1, 10).await;
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_closed_link_fails_everything_and_ends_its_tasks() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |config| config.ops = 2);
    get_ok(&link, 1, 100_000).await;
    let mut legs: Vec<_> = (0..4).map(|_| link.start(gated())).collect();
    for leg in &mut legs {
        poll_once(leg).await;
    }
    until("two are there", || server.echo.seen.load(Ordering::SeqCst) == 3).await;
    link.close();
    for leg in legs {
        assert_eq!(error_of(leg.await).class, LegErrorClass::Cancelled);
    }
    assert_eq!(error_of(link.start(get(1, 1)).await).class, LegErrorClass::Cancelled);
    assert_eq!(link.ping(Duration::from_secs(1)).await.unwrap_err().class, LegErrorClass::Cancelled);
    until("its tasks are gone", || link.stats().tasks == 0).await;
    until("the server has no connection", || server.config.stats.connections.load(Ordering::Relaxed) == 0).await;
    until("the handlers hear of it", || server.echo.cancelled.load(Ordering::SeqCst) == 2).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_connections() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let leg = link.start(get(1, 10));
    drop(link);
    leg.await.unwrap();
    until("the server has no connection", || server.config.stats.connections.load(Ordering::Relaxed) == 0).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_requests_finish_within_a_bound() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link(net.clone(), &server.addr);
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let echo = Arc::clone(&server.echo);
    let stopping = tokio::spawn(server.stop());
    until("GOAWAY is heard", || link.stats().control.retired == 1).await;
    echo.gate.add_permits(1);
    leg.await.unwrap();
    stopping.await.unwrap();

    let server = start(&net).await;
    let link = crate::support::link(net, &server.addr);
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let began = now();
    server.stop().await;
    assert!(now() - began < Duration::from_millis(300));
    // The resend finds nobody; the first sending had arrived.
    let error = error_of(leg.await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Connect, Sent::Maybe));
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_connection_says_so() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |config| config.max_inflight_per_connection = 2).await;
    let link = link(net, &server.addr);
    let mut held: Vec<_> = (0..2).map(|_| link.start(gated())).collect();
    for leg in &mut held {
        poll_once(leg).await;
    }
    let error = error_of(link.start(call(Kind::Sync(pb::SyncBlocks::default()))).await);
    let status = error.status().unwrap();
    assert_eq!(status.code, cairn_proto::status::Code::Overloaded);
    assert!(status.retry_after_ms > 0);
    server.echo.gate.add_permits(2);
    for leg in held {
        leg.await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_server_says_so_to_everybody() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |config| config.max_requests = 1).await;
    let mut held = link(net.clone(), &server.addr).start(gated());
    poll_once(&mut held).await;
    until("it is there", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    let error = error_of(link(net, &server.addr).start(get(1, 10)).await);
    assert_eq!(error.status().unwrap().code, cairn_proto::status::Code::Overloaded);
    server.echo.gate.add_permits(1);
    held.await.unwrap();
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_body_budget_is_taken_before_the_body_is_read() {
    let net = PipeNet::new();
    let budget = Arc::new(Semaphore::new(1_000_000));
    let server = start_with(&net, "127.0.0.1:0", |config| config.body_bytes = Arc::clone(&budget)).await;
    let link = link(net, &server.addr);
    let taken = Arc::clone(&budget).acquire_many_owned(900_000).await.unwrap();
    let error = error_of(link.start(put(pattern(1, 500_000))).await);
    assert_eq!(error.status().unwrap().code, cairn_proto::status::Code::Overloaded);
    let mut waiting = link.start(put(pattern(2, 500_000)));
    poll_once(&mut waiting).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // tidy: sleep-ok(virtual time)
    drop(taken);
    assert_eq!(waiting.await.unwrap().body, pattern(2, 500_000));
    until("the budget is back", || budget.available_permits() == 1_000_000).await;
    assert_eq!(link.stats().dials, 1, "a refused upload leaves its connection usable");
    server.stop().await;
}
