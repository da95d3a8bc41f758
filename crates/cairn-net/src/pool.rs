//! The connections to one peer and those who wait for them: two [`Lane`]s behind one lock, and the discipline by which
//! their decisions are carried out. What a connection is, how one is dialled and what waits, is the [`Shell`]'s.
//!
//! Nothing is called while the lock is held, so a decision may be overtaken before it is carried out: a chosen
//! connection may have ended ([`Given::Dead`]), a chosen waiter may have left ([`Given::Unwanted`]). Both come back here
//! and are decided anew; neither is lost.

mod lane;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod total;

pub(crate) use lane::{Lane, Wants};
pub use total::ConnectionTotal;
pub(crate) use total::{Crowd, Holding, Slot};

use crate::sync::{Mutex, MutexGuard};
use lane::Next;

/// Which lane a connection belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LaneKind {
    /// Multiplexed, small bodies.
    Control,
    /// One request at a time, large bodies.
    Bulk,
}

impl LaneKind {
    /// Both.
    pub const ALL: [LaneKind; 2] = [Self::Control, Self::Bulk];
}

/// A connection, as far as a lane is concerned.
pub(crate) trait Pooled: Clone + PartialEq {
    /// Its number, which is never given again.
    fn serial(&self) -> u64;
}

/// What became of a waiter that was given to a connection.
#[derive(Debug)]
pub(crate) enum Given<W> {
    /// The connection has it.
    Taken,
    /// It had left before: the connection is still free.
    Unwanted,
    /// The connection takes nothing any more; here is the waiter again.
    Dead(W),
}

/// Carries out what the pool decides. No method is called with the pool's lock held.
pub(crate) trait Shell {
    type Conn: Pooled;
    type Waiter;

    /// Hands a waiter to a connection that was chosen for it.
    fn give(&self, conn: &Self::Conn, waiter: Self::Waiter) -> Given<Self::Waiter>;

    /// Begins a dial that ends in [`Pool::dialed`] or [`Pool::dial_failed`].
    fn dial(&self, kind: LaneKind);

    /// Closes a connection unless it was given something in the meantime.
    fn evict(&self, conn: &Self::Conn);

    /// Fails a waiter because the pool is closed.
    fn refuse(&self, waiter: Self::Waiter);

    /// True when the connection has ended.
    fn has_ended(&self, conn: &Self::Conn) -> bool;

    /// Somebody elsewhere needs the room of a free connection.
    fn is_crowded(&self) -> bool;
}

/// What is under the lock.
pub(crate) struct Lanes<C, W> {
    pub control: Lane<C, W>,
    pub bulk: Lane<C, W>,
    /// Off their lane, with requests that may still finish.
    pub retired: Vec<C>,
    pub closed: bool,
}

impl<C, W> Lanes<C, W> {
    pub fn of(&mut self, kind: LaneKind) -> &mut Lane<C, W> {
        match kind {
            LaneKind::Control => &mut self.control,
            LaneKind::Bulk => &mut self.bulk,
        }
    }
}

/// See the module.
pub(crate) struct Pool<C, W>(Mutex<Lanes<C, W>>);

impl<C: Pooled, W> Pool<C, W> {
    pub fn new(bulk_max: usize) -> Self {
        Self(Mutex::new(Lanes {
            control: Lane::multiplexed(),
            bulk: Lane::exclusive(bulk_max.max(1)),
            retired: Vec::new(),
            closed: false,
        }))
    }

