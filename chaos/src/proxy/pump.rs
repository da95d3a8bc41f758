//! One direction of one connection: reads, applies the mode, writes when the time has come. One task, no locks.

use super::conn::{Conn, finish};
use super::faults::FrameFaults;
use super::frames::{Peer, Scanner, Step};
use super::mode::{Direction, Family, Mode};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Room made for a read.
const READ_LEN: usize = 256 * 1024;
/// Less room than this is not worth a read.
const READ_MIN: usize = 32 * 1024;
/// Bytes a delayed direction holds; more wait in the sender's socket. 200 ms at 160 MiB/s.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes a paced direction holds, so that the sender feels the pace.
const PACED_BYTES_MAX: usize = 64 * 1024;
/// Pieces a second into which paced bytes are cut.
const PIECES_PER_S: u64 = 50;

enum Item {
    Data(Bytes),
    /// The end of the stream.
    Fin,
    /// Both sides are reset here.
    Reset,
}

/// What the pump waits for beside new bytes.
#[derive(Default)]
struct Wait {
    writable: bool,
    until: Option<Instant>,
}

/// See the module.
pub struct Pump {
    conn: Arc<Conn>,
    direction: Direction,
    modes: watch::Receiver<Mode>,
    mode: Mode,
    /// Bytes let through since the mode was set.
    passed: u64,
    scanner: Scanner,
    faults: FrameFaults,
    buf: BytesMut,
    queue: VecDeque<(Instant, Item)>,
    queued: usize,
    last_due: Instant,
    pace_until: Instant,
    random: fastrand::Rng,
    /// The source has ended.
    eof: bool,
    /// Its end has not been told to the sink.
    fin_kept: bool,
    /// Everything further is dropped.
    cut_off: bool,
    /// The end has been told: nothing is left to do.
    finished: bool,
}

impl Pump {
    /// A pump that has not moved a byte yet.
    pub fn new(conn: Arc<Conn>, direction: Direction, mut modes: watch::Receiver<Mode>, seed: u64) -> Self {
        let mode = *modes.borrow_and_update();
        let now = Instant::now();
        Self {
            conn,
            direction,
            modes,
            mode,
            passed: 0,
            scanner: Scanner::default(),
            faults: FrameFaults::new(seed, true),
            buf: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            last_due: now,
            pace_until: now,
            random: fastrand::Rng::with_seed(seed),
            eof: false,
            fin_kept: false,
            cut_off: false,
            finished: false,
        }
    }

