//! Scrub: reads everything a store holds once in a period, from the disk, and checks it. What is bad is quarantined, noted
//! in the ledger, and fetched again by `heal.rs`.
//!
//! A pass goes through the log from its beginning to where it ended when the pass began. Its pace is what is left over the
//! time that is left; it waits while foreground requests are disturbed. A pass that an operator asked for has no pace, only
//! that politeness; and one that was asked for, or that is late, is polite for a moment only. Where it is, is written down, so that a restart goes on there.

use super::duty::wait;
use super::ledger::Finder;
use super::slot::StoreSlot;
use super::state::Node;
use crate::clock::wall_ns;
use crate::limits::{
    SCRUB_BATCH_BLOCKS, SCRUB_BATCH_BYTES, SCRUB_NAP, SCRUB_PATIENCE, SCRUB_RATE_MIN, SCRUB_REST, SCRUB_SAVE,
    SCRUB_STRETCH, SCRUB_UNREADABLE_MAX, SCRUB_YIELD,
};
use crate::state_file;
use crate::tasks::blocking;
use cairn_proto::{StoreId, StoreUuid, pb};
use cairn_store::{Cause, Closed, Disk, LogPosition, ScrubItem, Scrubbed};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const FILE: &str = "scrub.json";
const FORMAT: u32 = 1;

/// How far a store is; times are nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Passes that began.
    pass: u64,
    running: bool,
    asked: bool,
    begun_ns: i64,
    /// Where the pass goes on, and the last segment it goes to.
    segment: u32,
    page: u32,
    last_segment: u32,
    bytes_done: u64,
    bytes_total: u64,
    found: u64,
    repaired: u64,
    last_complete_ns: i64,
}

fn since(begun_ns: i64, now_ns: i64) -> Duration {
    // A clock that was set back is as if no time had passed.
    Duration::from_nanos(u64::try_from(now_ns.saturating_sub(begun_ns)).unwrap_or(0))
}

impl Record {
    /// True when a pass has to begin.
    fn is_due(&self, period: Duration, now_ns: i64) -> bool {
        !self.running && (self.pass == 0 || since(self.begun_ns, now_ns) >= period)
    }

    /// True when the period is over and the pass is not complete.
    fn is_behind(&self, period: Duration, now_ns: i64) -> bool {
        self.running && since(self.begun_ns, now_ns) > period
    }

    /// How long the next batch may be put off while foreground requests are disturbed; `None` = as long as they are.
    fn patience(&self, period: Duration, now_ns: i64) -> Option<Duration> {
        let is_late = since(self.begun_ns, now_ns) >= period.mul_f64(0.9);
        (self.asked || is_late).then_some(SCRUB_PATIENCE)
    }

    fn begin(&mut self, asked: bool, last_segment: u32, bytes_total: u64, now_ns: i64) {
        *self = Self {
            pass: self.pass + 1,
            running: true,
            asked,
            begun_ns: now_ns,
            last_segment,
            bytes_total,
            last_complete_ns: self.last_complete_ns,
            ..Self::default()
        };
    }

    fn complete(&mut self, now_ns: i64) {
        (self.running, self.last_complete_ns) = (false, now_ns);
    }

    /// Bytes a second that finish the pass with a tenth of its period to spare; faster when it is late, as if a twentieth of
    /// the period were left. `None` = no limit.
    fn rate(&self, period: Duration, now_ns: i64) -> Option<f64> {
        if self.asked {
            return None;
        }
        let left = self.bytes_total.saturating_sub(self.bytes_done) as f64;
        let time = period.mul_f64(0.9).saturating_sub(since(self.begun_ns, now_ns)).max(period / 20);
        Some((left / time.as_secs_f64().max(1e-3)).max(SCRUB_RATE_MIN))
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    /// By the store's uuid.
    stores: BTreeMap<String, Record>,
}

/// The positions of all stores of a node, on disk.
pub(crate) struct Positions(Mutex<BTreeMap<String, Record>>);

impl Positions {
    /// Reads them. A file that is damaged costs a pass and is no reason not to start.
    pub(crate) fn load(disk: &dyn Disk) -> io::Result<Self> {
        let read = state_file::read(disk, FILE)?;
        let file = read.and_then(|content| serde_json::from_slice::<File>(&content).ok());
        Ok(Self(Mutex::new(file.filter(|file| file.format == FORMAT).map(|file| file.stores).unwrap_or_default())))
    }

