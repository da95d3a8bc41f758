//! Open-loop load: operations begin when a seeded Poisson process says so, whether or not earlier ones have ended, and
//! their latency counts from that moment. A slow cluster therefore cannot slow its own measurement down.

use crate::payload::{self, Mark};
use crate::slots::Slots;
use anyhow::{Result, ensure};
use cairn_client::{Error, File};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Operations under way at once beyond which a run is broken off: the machine would measure itself.
pub const IN_FLIGHT_MAX: usize = 20_000;
/// How long the thread that begins operations sleeps at most before it looks whether it shall end.
const SLICE: Duration = Duration::from_millis(20);
/// Failures whose errors are kept.
const ERRORS_MAX: usize = 20_000;
/// Range reads begin at multiples of this.
const ALIGNMENT: u64 = 4096;

/// A part of the run; operations belong to the one in which they begin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Window {
    /// Connections are opened, timers learn; not measured.
    Warm = 0,
    /// Nothing is wrong.
    Healthy = 1,
    /// The first two seconds of the fault.
    Fault0 = 2,
    /// The rest of it.
    Fault2 = 3,
    /// Nothing is wrong any more.
    Healed = 4,
}

impl Window {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Warm, Self::Healthy, Self::Fault0, Self::Fault2, Self::Healed];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Healthy => "h",
            Self::Fault0 => "f0",
            Self::Fault2 => "f2",
            Self::Healed => "healed",
        }
    }
}

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads this many bytes of a random place of a random file.
    Read(usize),
    /// Writes the next slot.
    Write,
}

/// Operations of one kind.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Class {
    /// As reports name it.
    pub name: &'static str,
    /// Mean rate of a Poisson process.
    pub per_s: f64,
    /// What each of them does.
    pub kind: Kind,
}

/// A file that is read, with its number in [`Mark`].
#[derive(Clone)]
pub struct Target {
    /// Open.
    pub file: File,
    /// Its number.
    pub id: u32,
    /// Its bytes, all of write 0.
    pub len: u64,
}

/// What the load works on.
#[derive(Clone, Default)]
pub struct Work {
    /// For reads.
    pub targets: Vec<Target>,
    /// For writes.
    pub slots: Option<Arc<Slots>>,
}

/// How an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// As it should.
    Ok,
    /// With an error.
    Failed,
    /// With success, and this many wrong bytes.
    Wrong(u64),
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// In which it began.
    pub window: Window,
    /// Index of its class.
    pub class: usize,
    /// When it was scheduled, from the beginning of the load.
    pub begun: Duration,
    /// From then to its end.
    pub latency: Duration,
    /// How it ended.
    pub ending: Ending,
}

/// A failed operation.
#[derive(Clone, Debug)]
pub struct Failure {
    /// In which it began.
    pub window: Window,
    /// From its scheduled beginning to its end.
    pub latency: Duration,
    /// What it got; `None` when there was nothing left to work on.
    pub error: Option<Error>,
}

struct Shared {
    begin: Instant,
    window: AtomicU8,
    in_flight: AtomicUsize,
    stop: AtomicBool,
    overrun: AtomicBool,
    events: Mutex<Vec<Event>>,
    failures: Mutex<Vec<Failure>>,
}

/// Running load. Dropping it ends it without waiting.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Everything a load has done.
pub struct Record {
    /// Every operation, in the order in which they ended.
    pub events: Vec<Event>,
    /// The failed ones, at most 20,000.
    pub failures: Vec<Failure>,
}