    /// For a look, or for a change that leaves nothing to be carried out.
    pub fn lock(&self) -> MutexGuard<'_, Lanes<C, W>> {
        self.0.lock()
    }

    /// Somebody needs a connection.
    pub fn arrive(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, waiter: W, wants: Wants) {
        let mut waiter = waiter;
        loop {
            let next = {
                let mut lanes = self.lock();
                if lanes.closed {
                    drop(lanes);
                    return shell.refuse(waiter);
                }
                lanes.of(kind).arrive(waiter, wants)
            };
            match self.carry_out(shell, kind, next) {
                Some(back) => waiter = back,
                None => return,
            }
        }
    }

    /// Returns a waiter whose connection had ended.
    fn carry_out(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, next: Next<C, W>) -> Option<W> {
        let mut next = next;
        loop {
            match next {
                Next::Give(conn, waiter) => match shell.give(&conn, waiter) {
                    Given::Taken => return None,
                    Given::Unwanted => next = self.free(shell, kind, &conn),
                    Given::Dead(waiter) => {
                        self.removed(shell, kind, &conn);
                        return Some(waiter);
                    }
                },
                Next::Dial { evict } => {
                    if let Some(conn) = evict {
                        shell.evict(&conn);
                    }
                    shell.dial(kind);
                    return None;
                }
                Next::Wait => return None,
            }
        }
    }

    /// The lane's decision about a connection without requests. One that stays free makes room where room is needed.
    fn free(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C) -> Next<C, W> {
        let next = self.lock().of(kind).released(conn);
        if matches!(next, Next::Wait) && shell.is_crowded() {
            shell.evict(conn);
        }
        next
    }

    /// A connection has finished its requests.
    pub fn released(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C) {
        let next = self.free(shell, kind, conn);
        if let Some(waiter) = self.carry_out(shell, kind, next) {
            self.arrive(shell, kind, waiter, Wants::Any);
        }
    }

    /// A connection takes no further requests; unless it has ended, it still has some.
    pub fn removed(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C) {
        let next = {
            let mut lanes = self.lock();
            if lanes.closed {
                return;
            }
            lanes.of(kind).removed(conn)
        };
        // Taking one away gives nobody a connection: nothing comes back.
        self.carry_out(shell, kind, next);
    }

    /// A connection takes no further requests, and finishes those it has.
    pub fn retired(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C) {
        self.lock().retired.push(conn.clone());
        if shell.has_ended(conn) {
            // In between, and `ended` may have looked before it was in the list.
            self.lock().retired.retain(|other| other != conn);
        }
        self.removed(shell, kind, conn);
    }

    /// A connection has ended.
    pub fn ended(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C) {
        self.lock().retired.retain(|other| other != conn);
        self.removed(shell, kind, conn);
    }

    /// A new connection was placed on its lane: the peer takes connections, also further ones that are waited for.
    pub fn placed(&self, shell: &impl Shell<Conn = C, Waiter = W>, kind: LaneKind, conn: &C, waiters: Vec<W>) {
        if waiters.is_empty() && shell.is_crowded() {
            shell.evict(conn);
        }
        for waiter in waiters {
            if let Some(back) = self.carry_out(shell, kind, Next::Give(conn.clone(), waiter)) {
                self.arrive(shell, kind, back, Wants::Any);
            }
        }
        for kind in LaneKind::ALL {
            loop {
                let next = {
                    let mut lanes = self.lock();
                    if lanes.closed {
                        return;
                    }
                    let lane = lanes.of(kind);
                    lane.set_cautious(false);
                    lane.dial_if_useful()
                };
                if matches!(next, Next::Wait) {
                    break;
                }
                self.carry_out(shell, kind, next);
            }
        }
    }

    /// A dial failed; those returned fail with it.
    pub fn dial_failed(&self, kind: LaneKind) -> Vec<W> {
        let mut lanes = self.lock();
        if lanes.closed {
            return Vec::new();
        }
        lanes.control.set_cautious(true);
        lanes.bulk.set_cautious(true);
        lanes.of(kind).dial_failed()
    }

    /// Takes out the waiters of which `gone` is true.
    pub fn forget(&self, mut gone: impl FnMut(&W) -> bool) -> Vec<W> {
        let mut lanes = self.lock();
        let mut left = lanes.control.forget(&mut gone);
        left.extend(lanes.bulk.forget(&mut gone));
        left
    }

    /// Takes out everything; nothing gets in any more.
    pub fn close(&self) -> (Vec<C>, Vec<W>) {
        let mut lanes = self.lock();
        lanes.closed = true;
        let (mut conns, mut waiters) = lanes.control.clear();
        let (bulk_conns, bulk_waiters) = lanes.bulk.clear();
        conns.extend(bulk_conns);
        conns.append(&mut lanes.retired);
        waiters.extend(bulk_waiters);
        (conns, waiters)
    }
}