    fn of(&self, uuid: StoreUuid) -> Option<Record> {
        self.0.lock().get(&uuid.to_string()).copied()
    }

    fn save(&self, disk: &dyn Disk, uuid: StoreUuid, record: Record) -> io::Result<()> {
        // Held over the write: two writers of one file would race.
        let mut stores = self.0.lock();
        stores.insert(uuid.to_string(), record);
        let file = File { format: FORMAT, stores: stores.clone() };
        state_file::replace(disk, FILE, &serde_json::to_vec(&file).expect("numbers are always JSON"))
    }
}

/// Scrub of one store.
pub(crate) struct Scrub {
    period: Duration,
    record: Mutex<Record>,
    /// An operator asked for a pass.
    called: Notify,
}

impl Scrub {
    pub(crate) fn new(period: Duration) -> Self {
        Self { period, record: Mutex::default(), called: Notify::new() }
    }

    /// A defect that scrub found was repaired and read again.
    pub(crate) fn repaired(&self) {
        let mut record = self.record.lock();
        // May come before the batch in which it was found is counted.
        record.repaired += 1;
    }

    pub(crate) fn to_pb(&self, store: StoreId) -> pb::StoreScrub {
        let record = *self.record.lock();
        pb::StoreScrub {
            store: store.0,
            pass: record.pass,
            running: record.running,
            asked: record.asked,
            bytes_done: record.bytes_done,
            bytes_total: record.bytes_total.max(record.bytes_done),
            found: record.found,
            repaired: record.repaired.min(record.found),
            last_complete_ns: record.last_complete_ns,
            behind: record.is_behind(self.period, wall_ns()),
        }
    }

