//! What keeps an etcd small: tombstones and chunks that nobody needs are removed, old revisions forgotten, and its size
//! is watched. Every server does it; each step is guarded, so that they do not get in each other's way.

use super::client::{CallError, Repeat};
use super::frame::{TxnId, floor_value};
use super::pb::{self, AlarmType};
use super::{Inner, ask};
use crate::limits::{
    ETCD_FULL_PERCENT, ETCD_HISTORY, ETCD_LOOK_EVERY, ETCD_OPS_MAX, ETCD_ORPHAN_AGE, ETCD_PAGE, ETCD_SWEEP_EVERY,
    ETCD_SWEEP_MAX, ETCD_TOMBSTONE_AGE,
};
use crate::url::EtcdPlace;
use cairn_meta::kv::KeyRange;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Revisions by when they were the newest, to know what is old.
#[derive(Default)]
struct Past {
    known: VecDeque<(Instant, i64)>,
}

impl Past {
    fn note(&mut self, now: Instant, revision: i64) {
        self.known.push_back((now, revision));
    }

    /// The newest revision that is at least so old.
    fn before(&self, now: Instant, age: Duration) -> Option<i64> {
        let old = |(at, _): &&(Instant, i64)| now.saturating_duration_since(*at) >= age;
        self.known.iter().rev().find(old).map(|(_, revision)| *revision)
    }

    fn forget(&mut self, now: Instant, age: Duration) {
        while self.known.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= age) {
            self.known.pop_front();
        }
    }
}

/// The task beside an engine.
pub(super) struct Janitor {
    inner: Arc<Inner>,
    quota: u64,
    compacts: bool,
    past: Past,
    /// Chunks without a pending row, and since when they are there.
    orphans: BTreeMap<TxnId, Instant>,
    /// What went wrong last, so that it is said once.
    said: Option<String>,
}

impl Janitor {
    pub(super) fn new(inner: Arc<Inner>, place: &EtcdPlace) -> Self {
        let orphans = BTreeMap::new();
        Self { inner, quota: place.quota, compacts: place.compact, past: Past::default(), orphans, said: None }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self) {
        let mut swept = Instant::now();
        loop {
            sleep(ETCD_LOOK_EVERY).await; // tidy: sleep-ok(the period of a duty)
            self.look().await;
            if Instant::now().saturating_duration_since(swept) < ETCD_SWEEP_EVERY {
                continue;
            }
            swept = Instant::now();
            let outcome = self.clean().await;
            self.say(outcome.err());
        }
    }

    fn say(&mut self, error: Option<CallError>) {
        let words = error.map(|error| error.to_string());
        if let Some(words) = words.as_ref().filter(|words| self.said.as_ref() != Some(words)) {
            tracing::warn!(error = words, "etcd is not cleaned");
        }
        self.said = words;
    }

    /// Looks how full the members are.
    pub(super) async fn look(&mut self) {
        let Ok(statuses) = self.inner.client.statuses().await else { return };
        let alarms = self.inner.client.alarms().await.unwrap_or_default();
        let full = fullness(&statuses, &alarms, self.quota);
        let mut pressure = self.inner.pressure.lock();
        match (&*pressure, &full) {
            (None, Some(why)) => tracing::error!(why, "nothing new is made in the metadata engine"),
            (Some(_), None) => tracing::info!("the metadata engine has room again"),
            _ => {}
        }
        *pressure = full;
    }

    async fn clean(&mut self) -> Result<(), CallError> {
        let now = Instant::now();
        let gate = self.inner.client.range(ask::rows(self.inner.keys.gate(), 0, 0)).await?;
        self.past.note(now, ask::revision(gate.header.as_ref()));
        if let Some(floor) = self.past.before(now, ETCD_TOMBSTONE_AGE) {
            self.sweep(floor).await?;
        }
        self.sweep_orphans(now).await?;
        if let Some(old) = self.past.before(now, ETCD_HISTORY).filter(|_| self.compacts) {
            match self.inner.client.compact(old).await {
                // Somebody was faster.
                Ok(()) | Err(CallError::Compacted) => {}
                Err(error) => return Err(error),
            }
        }
        self.past.forget(now, ETCD_HISTORY);
        Ok(())
    }

    /// Removes tombstones that were written at `floor` or before.
    pub(super) async fn sweep(&self, floor: i64) -> Result<(), CallError> {
        let (client, keys) = (&self.inner.client, &self.inner.keys);
        let mut rest = keys.all_removed();
        let mut raised = false;
        for _ in 0..ETCD_SWEEP_MAX / ETCD_PAGE {
            let page = pb::RangeRequest { keys_only: true, ..ask::rows(rest.clone(), 0, ETCD_PAGE) };
            let page = client.range(page).await?;
            let old: Vec<&pb::KeyValue> = page.kvs.iter().filter(|note| note.mod_revision <= floor).collect();
            if !old.is_empty() && !raised {
                // Before the first tombstone goes, no older transaction may commit any more.
                let raise = pb::TxnRequest {
                    compare: vec![ask::value_below(keys.floor(), floor_value(floor))],
                    success: vec![ask::put(keys.floor(), floor_value(floor))],
                    failure: Vec::new(),
                };
                client.txn(Repeat::Allowed, raise).await?;
                raised = true;
            }
            // Two comparisons and two deletions for each.
            for batch in old.chunks(ETCD_OPS_MAX / 2) {
                self.remove(batch).await?;
            }
            match page.kvs.last() {
                Some(last) if page.more => rest.start = KeyRange::successor(&last.key),
                _ => break,
            }
        }
        Ok(())
    }