    /// Runs until the stream has ended, the connection is dead, or the proxy is gone.
    pub async fn run(mut self) {
        let conn = self.conn.clone();
        let (source, sink) = match self.direction {
            Direction::ToServer => (&conn.client, &conn.server),
            Direction::ToClient => (&conn.server, &conn.client),
        };
        while !conn.dead.is_cancelled() {
            if self.modes.has_changed().unwrap_or(false) {
                self.change_mode();
                continue;
            }
            let wait = self.write_due(sink);
            if self.finished {
                return;
            }
            let readable = self.may_read();
            tokio::select! {
                biased;
                () = conn.dead.cancelled() => return,
                changed = self.modes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.modes.mark_changed();
                }
                _ = sink.writable(), if wait.writable => {}
                () = at(wait.until) => {}
                _ = source.readable(), if readable => self.read(source),
            }
        }
    }

    fn may_read(&self) -> bool {
        let max = if self.mode.pace().is_some() { PACED_BYTES_MAX } else { QUEUE_BYTES_MAX };
        !self.eof && (self.swallows() || self.queued < max)
    }

    fn swallows(&self) -> bool {
        self.cut_off || self.mode == Mode::BlackHole
    }

    fn fired(&self, family: Family) {
        self.conn.counters.fired(family, 1);
    }

    fn change_mode(&mut self) {
        let next = *self.modes.borrow_and_update();
        let before = std::mem::replace(&mut self.mode, next);
        if before == next {
            return;
        }
        self.passed = 0;
        self.pace_until = Instant::now();
        if self.conn.swallowed.load(Ordering::Relaxed) {
            // Part of the stream is missing: letting the rest pass would be a fault that nobody asked for.
            self.conn.reset();
            return;
        }
        for rest in self.faults.restart(self.scanner.at_boundary()) {
            self.pass(rest);
        }
        if next == Mode::BlackHole && !self.queue.is_empty() {
            self.queue.clear();
            self.queued = 0;
            self.swallow();
        }
        if self.fin_kept && next != Mode::HalfOpen {
            self.fin_kept = false;
            self.push(Item::Fin);
        }
    }

    // ------------------------------------------------------------ reading

    fn read(&mut self, source: &TcpStream) {
        if self.buf.capacity() - self.buf.len() < READ_MIN {
            self.buf.reserve(READ_LEN);
        }
        match source.try_read_buf(&mut self.buf) {
            Ok(0) => self.on_end(),
            Ok(_) => {
                let bytes = self.buf.split().freeze();
                self.on_bytes(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) if self.swallows() => self.on_end(),
            Err(_) => self.conn.reset(),
        }
    }

    fn on_bytes(&mut self, mut bytes: Bytes) {
        self.conn.counters.bytes(self.direction, bytes.len() as u64);
        if self.swallows() {
            self.swallow();
        } else if !self.mode.cuts_frames() {
            self.pass(bytes.clone());
        }
        while !bytes.is_empty() {
            let (taken, step) = self.scanner.take(&bytes);
            let piece = bytes.split_to(taken);
            if let Step::End(header) = step {
                self.conn.counters.frame(self.direction, self.scanner.peer(), &header);
                // The scanner of the other direction sees no HELLO.
                if self.direction == Direction::ToServer && self.scanner.peer() == Peer::Server {
                    self.conn.of_a_server.store(true, Ordering::Relaxed);
                }
            }
            if self.mode.cuts_frames() && !self.cut_off {
                self.cut(piece, step);
            }
        }
    }

    fn cut(&mut self, piece: Bytes, step: Step) {
        // What is counted one by one has to be noticed by a client; other servers have no part in that.
        let spared = matches!(self.mode, Mode::FlipOnce { .. }) && self.conn.of_a_server.load(Ordering::Relaxed);
        let outcome = self.faults.take(if spared { Mode::Pass } else { self.mode }, piece, step);
        for out in outcome.out {
            self.pass(out);
        }
        if let Some(family) = outcome.fired {
            self.fired(family);
        }
        if outcome.stop {
            self.cut_off = true;
            self.conn.mark_swallowed();
        }
    }

    fn swallow(&mut self) {
        self.conn.mark_swallowed();
        if self.mode == Mode::BlackHole {
            self.fired(Family::BlackHole);
        }
    }

    fn on_end(&mut self) {
        self.eof = true;
        if matches!(self.mode, Mode::Truncate { .. }) && self.cut_off {
            // Its end has been told long ago.
            self.finished = true;
            return;
        }
        if self.swallows() {
            self.conn.mark_half_open();
            self.swallow();
            return;
        }
        for rest in self.faults.restart(true) {
            self.pass(rest);
        }
        if self.mode == Mode::HalfOpen {
            self.fin_kept = true;
            self.conn.mark_half_open();
            self.fired(Family::HalfOpen);
        } else {
            self.push(Item::Fin);
        }
    }

    /// Lets bytes through, as far as the mode lets them.
    fn pass(&mut self, mut bytes: Bytes) {
        let len = bytes.len() as u64;
        let limit = match self.mode {
            Mode::ResetAfter { bytes } | Mode::Truncate { bytes } => bytes,
            _ => u64::MAX,
        };
        let over = self.passed + len >= limit;
        if over {
            bytes.truncate((limit - self.passed.min(limit)) as usize);
            self.cut_off = true;
        }
        self.passed += len;
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.push(Item::Data(bytes));
        }
        if over && matches!(self.mode, Mode::Truncate { .. }) {
            self.conn.mark_swallowed();
            self.fired(Family::Truncate);
            self.push(Item::Fin);
        } else if over {
            self.push(Item::Reset);
        }
    }

    fn push(&mut self, item: Item) {
        let now = Instant::now();
        let due = match self.mode {
            Mode::Delay(latency) => {
                self.fired(Family::Delay);
                now + latency.draw(&mut self.random)
            }
            _ => now,
        };
        // Nothing overtakes.
        self.last_due = self.last_due.max(due);
        self.queue.push_back((self.last_due, item));
    }

    // ------------------------------------------------------------ writing

    /// Writes what is due and as much as the sink takes.
    fn write_due(&mut self, sink: &TcpStream) -> Wait {
        let mut wait = Wait::default();
        while let Some((due, item)) = self.queue.front_mut() {
            let now = Instant::now();
            let begin = (*due).max(self.pace_until);
            if begin > now {
                wait.until = Some(begin);
                break;
            }
            match item {
                Item::Fin => {
                    finish(sink);
                    self.queue.pop_front();
                    // A truncated stream goes on being read and dropped.
                    self.finished = self.eof;
                }
                Item::Reset => {
                    self.fired(Family::Reset);
                    self.conn.reset();
                    self.finished = true;
                    break;
                }
                Item::Data(bytes) => {
                    let pace = self.mode.pace();
                    let len = pace.map_or(usize::MAX, |rate| (rate / PIECES_PER_S).max(1) as usize).min(bytes.len());
                    match sink.try_write(&bytes[..len]) {
                        Ok(written) => {
                            bytes.advance(written);
                            self.queued -= written;
                            if bytes.is_empty() {
                                self.queue.pop_front();
                            }
                            if let Some(rate) = pace {
                                self.paced(now, written, rate);
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            wait.writable = true;
                            break;
                        }
                        Err(_) => {
                            self.sink_is_gone();
                            break;
                        }
                    }
                }
            }
        }
        if let Some(held_until) = self.faults.held_until() {
            match self.faults.release(Instant::now()) {
                Some(frame) => {
                    self.pass(frame);
                    return Wait { writable: false, until: Some(Instant::now()) };
                }
                None => wait.until = Some(wait.until.map_or(held_until, |until| until.min(held_until))),
            }
        }
        wait
    }

    fn paced(&mut self, now: Instant, written: usize, rate: u64) {
        self.pace_until = now.max(self.pace_until) + Duration::from_secs_f64(written as f64 / rate as f64);
        self.fired(if self.mode == Mode::Drip { Family::Drip } else { Family::Throttle });
    }

    fn sink_is_gone(&mut self) {
        if self.conn.half_open.load(Ordering::Relaxed) {
            self.queue.clear();
            self.queued = 0;
            self.cut_off = true;
            self.conn.mark_swallowed();
        } else {
            self.conn.reset();
            self.finished = true;
        }
    }
}

async fn at(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
