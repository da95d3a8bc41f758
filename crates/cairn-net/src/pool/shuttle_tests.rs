//! The pool's discipline under a scheduler that tries many interleavings: requests arrive, finish and leave, dials
//! succeed and fail, connections end and retire, and in the end nobody is lost and nothing is held.
//!
//! The connections here have what matters of a real one: a state of their own behind a lock of their own, so that
//! whatever the pool decides may be overtaken. Time is left out: what a timer would begin is begun by a thread.

use super::total::{Crowd, Slot};
use super::{ConnectionTotal, Given, LaneKind, Pool, Pooled, Shell, Wants};
use crate::sync::Mutex;
use shuttle::sync::atomic::{AtomicU64, Ordering};
use shuttle::thread;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// Interleavings tried by each test, half of them by either scheduler.
fn schedules() -> usize {
    let asked = std::env::var("SHUTTLE_ITERATIONS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(1_000_usize).div_ceil(2)
}

#[derive(Default)]
struct ConnState {
    /// Jobs it works on.
    jobs: Vec<u32>,
    retiring: bool,
    dead: bool,
    slot: Option<Slot>,
}

struct Conn {
    serial: u64,
    kind: LaneKind,
    state: Mutex<ConnState>,
}

impl PartialEq for Conn {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Pooled for Arc<Conn> {
    fn serial(&self) -> u64 {
        self.serial
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The pool or a connection has it.
    Waiting,
    /// Its caller left before a connection had it.
    Left,
    Done,
    Failed,
}

/// One peer with its pool.
struct Peer {
    pool: Pool<Arc<Conn>, u32>,
    total: Arc<ConnectionTotal>,
    serial: AtomicU64,
    fates: Mutex<BTreeMap<u32, Fate>>,
    /// Work that real tasks would do: dials and busy connections.
    work: Mutex<Vec<Work>>,
    dial_fails: bool,
}

enum Work {
    Dial(LaneKind),
    Finish(Arc<Conn>, u32),
}

/// What the pool sees; a handle, because closing a connection calls back.
#[derive(Clone)]
struct Handle(Arc<Peer>);

impl Conn {
    fn kill(self: &Arc<Self>, peer: &Handle) {
        let (jobs, slot) = {
            let mut state = self.state.lock();
            if state.dead {
                return;
            }
            state.dead = true;
            (std::mem::take(&mut state.jobs), state.slot.take())
        };
        drop(slot);
        peer.0.pool.ended(peer, self.kind, self);
        for job in jobs {
            peer.end(job, Fate::Failed);
        }
    }

    fn retire(self: &Arc<Self>, peer: &Handle) {
        let is_free = {
            let mut state = self.state.lock();
            state.retiring = true;
            state.jobs.is_empty()
        };
        if is_free {
            self.kill(peer);
        } else {
            peer.0.pool.retired(peer, self.kind, self);
        }
    }

    fn finish(self: &Arc<Self>, peer: &Handle, job: u32) {
        let retiring = {
            let mut state = self.state.lock();
            let before = state.jobs.len();
            state.jobs.retain(|other| *other != job);
            if state.jobs.len() == before || !state.jobs.is_empty() {
                if state.jobs.len() < before {
                    drop(state);
                    peer.end(job, Fate::Done);
                }
                return;
            }
            state.retiring
        };
        if retiring {
            self.kill(peer);
        } else {
            peer.0.pool.released(peer, self.kind, self);
        }
        peer.end(job, Fate::Done);
    }
}

impl Handle {
    fn new(total: &Arc<ConnectionTotal>, bulk_max: usize, dial_fails: bool) -> Self {
        let peer = Arc::new(Peer {
            pool: Pool::new(bulk_max),
            total: Arc::clone(total),
            serial: AtomicU64::new(1),
            fates: Mutex::new(BTreeMap::new()),
            work: Mutex::new(Vec::new()),
            dial_fails,
        });
        let weak: Weak<Peer> = Arc::downgrade(&peer);
        total.register(weak);
        Self(peer)
    }

    fn end(&self, job: u32, fate: Fate) {
        let before = self.0.fates.lock().insert(job, fate);
        assert_eq!(before, Some(Fate::Waiting), "job {job} ended twice, now {fate:?}");
    }

    fn start(&self, job: u32, kind: LaneKind, wants: Wants) {
        self.0.fates.lock().insert(job, Fate::Waiting);
        self.0.pool.arrive(self, kind, job, wants);
    }

    /// Its caller goes away: it leaves the queue if it is in it.
    fn leave(&self, job: u32) {
        for gone in self.0.pool.forget(|waiting| *waiting == job) {
            self.end(gone, Fate::Left);
        }
    }

    /// Does what tasks would do until nothing is left to do.
    fn work(&self) {
        loop {
            let next = self.0.work.lock().pop();
            match next {
                Some(Work::Dial(kind)) => self.dial_now(kind),
                Some(Work::Finish(conn, job)) => conn.finish(self, job),
                None => return,
            }
        }
    }

    fn dial_now(&self, kind: LaneKind) {
        let slot = self.0.total.try_acquire();
        let fails = slot.is_none() || (self.0.dial_fails && self.0.serial.load(Ordering::SeqCst).is_multiple_of(2));
        if fails {
            self.0.serial.fetch_add(1, Ordering::SeqCst);
            for job in self.0.pool.dial_failed(kind) {
                self.end(job, Fate::Failed);
            }
            return;
        }
        let serial = self.0.serial.fetch_add(1, Ordering::SeqCst);
        let state = Mutex::new(ConnState { slot, ..ConnState::default() });
        let conn = Arc::new(Conn { serial, kind, state });
        let placed = {
            let mut lanes = self.0.pool.lock();
            if lanes.closed {
                return;
            }
            lanes.of(kind).dialed(Arc::clone(&conn))
        };
        for older in placed.displaced {
            older.retire(self);
        }
        self.0.pool.placed(self, kind, &conn, placed.waiters);
    }

    fn close(&self) {
        let (conns, jobs) = self.0.pool.close();
        for job in jobs {
            self.end(job, Fate::Failed);
        }
        for conn in conns {
            conn.kill(self);
        }
    }

    /// A connection that is open now, if there is any.
    fn any_open(&self, kind: LaneKind) -> Option<Arc<Conn>> {
        self.0.pool.lock().of(kind).open().first().cloned()
    }

    fn assert_nobody_is_lost(&self) {
        let fates = self.0.fates.lock().clone();
        assert!(fates.values().all(|fate| *fate != Fate::Waiting), "somebody waits for nothing: {fates:?}");
        let mut lanes = self.0.pool.lock();
        for kind in LaneKind::ALL {
            let lane = lanes.of(kind);
            assert_eq!((lane.waiting(), lane.dialing()), (0, 0));
            for conn in lane.open() {
                let state = conn.state.lock();
                assert!(!state.dead && state.jobs.is_empty(), "{kind:?} keeps a dead or busy connection");
            }
        }
        assert!(lanes.retired.is_empty(), "a connection that ended is still kept");
        let open = lanes.control.open().len() + lanes.bulk.open().len();
        drop(lanes);
        assert!(open <= self.0.total.used());
    }
}

impl Shell for Handle {
    type Conn = Arc<Conn>;
    type Waiter = u32;

    fn give(&self, conn: &Arc<Conn>, job: u32) -> Given<u32> {
        let mut state = conn.state.lock();
        if state.dead || state.retiring {
            return Given::Dead(job);
        }
        if job % 5 == 4 {
            // Its caller had gone when the connection looked.
            drop(state);
            self.end(job, Fate::Left);
            return Given::Unwanted;
        }
        assert!(conn.kind == LaneKind::Control || state.jobs.is_empty(), "a connection was given twice");
        state.jobs.push(job);
        drop(state);
        self.0.work.lock().push(Work::Finish(Arc::clone(conn), job));
        Given::Taken
    }

    fn dial(&self, kind: LaneKind) {
        self.0.work.lock().push(Work::Dial(kind));
    }

    fn evict(&self, conn: &Arc<Conn>) {
        let is_free = {
            let mut state = conn.state.lock();
            let is_free = state.jobs.is_empty() && !state.dead;
            state.retiring |= is_free;
            is_free
        };
        if is_free {
            conn.kill(self);
        }
    }

    fn refuse(&self, job: u32) {
        self.end(job, Fate::Failed);
    }

    fn has_ended(&self, conn: &Arc<Conn>) -> bool {
        conn.state.lock().dead
    }

    fn is_crowded(&self) -> bool {
        self.0.total.waiting() > 0
    }
}

impl Crowd for Peer {
    fn idle_since(&self) -> Option<Instant> {
        None
    }

    fn evict_idle(&self) -> bool {
        false
    }

    fn open(&self) -> usize {
        0
    }

    fn retire_one(&self) -> bool {
        false
    }
}

fn explore(test: impl Fn() + Send + Sync + 'static) {
    let test = Arc::new(test);
    let random = Arc::clone(&test);
    shuttle::check_random(move || random(), schedules());
    shuttle::check_pct(move || test(), schedules(), 3);
}

/// What one thread of a race does.
type Part = Box<dyn FnOnce(&Handle) + Send>;

/// Runs each piece of work in a thread, each followed by whatever it began.
fn race(peer: &Handle, parts: Vec<Part>) {
    let threads: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let peer = peer.clone();
            thread::spawn(move || {
                part(&peer);
                peer.work();
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a failed thread fails the schedule");
    }
    peer.work();
}

fn part(act: impl FnOnce(&Handle) + Send + 'static) -> Part {
    Box::new(act)
}

#[test]
fn shuttle_requests_dials_and_ends_lose_nobody() {
    for kind in LaneKind::ALL {
        explore(move || {
            let total = ConnectionTotal::new(100);
            let peer = Handle::new(&total, 2, false);
            let start = move |job| part(move |peer: &Handle| peer.start(job, kind, Wants::Any));
            race(
                &peer,
                vec![
                    start(0),
                    start(1),
                    start(4),
                    part(move |peer| {
                        peer.start(2, kind, Wants::Fresh);
                        peer.leave(2);
                    }),
                    part(move |peer| {
                        if let Some(conn) = peer.any_open(kind) {
                            peer.start(3, kind, Wants::Other(conn.serial));
                            conn.kill(peer);
                        }
                    }),
                ],
            );
            peer.assert_nobody_is_lost();
            peer.close();
            assert_eq!(total.used(), 0);
        });
    }
}

#[test]
fn shuttle_failing_dials_and_retiring_connections_lose_nobody() {
    for kind in LaneKind::ALL {
        explore(move || {
            let total = ConnectionTotal::new(100);
            let peer = Handle::new(&total, 1, true);
            let start = move |job, wants| part(move |peer: &Handle| peer.start(job, kind, wants));
            race(
                &peer,
                vec![
                    start(0, Wants::Any),
                    start(1, Wants::Other(1)),
                    start(2, Wants::Fresh),
                    part(move |peer| {
                        if let Some(conn) = peer.any_open(kind) {
                            conn.retire(peer);
                        }
                    }),
                    part(move |peer| {
                        if let Some(conn) = peer.any_open(kind) {
                            conn.kill(peer);
                        }
                    }),
                ],
            );
            peer.assert_nobody_is_lost();
            peer.close();
            assert_eq!(total.used(), 0);
        });
    }
}

#[test]
fn shuttle_closing_leaves_nothing_behind() {
    for kind in LaneKind::ALL {
        explore(move || {
            let total = ConnectionTotal::new(100);
            let peer = Handle::new(&total, 2, false);
            let start = move |job| part(move |peer: &Handle| peer.start(job, kind, Wants::Any));
            race(&peer, vec![start(0), start(1), start(2), part(Handle::close)]);
            peer.assert_nobody_is_lost();
            assert_eq!((total.used(), peer.any_open(kind).is_some()), (0, false));
        });
    }
}

#[test]
fn shuttle_places_are_handed_on_and_come_back() {
    explore(|| {
        let total = ConnectionTotal::new(1);
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let total = Arc::clone(&total);
                thread::spawn(move || {
                    let mut ticket = total.queue(number % 2 == 0);
                    if number == 3 {
                        // It leaves, perhaps with a place that was just handed to it.
                        return;
                    }
                    let slot = shuttle::future::block_on(ticket.slot.as_mut().expect("it was just made"))
                        .expect("a place comes");
                    drop(ticket);
                    assert_eq!(total.used(), 1);
                    drop(slot);
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a failed thread fails the schedule");
        }
        assert_eq!((total.used(), total.peak(), total.waiting()), (0, 1, 0));
    });
}