    /// Removes tombstones with their notes, and notes of rows that were written again since.
    async fn remove(&self, notes: &[&pb::KeyValue]) -> Result<(), CallError> {
        let (client, keys) = (&self.inner.client, &self.inner.keys);
        let noted: Vec<_> = notes.iter().filter_map(|note| Some((*note, keys.removed_key(&note.key)?))).collect();
        let read = |key: &[u8]| ask::read(pb::RangeRequest { keys_only: true, ..ask::get(keys.data(key), 0) });
        let look = pb::TxnRequest { success: noted.iter().map(|(_, key)| read(key)).collect(), ..Default::default() };
        let rows = ask::found(client.txn(Repeat::Allowed, look).await?);
        let (mut compare, mut success) = (Vec::new(), Vec::new());
        for ((note, key), row) in noted.into_iter().zip(rows) {
            compare.push(ask::unchanged(note.key.to_vec(), note.mod_revision));
            success.push(ask::delete(note.key.to_vec()));
            // A tombstone and its note were written at once.
            if row.first().is_some_and(|row| row.mod_revision == note.mod_revision) {
                compare.push(ask::unchanged(keys.data(key), note.mod_revision));
                success.push(ask::delete(keys.data(key)));
            }
        }
        // Refused, somebody wrote one of them this moment; the next sweep sees.
        client.txn(Repeat::Allowed, pb::TxnRequest { compare, success, failure: Vec::new() }).await.map(|_| ())
    }

    /// Removes chunks of transactions that never came to their pending row.
    async fn sweep_orphans(&mut self, now: Instant) -> Result<(), CallError> {
        let (client, keys) = (&self.inner.client, &self.inner.keys);
        let page = pb::RangeRequest { keys_only: true, ..ask::rows(keys.all_chunks(), 0, ETCD_PAGE) };
        let there: Vec<TxnId> =
            client.range(page).await?.kvs.iter().filter_map(|row| keys.chunk_owner(&row.key)).collect();
        self.orphans.retain(|txn, _| there.contains(txn));
        for txn in there {
            let since = *self.orphans.entry(txn).or_insert(now);
            if now.saturating_duration_since(since) < ETCD_ORPHAN_AGE {
                continue;
            }
            // Its owner compares that they are there when it makes the pending row.
            let remove = pb::TxnRequest {
                compare: vec![ask::unchanged(keys.pending(), 0)],
                success: vec![ask::delete_all(keys.chunks(&txn))],
                failure: Vec::new(),
            };
            client.txn(Repeat::Allowed, remove).await?;
        }
        Ok(())
    }
}

/// Why nothing new should be made, if so. Each member has a file of its own, and the largest decides.
fn fullness(statuses: &[pb::StatusResponse], alarms: &[pb::AlarmMember], quota: u64) -> Option<String> {
    let todo = "remove files, then run `etcdctl defrag` on each member";
    if alarms.iter().any(|alarm| alarm.alarm == i32::from(AlarmType::Nospace)) {
        return Some(format!("etcd has raised its NOSPACE alarm: {todo}, and `etcdctl alarm disarm`"));
    }
    let size = |status: &pb::StatusResponse| u64::try_from(status.db_size).unwrap_or(0);
    let largest = statuses.iter().map(size).max()?;
    if u128::from(largest) * 100 < u128::from(quota) * u128::from(ETCD_FULL_PERCENT) {
        return None;
    }
    Some(format!(
        "the database of etcd has {largest} bytes, {ETCD_FULL_PERCENT} % or more of its quota of {quota}: {todo}, or raise \
         the quota of etcd and the one in the engine's URL"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_member_decides() {
        let status = |db_size| pb::StatusResponse { db_size, ..Default::default() };
        let full = |sizes: &[i64]| fullness(&sizes.iter().copied().map(status).collect::<Vec<_>>(), &[], 1000);
        assert_eq!([full(&[]), full(&[899, 10]), full(&[-1])], [None, None, None]);
        assert!(full(&[10, 900]).is_some_and(|why| why.contains("900 bytes") && why.contains("defrag")));
        let alarm = pb::AlarmMember { alarm: AlarmType::Nospace.into(), ..Default::default() };
        assert!(fullness(&[status(1)], &[alarm], 1000).is_some_and(|why| why.contains("NOSPACE")));
    }

    #[test]
    fn the_past_is_known_by_age() {
        let mut past = Past::default();
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        for (secs, revision) in [(0, 10), (30, 20), (60, 30)] {
            past.note(at(secs), revision);
        }
        let before = |past: &Past, age| past.before(at(70), Duration::from_secs(age));
        assert_eq!(
            [before(&past, 5), before(&past, 30), before(&past, 70), before(&past, 71)],
            [Some(30), Some(20), Some(10), None]
        );
        past.forget(at(70), Duration::from_secs(40));
        assert_eq!([before(&past, 30), before(&past, 70)], [Some(20), None]);
    }
}