impl Load {
    /// Begins in [`Window::Warm`], on the current tokio runtime.
    pub fn start(work: Work, classes: &[Class], seed: u64) -> Self {
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            window: AtomicU8::new(Window::Warm as u8),
            in_flight: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            overrun: AtomicBool::new(false),
            events: Mutex::default(),
            failures: Mutex::default(),
        });
        let scheduler = Scheduler {
            shared: shared.clone(),
            runtime: tokio::runtime::Handle::current(),
            work: Arc::new(work),
            classes: classes.to_vec(),
            random: fastrand::Rng::with_seed(seed),
        };
        // A thread of its own wakes to the microsecond; timers of the runtime count milliseconds.
        let thread = std::thread::spawn(move || scheduler.run());
        Self { shared, thread: Some(thread) }
    }

    /// Operations that begin from now on belong to this window.
    pub fn enter(&self, window: Window) {
        self.shared.window.store(window as u8, Ordering::Relaxed);
    }

    /// Time since the beginning.
    pub fn now(&self) -> Duration {
        self.shared.begin.elapsed()
    }

    /// Operations under way.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// Begins no more operations, waits for those under way for at most `patience`, and gives out what was recorded.
    ///
    /// # Errors
    /// Operations are under way still, or there were more than [`IN_FLIGHT_MAX`] at once.
    pub async fn finish(mut self, patience: Duration) -> Result<Record> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while self.in_flight() > 0 && begun.elapsed() < patience {
            tokio::time::sleep(SLICE).await;
        }
        if let Some(thread) = self.thread.take() {
            // It looks every SLICE whether it shall end.
            let _ = thread.join();
        }
        let overrun = self.shared.overrun.load(Ordering::Relaxed);
        ensure!(!overrun, "{IN_FLIGHT_MAX} operations were under way at once: broken off");
        let left = self.in_flight();
        ensure!(left == 0, "{left} operations have not ended {} s after the load", patience.as_secs());
        let events = std::mem::take(&mut *self.shared.events.lock());
        let failures = std::mem::take(&mut *self.shared.failures.lock());
        Ok(Record { events, failures })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

struct Scheduler {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
    work: Arc<Work>,
    classes: Vec<Class>,
    random: fastrand::Rng,
}

impl Scheduler {
    fn run(mut self) {
        let mut next: Vec<Duration> = (0..self.classes.len()).map(|class| self.gap(class)).collect();
        loop {
            let Some((class, at)) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at) else { return };
            loop {
                if self.shared.stop.load(Ordering::Relaxed) {
                    return;
                }
                let left = at.saturating_sub(self.shared.begin.elapsed());
                if left.is_zero() {
                    break;
                }
                std::thread::sleep(left.min(SLICE));
            }
            if self.shared.in_flight.load(Ordering::Relaxed) >= IN_FLIGHT_MAX {
                self.shared.overrun.store(true, Ordering::Relaxed);
                return;
            }
            self.begin(class, at);
            next[class] += self.gap(class);
        }
    }

    /// Time between two arrivals of a Poisson process.
    fn gap(&mut self, class: usize) -> Duration {
        Duration::from_secs_f64(-(1.0 - self.random.f64()).ln() / self.classes[class].per_s)
    }

    fn begin(&mut self, class: usize, begun: Duration) {
        let window = Window::ALL[usize::from(self.shared.window.load(Ordering::Relaxed))];
        let kind = self.classes[class].kind;
        let place = (self.random.u64(..), self.random.u64(..));
        let (shared, work) = (self.shared.clone(), self.work.clone());
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        self.runtime.spawn(async move {
            let result = match kind {
                Kind::Read(len) => read(&work, place, len).await.map_err(Some),
                Kind::Write => write(&work).await,
            };
            let latency = shared.begin.elapsed().saturating_sub(begun);
            let ending = match result {
                Ok(0) => Ending::Ok,
                Ok(wrong) => Ending::Wrong(wrong),
                Err(error) => {
                    let mut failures = shared.failures.lock();
                    if failures.len() < ERRORS_MAX {
                        failures.push(Failure { window, latency, error });
                    }
                    Ending::Failed
                }
            };
            shared.events.lock().push(Event { window, class, begun, latency, ending });
            shared.in_flight.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn read(work: &Work, (file, place): (u64, u64), len: usize) -> Result<u64, Error> {
    let target = &work.targets[(file % work.targets.len() as u64) as usize];
    let places = (target.len - len as u64) / ALIGNMENT + 1;
    let offset = place % places * ALIGNMENT;
    let found = target.file.read_at(offset, len).await?;
    let missing = (len - found.len().min(len)) as u64;
    Ok(missing + payload::wrong_bytes(Mark { file: target.id, seq: 0 }, offset, &found))
}

async fn write(work: &Work) -> Result<u64, Option<Error>> {
    let slots = work.slots.as_ref().ok_or(None)?;
    slots.write().await.map(|()| 0)
}
