//! The bookkeeping of one lane: which connections it has, which are free, who waits. Plain values in, decisions out;
//! [`super::Pool`] has them carried out.
//!
//! A waiter is never lost: as long as anybody waits, a dial is under way or every connection is busy (and a busy
//! connection takes a waiter when it is released, or is replaced by a dial when it ends).

use super::Pooled;
use std::collections::VecDeque;

/// What to do about a new waiter, a free connection or a gone one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<C, W> {
    /// Give the waiter to this connection now.
    Give(C, W),
    /// Begin one dial; close `evict` first, which makes room for it.
    Dial {
        /// A connection to be closed to make room.
        evict: Option<C>,
    },
    /// Nothing: the waiter's turn comes.
    Wait,
}

/// How far a waiter may trust what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Any connection.
    Any,
    /// One that was dialled or proven alive after now: a pooled one just turned out to be stale.
    Fresh,
    /// Any but the one of this number, on which the same was tried before.
    Other(u64),
}

impl Wants {
    fn accepts(self, serial: u64) -> bool {
        self != Self::Other(serial)
    }
}

/// Where a new connection went.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Placed<C, W> {
    /// It goes to these, in order; with none it is free.
    pub waiters: Vec<W>,
    /// Those it takes the place of: off the lane, to end with what they have.
    pub displaced: Vec<C>,
}

/// One lane. A multiplexed lane has one connection that takes everybody; otherwise a connection takes one at a time.
#[derive(Debug)]
pub(crate) struct Lane<C, W> {
    multiplexed: bool,
    max: usize,
    /// Established connections that may take requests, free or busy.
    open: Vec<C>,
    /// The free ones of an exclusive lane; the last is the most recently used.
    idle: Vec<C>,
    dialing: usize,
    waiting: VecDeque<(W, Wants)>,
    /// The peer's last dial failed: one at a time until one succeeds.
    cautious: bool,
    peak: usize,
}

impl<C: Pooled, W> Lane<C, W> {
    pub fn multiplexed() -> Self {
        Self {
            multiplexed: true,
            max: 1,
            open: Vec::new(),
            idle: Vec::new(),
            dialing: 0,
            waiting: VecDeque::new(),
            cautious: false,
            peak: 0,
        }
    }

    pub fn exclusive(max: usize) -> Self {
        Self { multiplexed: false, max, ..Self::multiplexed() }
    }

    /// A waiter arrives.
    pub fn arrive(&mut self, waiter: W, wants: Wants) -> Next<C, W> {
        if self.multiplexed {
            if let Some(conn) = self.open.last().filter(|conn| wants.accepts(conn.serial())) {
                return Next::Give(conn.clone(), waiter);
            }
        } else if wants != Wants::Fresh
            && let Some(at) = self.idle.iter().rposition(|conn| wants.accepts(conn.serial()))
        {
            return Next::Give(self.idle.remove(at), waiter);
        }
        match wants {
            Wants::Any | Wants::Other(_) => self.waiting.push_back((waiter, wants)),
            Wants::Fresh => self.waiting.push_front((waiter, wants)),
        }
        self.dial_if_useful()
    }

    /// What the last dial of the peer, on whatever lane, says about the next one.
    pub fn set_cautious(&mut self, cautious: bool) {
        self.cautious = cautious;
    }

    /// Who waits may be worth a dial, or one more.
    pub fn dial_if_useful(&mut self) -> Next<C, W> {
        if self.cautious && self.dialing > 0 {
            return Next::Wait;
        }
        if self.multiplexed {
            // One dial serves all; it may be a second connection, which takes the place of the first.
            let is_useful = self.dialing == 0 && !self.waiting.is_empty();
            self.dialing += usize::from(is_useful);
            return if is_useful { Next::Dial { evict: None } } else { Next::Wait };
        }
        if self.dialing >= self.waiting.len() {
            return Next::Wait;
        }
        if self.open.len() + self.dialing < self.max {
            self.dialing += 1;
            return Next::Dial { evict: None };
        }
        if self.dialing < self.max
            && let Some(conn) = self.idle.pop()
        {
            self.open.retain(|other| *other != conn);
            self.dialing += 1;
            return Next::Dial { evict: Some(conn) };
        }
        Next::Wait
    }