    /// What an operator has to look at; empty when well.
    pub(crate) fn alarm(&self) -> String {
        let behind = self.record.lock().is_behind(self.period, wall_ns());
        if behind {
            "scrub is behind: not everything could be read back in its period".to_owned()
        } else {
            String::new()
        }
    }
}

/// Begins a pass. One that was asked for takes the place of a slow one, and of no other.
pub(crate) async fn begin(slot: &StoreSlot, asked: bool) -> Result<(), Closed> {
    let (last, bytes) = slot.ask(|store| (store.newest_segment(), store.scrub_bytes())).await?;
    let mut record = slot.scrub.record.lock();
    if !record.running || (asked && !record.asked) {
        record.begin(asked, last, bytes, wall_ns());
        tracing::info!(store = ?slot.id(), pass = record.pass, asked, bytes, "scrub begins");
    }
    drop(record);
    slot.scrub.called.notify_one();
    Ok(())
}

/// Looks after the store with this index until `stop`.
pub(crate) async fn run(node: Arc<Node>, index: usize, stop: CancellationToken) {
    let slot = &node.stores[index];
    let mut known = None;
    loop {
        if !wait(&stop, &slot.scrub.called, Some(SCRUB_NAP)).await {
            break;
        }
        let Some(uuid) = slot.uuid().filter(|_| slot.is_open() && slot.id().is_some()) else { continue };
        if known != Some(uuid) {
            if let Some(record) = node.home.scrubs.of(uuid) {
                let mut now = slot.scrub.record.lock();
                *now = if now.running { Record { pass: record.pass + 1, ..*now } } else { record };
            }
            known = Some(uuid);
        }
        let due = slot.scrub.record.lock().is_due(slot.scrub.period, wall_ns());
        if due && begin(slot, false).await.is_err() {
            continue;
        }
        if !slot.scrub.record.lock().running {
            continue;
        }
        let done = stop.run_until_cancelled(pass(&node, slot, uuid)).await;
        save(&node, slot, uuid).await;
        if done.is_none() {
            break;
        }
    }
}

async fn save(node: &Node, slot: &StoreSlot, uuid: StoreUuid) {
    let record = *slot.scrub.record.lock();
    let home = node.home.clone();
    if let Err(error) = blocking(move || home.scrubs.save(&home.disk, uuid, record)).await {
        tracing::warn!(%error, "the position of scrub is not written down");
    }
}

/// Goes on with the pass under way until it is complete, another one was begun, or the store is closed.
async fn pass(node: &Node, slot: &Arc<StoreSlot>, uuid: StoreUuid) {
    let pass = slot.scrub.record.lock().pass;
    let mut saved = cairn_net::now();
    let mut unreadable = 0;
    loop {
        let record = *slot.scrub.record.lock();
        let from = LogPosition { segment: record.segment, page: record.page };
        let last = record.last_segment;
        let Ok(stretch) = slot.ask(move |store| store.stretch(from, last, SCRUB_STRETCH)).await else { return };
        let mut items = &stretch.items[..];
        while !items.is_empty() {
            let (batch, rest) = items.split_at(batch_len(items));
            let patience = slot.scrub.record.lock().patience(slot.scrub.period, wall_ns());
            be_polite(slot, patience).await;
            let begun = cairn_net::now();
            let Some(read) = scrub_batch(node, slot, batch).await else { return };
            unreadable = if read.unreadable == batch.len() { unreadable + read.unreadable as u32 } else { 0 };
            if read.failed {
                // Nothing was looked at: the same again, later.
                sleep(SCRUB_REST).await; // tidy: sleep-ok(a disk that does not let itself be looked at)
                continue;
            }
            let rate = {
                let mut record = slot.scrub.record.lock();
                if record.pass != pass {
                    return;
                }
                let end = batch[batch.len() - 1].position();
                (record.segment, record.page) = (end.segment, end.page + 1);
                record.bytes_done += read.bytes;
                record.found += read.found;
                record.rate(slot.scrub.period, wall_ns())
            };
            if saved + SCRUB_SAVE <= cairn_net::now() {
                save(node, slot, uuid).await;
                saved = cairn_net::now();
            }
            if unreadable >= SCRUB_UNREADABLE_MAX {
                tracing::error!(store = ?slot.id(), "the disk cannot be read: scrub rests");
                sleep(SCRUB_REST).await; // tidy: sleep-ok(a failing disk is left alone for a while)
            }
            if keep_pace(slot, pass, begun, read.bytes, rate).await.is_none() {
                return;
            }
            items = rest;
        }
        let mut record = slot.scrub.record.lock();
        if record.pass != pass {
            return;
        }
        match stretch.next {
            Some(next) => (record.segment, record.page) = (next.segment, next.page),
            None => {
                record.complete(wall_ns());
                let (bytes, found) = (record.bytes_done, record.found);
                tracing::info!(store = ?slot.id(), pass, bytes, found, "scrub complete");
                return;
            }
        }
    }
}

/// How many of the first items are read in one go.
fn batch_len(items: &[ScrubItem]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take(SCRUB_BATCH_BLOCKS).take_while(|item| {
        bytes += item.disk_len();
        bytes <= SCRUB_BATCH_BYTES
    });
    fits.count().max(1)
}

/// Waits while foreground requests are disturbed, no longer than `patience`.
async fn be_polite(slot: &StoreSlot, patience: Option<Duration>) {
    let begun = cairn_net::now();
    while slot.is_disturbed() && patience.is_none_or(|patience| begun.elapsed() < patience) {
        sleep(SCRUB_YIELD).await; // tidy: sleep-ok(leaves the disk to foreground requests)
    }
    slot.disturb();
}

/// Waits until the batch has taken the time it should; `None` when another pass was begun meanwhile.
async fn keep_pace(slot: &StoreSlot, pass: u64, begun: Instant, bytes: u64, rate: Option<f64>) -> Option<()> {
    let should = rate.and_then(|rate| Duration::try_from_secs_f64(bytes as f64 / rate).ok()).unwrap_or_default();
    let until = begun + should;
    loop {
        let left = until.saturating_duration_since(cairn_net::now());
        if slot.scrub.record.lock().pass != pass {
            return None;
        }
        if left.is_zero() {
            return Some(());
        }
        tokio::select! {
            () = sleep(left.min(SCRUB_NAP)) => {} // tidy: sleep-ok(the pace of scrub)
            () = slot.scrub.called.notified() => {}
        }
    }
}

#[derive(Default)]
struct Read {
    bytes: u64,
    found: u64,
    unreadable: usize,
    failed: bool,
}

/// Reads some blocks back and notes what is bad; `None` when the store was closed.
async fn scrub_batch(node: &Node, slot: &Arc<StoreSlot>, batch: &[ScrubItem]) -> Option<Read> {
    let (store, items) = (slot.id()?, batch.to_vec());
    let answers = slot.ask(move |store| store.scrub(&items)).await.ok()?;
    let mut read = Read::default();
    for (item, answer) in batch.iter().zip(answers) {
        read.bytes += item.disk_len();
        match answer {
            Scrubbed::Whole | Scrubbed::Gone => {}
            Scrubbed::Bad(cause) => {
                read.found += 1;
                read.unreadable += usize::from(cause == Cause::Unreadable);
                node.ledger.found(store, item.key().block, item.pg(), &cause.to_string(), Finder::Scrub);
            }
            Scrubbed::Failed(error) => {
                tracing::warn!(%store, block = %item.key(), %error, "scrub cannot look at a block");
                read.failed = true;
            }
        }
    }
    if read.found > 0 {
        node.wakes.heal.notify_one();
    }
    Some(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_store::RealDisk;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const PERIOD: Duration = Duration::from_secs(10 * 24 * 3600);

    fn at(days: f64) -> i64 {
        1_000_000_000_000_000_000 + (days * DAY.as_nanos() as f64) as i64
    }

    fn begun(asked: bool) -> Record {
        let mut record = Record::default();
        record.begin(asked, 5, 9_000_000_000_000, at(0.0));
        record
    }

    #[test]
    fn a_pass_is_due_once_in_a_period_and_behind_after_it() {
        assert!(Record::default().is_due(PERIOD, at(0.0)));
        let mut record = begun(false);
        assert!(!record.is_due(PERIOD, at(20.0)), "it runs");
        assert!(!record.is_behind(PERIOD, at(10.0)) && record.is_behind(PERIOD, at(10.1)));
        record.complete(at(8.0));
        assert!(!record.is_due(PERIOD, at(9.9)) && record.is_due(PERIOD, at(10.0)));
        assert!(!record.is_behind(PERIOD, at(30.0)));
        assert_eq!(record.last_complete_ns, at(8.0));
        assert!(!record.is_due(PERIOD, at(-100.0)), "a clock that was set back");
    }

    #[test]
    fn the_pace_is_what_is_left_over_the_time_that_is_left() {
        let mut record = begun(false);
        let days = |rate: Option<f64>| record.bytes_total as f64 / rate.expect("paced") / DAY.as_secs_f64();
        assert!((days(record.rate(PERIOD, at(0.0))) - 9.0).abs() < 1e-6, "a tenth is spare");
        // Nothing done after eight days: a day is left. After nine, and ever after: half a day.
        assert!((days(record.rate(PERIOD, at(8.0))) - 1.0).abs() < 1e-6);
        assert!((days(record.rate(PERIOD, at(9.9))) - 0.5).abs() < 1e-6);
        record.bytes_done = record.bytes_total - 10;
        assert_eq!(record.rate(PERIOD, at(1.0)), Some(SCRUB_RATE_MIN));
        assert_eq!(begun(true).rate(PERIOD, at(0.0)), None, "what was asked for has no pace");
    }

    #[test]
    fn positions_survive_a_restart_and_a_damaged_file_costs_only_a_pass() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let disk = RealDisk::open(dir.path()).expect("it is free");
        let uuid = StoreUuid([7; 16]);
        let positions = Positions::load(&disk).expect("none yet");
        assert_eq!(positions.of(uuid), None);
        let record = Record { segment: 3, page: 99, ..begun(false) };
        positions.save(&disk, uuid, record).expect("saved");
        assert_eq!(Positions::load(&disk).expect("read").of(uuid), Some(record));
        state_file::replace(&disk, FILE, b"{").expect("written");
        assert_eq!(Positions::load(&disk).expect("read").of(uuid), None);
    }
}
