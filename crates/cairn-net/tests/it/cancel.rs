//! Cancellation: thousands of legs dropped at random points, after which nothing is missing and nothing is mixed up.

use crate::support::{
    assert_quiet, error_of, gated, get, get_ok, link_with, pattern, poll_once, put, start, start_with, until,
};
use cairn_net::testing::PipeNet;
use cairn_net::{CloseReason, LegErrorClass, Link, LinkConfig, Net, Sent, TcpNet, now};
use cairn_proto::status::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SIZES: [usize; 7] = [0, 10, 4096, 65_536, 65_537, 700_000, 1_500_000];

struct Tally {
    finished: AtomicUsize,
    cancelled: AtomicUsize,
}

/// Starts requests of mixed sizes and drops most of them somewhere: at once, after some turns of the scheduler, after
/// the first byte, by their deadline, or not at all.
async fn one_worker(link: Link, seed: u64, rounds: usize, tally: Arc<Tally>) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for round in 0..rounds {
        let len = SIZES[rng.usize(..SIZES.len())];
        let tag = (seed as u32) << 16 | round as u32;
        let is_put = rng.bool();
        let mut call = if is_put { put(pattern(tag, len)) } else { get(tag, len) };
        let fate = rng.u8(..5);
        if fate == 3 {
            call.deadline = now() + Duration::from_micros(rng.u64(..3_000));
        }
        let mut leg = link.start(call);
        match fate {
            0 => {
                tally.cancelled.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            1 => {
                let _ = futures_util::poll!(&mut leg);
                for _ in 0..rng.usize(..20) {
                    tokio::task::yield_now().await;
                }
                tally.cancelled.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            2 => {
                while !leg.progress().first_byte && futures_util::poll!(&mut leg).is_pending() {
                    tokio::task::yield_now().await;
                }
                tally.cancelled.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            _ => match leg.await {
                Ok(reply) => {
                    assert_eq!(reply.body, pattern(tag, len), "another request's payload");
                    tally.finished.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let code = error.status().map(|status| status.code);
                    assert!(error.class == LegErrorClass::Deadline || code == Some(Code::Deadline), "{error}");
                    assert_eq!(fate, 3);
                    tally.cancelled.fetch_add(1, Ordering::Relaxed);
                }
            },
        }
    }
}

async fn storm(
    net: impl Net + Clone,
    drain_timeout: Duration,
    workers: u64,
    rounds: usize,
) -> (cairn_net::LinkStats, usize) {
    let server = start(&net).await;
    let link = link_with(net, &server.addr, |config| config.drain_timeout = drain_timeout);
    let tally = Arc::new(Tally { finished: AtomicUsize::new(0), cancelled: AtomicUsize::new(0) });
    let tasks: Vec<_> =
        (0..workers).map(|seed| tokio::spawn(one_worker(link.clone(), seed + 1, rounds, Arc::clone(&tally)))).collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_quiet(&link, &LinkConfig::default()).await;
    let config = &server.config;
    until("the server is quiet", || config.stats.running.load(Ordering::Relaxed) == 0).await;
    let budget = config.body_bytes.available_permits();
    assert_eq!(budget, 256 * 1024 * 1024, "the server's body budget is back");
    get_ok(&link, 77, 2_000_000).await;
    get_ok(&link, 78, 100).await;
    let stats = link.stats();
    let cancelled = tally.cancelled.load(Ordering::Relaxed);
    server.stop().await;
    (stats, cancelled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_cancellations_over_tcp_leaves_nothing_behind() {
    // A busy machine may take long to drain; what is tested is that draining ends by itself.
    let (stats, cancelled) = storm(TcpNet, Duration::from_secs(5), 16, 200).await;
    assert!(cancelled >= 2_000, "{cancelled} cancellations");
    assert_eq!(stats.closes.iter().sum::<u64>(), 0, "every connection survived: {stats:?}");
    assert!(stats.bulk.open <= 4);
    assert_eq!(stats.control.open, 1);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_cancellations_over_pipes_leaves_nothing_behind() {
    let drain_timeout = LinkConfig::default().drain_timeout;
    let (stats, cancelled) = storm(PipeNet::new(), drain_timeout, 16, 250).await;
    assert!(cancelled >= 2_000, "{cancelled} cancellations");
    assert_eq!(stats.closes.iter().sum::<u64>(), 0, "every connection survived: {stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_leg_cancels_the_handler_and_frees_its_permit_at_once() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net, &server.addr, |config| config.ops = 1);
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("the handler has it", || server.echo.seen.load(Ordering::SeqCst) == 1).await;
    drop(leg);
    until("the handler hears of it", || server.echo.cancelled.load(Ordering::SeqCst) == 1).await;
    get_ok(&link, 1, 10).await;
    let stats = link.stats();
    assert_eq!((stats.cancels, stats.late_responses, stats.dials), (1, 0, 1));
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_late_response_finds_nobody_and_harms_nobody() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |_| ());
    get_ok(&link, 1, 10).await;
    let mut leg = link.start(gated());
    poll_once(&mut leg).await;
    until("the handler has it", || server.echo.seen.load(Ordering::SeqCst) == 2).await;
    // The handler is woken before the cancellation is written: its answer is on the way already.
    server.echo.gate.add_permits(1);
    drop(leg);
    until("it is counted", || link.stats().late_responses == 1).await;
    get_ok(&link, 2, 1_000).await;
    assert_eq!(server.echo.cancelled.load(Ordering::SeqCst), 0);
    assert_eq!(link.stats().dials, 1);
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_that_does_not_leave_costs_its_bulk_connection() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let link = link_with(net.clone(), &server.addr, |_| ());
    get_ok(&link, 1, 100_000).await;
    net.freeze(&server.addr, true);
    let mut leg = link.start(get(2, 100_000));
    poll_once(&mut leg).await;
    until("it is sent", || leg.progress().sent).await;
    drop(leg);
    let began = now();
    assert_eq!(link.stats().bulk.draining, 1);
    until("it is closed", || link.stats().closed(CloseReason::Drain) == 1).await;
    let took = now() - began;
    assert!(took >= Duration::from_millis(50) && took < Duration::from_millis(60), "{took:?}");
    assert_eq!(link.stats().bulk.open, 0);
    net.freeze(&server.addr, false);
    get_ok(&link, 3, 100_000).await;
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_fires_while_waiting_for_whatever() {
    let net = PipeNet::new();
    let server = start(&net).await;
    let addr = server.addr.as_str();
    let link = link_with(net.clone(), addr, |config| config.ops = 1);
    let mut holder = link.start(gated());
    poll_once(&mut holder).await;
    let mut call = get(1, 10);
    call.deadline = now() + Duration::from_millis(30);
    let error = error_of(link.start(call).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Deadline, Sent::No), "waiting for a permit");
    drop(holder);

    net.freeze(addr, true);
    let link = link_with(net.clone(), addr, |_| ());
    let mut call = get(1, 10);
    call.deadline = now() + Duration::from_millis(30);
    let error = error_of(link.start(call).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Deadline, Sent::No), "waiting for a connection");
    assert_eq!(link.stats().ops_available, 64, "its permit does not wait for the dial");
    net.freeze(addr, false);

    let link = link_with(net, addr, |_| ());
    let mut call = gated();
    call.deadline = now() + Duration::from_millis(30);
    let error = error_of(link.start(call).await);
    assert_eq!((error.class, error.sent), (LegErrorClass::Deadline, Sent::Maybe), "waiting for the answer");
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_reaches_the_handler() {
    let net = PipeNet::new();
    let server = start_with(&net, "127.0.0.1:0", |_| ()).await;
    let link = link_with(net, &server.addr, |_| ());
    let mut call = crate::support::call(cairn_proto::pb::request::Kind::Heartbeat(Default::default()));
    call.deadline = now() + Duration::from_millis(1234);
    let error = error_of(link.start(call).await);
    let message = &error.status().unwrap().message;
    assert!(message.contains("left 1234 ms"), "{message}");
    server.stop().await;
}