    /// Begins a dial for nobody in particular, to have `min` connections; false when there are enough.
    pub fn refill(&mut self, min: usize) -> bool {
        let is_short = self.open.len() + self.dialing < min.min(self.max);
        self.dialing += usize::from(is_short);
        is_short
    }

    /// A dial succeeded.
    pub fn dialed(&mut self, conn: C) -> Placed<C, W> {
        self.dialing -= 1;
        self.adopt(conn)
    }

    /// A connection came that the lane has not dialled.
    pub fn adopt(&mut self, conn: C) -> Placed<C, W> {
        if self.multiplexed {
            let displaced = std::mem::replace(&mut self.open, vec![conn]);
            self.peak = 1;
            let waiters = self.waiting.drain(..).map(|(waiter, _)| waiter).collect();
            return Placed { waiters, displaced };
        }
        self.open.push(conn.clone());
        self.peak = self.peak.max(self.open.len());
        let waiters: Vec<W> = self.waiting.pop_front().map(|(waiter, _)| waiter).into_iter().collect();
        if waiters.is_empty() {
            self.idle.push(conn);
        }
        Placed { waiters, displaced: Vec::new() }
    }

    /// A dial failed. Those returned fail with it: all waiters, unless another dial or a busy connection may still
    /// serve them.
    pub fn dial_failed(&mut self) -> Vec<W> {
        self.dialing -= 1;
        // Who waits on a multiplexed lane does not want the connection that is there.
        let may_serve = !self.multiplexed && self.open.len() > self.idle.len();
        if may_serve || self.dialing > 0 {
            return Vec::new();
        }
        self.waiting.drain(..).map(|(waiter, _)| waiter).collect()
    }

    /// A connection has finished its request: it takes the next waiter or becomes free.
    pub fn released(&mut self, conn: &C) -> Next<C, W> {
        if self.multiplexed || !self.open.contains(conn) || self.idle.contains(conn) {
            return Next::Wait;
        }
        let serial = conn.serial();
        let next = self.waiting.iter().position(|(_, wants)| wants.accepts(serial));
        match next.and_then(|at| self.waiting.remove(at)) {
            Some((waiter, _)) => Next::Give(conn.clone(), waiter),
            None => {
                self.idle.push(conn.clone());
                // Who waits does not want this one.
                self.dial_if_useful()
            }
        }
    }

    /// A connection takes no further requests: it ended, or it will when its present ones have.
    pub fn removed(&mut self, conn: &C) -> Next<C, W> {
        self.open.retain(|other| other != conn);
        self.idle.retain(|other| other != conn);
        self.dial_if_useful()
    }

    /// Takes out the waiters of which `gone` is true.
    pub fn forget(&mut self, mut gone: impl FnMut(&W) -> bool) -> Vec<W> {
        let (left, kept): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|(waiter, _)| gone(waiter));
        self.waiting = kept.into();
        left.into_iter().map(|(waiter, _)| waiter).collect()
    }

    /// Takes out everything, for closing; dials under way are not heard of again.
    pub fn clear(&mut self) -> (Vec<C>, Vec<W>) {
        self.idle.clear();
        self.dialing = 0;
        let waiters = self.waiting.drain(..).map(|(waiter, _)| waiter).collect();
        (std::mem::take(&mut self.open), waiters)
    }

    pub fn open(&self) -> &[C] {
        &self.open
    }

    #[cfg(test)]
    pub fn idle_count(&self) -> usize {
        self.idle.len()
    }

    pub fn dialing(&self) -> usize {
        self.dialing
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// True when somebody waits of whom `of` is true.
    pub fn any_waiting(&self, mut of: impl FnMut(&W) -> bool) -> bool {
        self.waiting.iter().any(|(waiter, _)| of(waiter))
    }

    /// Most connections it ever had at once.
    pub fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests;
