//! The bookkeeping of one lane: which connections it has, which are free, who waits. Plain values in, decisions out;
//! the link acts on them.
//!
//! A waiter is never lost: as long as anybody waits, a dial is under way or every connection is busy (and a busy
//! connection takes a waiter when it is released, or is replaced by a dial when it ends).

use std::collections::VecDeque;

/// What to do about a new waiter or a gone connection.
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
    /// The free ones; the last is the most recently used.
    idle: Vec<C>,
    dialing: usize,
    waiting: VecDeque<W>,
}

impl<C: Clone + PartialEq, W> Lane<C, W> {
    pub fn multiplexed() -> Self {
        Self { multiplexed: true, max: 1, open: Vec::new(), idle: Vec::new(), dialing: 0, waiting: VecDeque::new() }
    }

    pub fn exclusive(max: usize) -> Self {
        Self { multiplexed: false, max, ..Self::multiplexed() }
    }

    /// A waiter arrives.
    pub fn arrive(&mut self, waiter: W, wants: Wants) -> Next<C, W> {
        if self.multiplexed {
            if let Some(conn) = self.open.last() {
                return Next::Give(conn.clone(), waiter);
            }
        } else if wants == Wants::Any
            && let Some(conn) = self.idle.pop()
        {
            return Next::Give(conn, waiter);
        }
        match wants {
            Wants::Any => self.waiting.push_back(waiter),
            Wants::Fresh => self.waiting.push_front(waiter),
        }
        self.dial_if_useful()
    }

    fn dial_if_useful(&mut self) -> Next<C, W> {
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

    /// A dial succeeded.
    pub fn dialed(&mut self, conn: C) -> Placed<C, W> {
        self.dialing -= 1;
        self.adopt(conn)
    }

    /// A connection came that the lane has not dialled.
    pub fn adopt(&mut self, conn: C) -> Placed<C, W> {
        if self.multiplexed {
            let displaced = std::mem::replace(&mut self.open, vec![conn]);
            return Placed { waiters: self.waiting.drain(..).collect(), displaced };
        }
        self.open.push(conn.clone());
        let waiters: Vec<W> = self.waiting.pop_front().into_iter().collect();
        if waiters.is_empty() {
            self.idle.push(conn);
        }
        Placed { waiters, displaced: Vec::new() }
    }

    /// A dial failed. Those returned fail with it: all waiters, unless another dial or a busy connection may still
    /// serve them.
    pub fn dial_failed(&mut self) -> Vec<W> {
        self.dialing -= 1;
        let busy = self.open.len() - self.idle.len();
        if busy == 0 && self.dialing == 0 { self.waiting.drain(..).collect() } else { Vec::new() }
    }

    /// A connection has finished its request: it takes the next waiter or becomes free.
    pub fn released(&mut self, conn: &C) -> Option<W> {
        if self.multiplexed || !self.open.contains(conn) || self.idle.contains(conn) {
            return None;
        }
        let next = self.waiting.pop_front();
        if next.is_none() {
            self.idle.push(conn.clone());
        }
        next
    }

    /// A connection takes no further requests: it ended, or it will when its present ones have.
    pub fn removed(&mut self, conn: &C) -> Next<C, W> {
        self.open.retain(|other| other != conn);
        self.idle.retain(|other| other != conn);
        self.dial_if_useful()
    }

    /// Takes out the waiters of which `gone` is true.
    pub fn forget(&mut self, mut gone: impl FnMut(&W) -> bool) -> Vec<W> {
        let (left, kept): (Vec<W>, Vec<W>) = self.waiting.drain(..).partition(|waiter| gone(waiter));
        self.waiting = kept.into();
        left
    }

    /// Takes out everything, for closing.
    pub fn clear(&mut self) -> (Vec<C>, Vec<W>) {
        self.idle.clear();
        (std::mem::take(&mut self.open), self.waiting.drain(..).collect())
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
}

#[cfg(test)]
mod tests;
