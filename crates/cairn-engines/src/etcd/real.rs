//! Tombstones, the floor and scans from the end, on a real cluster of three members.

use super::janitor::Janitor;
use super::{EtcdEngine, ask};
use crate::EngineUrl;
use crate::limits::{ETCD_PAGE, ETCD_REVERSE_PAGE};
use crate::url::Place;
use cairn_meta::kv::{CommitOutcome, Durability, Engine, KeyRange, Order, Txn};
use cairn_testbed::Etcd;
use std::collections::BTreeMap;

/// An engine, and a janitor that works when it is told to.
struct Scene {
    etcd: Etcd,
    engine: EtcdEngine,
    janitor: Janitor,
}

impl Scene {
    async fn new() -> Self {
        let etcd = Etcd::start(3, &[]).unwrap_or_else(|error| panic!("{error}"));
        let (engine, janitor) = open(&etcd, "real").await;
        Self { etcd, engine, janitor }
    }

    async fn begin(&self) -> Box<dyn Txn> {
        self.engine.begin().await.expect("begin")
    }

    async fn write(&self, rows: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) {
        let mut txn = self.begin().await;
        for (key, value) in rows {
            match value {
                Some(value) => txn.put(key, value),
                None => txn.delete(key),
            }
        }
        assert_eq!(txn.commit(Durability::Durable).await, Ok(CommitOutcome::Done));
    }

    async fn sweep_all(&self) {
        let now = self.engine.inner.now().await.expect("a revision");
        self.janitor.sweep(now).await.expect("swept");
    }

    /// Rows of the namespace that etcd holds, and notes of tombstones.
    async fn held(&self) -> (i64, i64) {
        let keys = &self.engine.inner.keys;
        let data = KeyRange { start: keys.data(&[]), end: keys.floor() };
        let mut counts = Vec::new();
        for range in [data, keys.all_removed()] {
            counts.push(self.engine.inner.client.range(ask::rows(range, 0, 1)).await.expect("counted").count);
        }
        (counts[0], counts[1])
    }
}

async fn open(etcd: &Etcd, prefix: &str) -> (EtcdEngine, Janitor) {
    let url: EngineUrl = etcd.url(prefix).parse().expect("a URL");
    let Place::Etcd(place) = &url.place else { panic!("{url}") };
    let engine = EtcdEngine::open(place, fastrand::Rng::with_seed(7)).await.expect("it opens");
    let janitor = Janitor::new(engine.inner.clone(), place);
    (engine, janitor)
}

fn key(index: u32) -> Vec<u8> {
    [b"k".as_slice(), &index.to_be_bytes()].concat()
}

fn all() -> KeyRange {
    KeyRange::prefix(b"k")
}

async fn scan(txn: &mut Box<dyn Txn>, range: &KeyRange, limit: usize, order: Order) -> Vec<(Vec<u8>, Vec<u8>)> {
    let rows = txn.scan(range, limit, order).await.expect("scan");
    rows.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

/// What was removed after a snapshot is seen by whoever read its range there, also when its tombstone is gone: that is
/// what the floor is for. A transaction that has to go by way of the pending row is no exception.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_hides_no_removal_from_a_transaction() {
    let scene = Scene::new().await;
    for writes in [1, 300u32] {
        scene.write((0..4).map(|index| (key(index), Some(vec![1])))).await;
        let mut late = scene.begin().await;
        assert_eq!(scan(&mut late, &all(), 100, Order::Forward).await.len(), 4);
        scene.write([(key(2), None)]).await;
        scene.sweep_all().await;
        assert_eq!(scene.held().await.1, 0, "the tombstone is gone");
        for index in 0..writes {
            late.put([b"count".as_slice(), &index.to_be_bytes()].concat(), vec![4]);
        }
        assert_eq!(late.commit(Durability::Durable).await, Ok(CommitOutcome::Conflict), "{writes} writes");
        let mut again = scene.begin().await;
        assert_eq!(scan(&mut again, &all(), 100, Order::Forward).await.len(), 3);
        assert_eq!(again.get(b"count\0\0\0\0").await, Ok(None));
        again.put(b"done".to_vec(), vec![1]);
        assert_eq!(again.commit(Durability::Durable).await, Ok(CommitOutcome::Done), "what begins now may commit");
    }
}

/// More tombstones than a page has, with rows between them that live, were made again, or are made again during the
/// sweep; a member dies on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_takes_tombstones_alone() {
    let mut scene = Scene::new().await;
    let rows = 2 * ETCD_PAGE as u32 + 100;
    for batch in (0..rows).collect::<Vec<_>>().chunks(400) {
        scene.write(batch.iter().map(|index| (key(*index), Some(vec![1])))).await;
    }
    let goes = |index: &u32| !index.is_multiple_of(5);
    for batch in (0..rows).filter(goes).collect::<Vec<_>>().chunks(200) {
        scene.write(batch.iter().map(|index| (key(*index), None))).await;
    }
    scene.write([(key(1), Some(vec![2])), (key(rows - 1), Some(vec![2]))]).await;
    let mut lives: Vec<Vec<u8>> = (0..rows).filter(|index| !goes(index)).chain([1, rows - 1]).map(key).collect();
    lives.sort_unstable();
    lives.dedup();
    let seen = async |scene: &Scene| {
        let mut txn = scene.begin().await;
        let forward = scan(&mut txn, &all(), rows as usize, Order::Forward).await;
        let mut reverse = scan(&mut txn, &all(), rows as usize, Order::Reverse).await;
        reverse.reverse();
        assert_eq!(forward, reverse);
        forward.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(seen(&scene).await, lives);
    let (_, notes) = scene.held().await;
    assert!(notes >= i64::from(rows) / 2, "{notes}");

    // What is younger than the floor stays.
    let floor = scene.engine.inner.now().await.expect("a revision");
    scene.write([(key(5), None)]).await;
    lives.retain(|live| *live != key(5));
    let leader = scene.etcd.leader().expect("a leader");
    scene.etcd.kill(leader);
    let (swept, ()) = tokio::join!(scene.janitor.sweep(floor), scene.write([(key(2), Some(vec![3]))]));
    swept.expect("swept");
    lives.push(key(2));
    lives.sort_unstable();
    assert_eq!(seen(&scene).await, lives);
    let held = scene.held().await;
    // The one row removed since, and perhaps the note of the row that was made again meanwhile.
    assert!(held.0 == lives.len() as i64 + 1 && held.1 <= 2, "{held:?}");
    scene.etcd.restart(leader).unwrap_or_else(|error| panic!("{error}"));
    scene.sweep_all().await;
    assert_eq!(scene.held().await, (lives.len() as i64, 0));
    assert_eq!(seen(&scene).await, lives);
}

/// Scans both ways agree with a map, whatever lies between: long runs of tombstones, clusters of keys, large values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_from_the_end_agree_with_a_map() {
    let scene = Scene::new().await;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    // Dense runs far apart, and keys of different lengths.
    let some_key = |rng: &mut fastrand::Rng| match rng.u8(..4) {
        0 => key(rng.u32(..400)),
        1 => key(u32::MAX - rng.u32(..400)),
        2 => key(rng.u32(..)),
        _ => [key(rng.u32(..40)), vec![b'x'; rng.usize(..20)]].concat(),
    };
    for round in 0..12 {
        let mut writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for _ in 0..100 {
            writes.insert(some_key(&mut rng), Some(vec![round; rng.usize(..64)]));
        }
        if round % 3 == 2 {
            // A run of tombstones longer than a page.
            let (from, to) = if round % 2 == 0 { (0, 300) } else { (u32::MAX - 300, u32::MAX) };
            let run = model.range(key(from)..key(to)).map(|(key, _)| (key.clone(), None));
            writes.extend(run.collect::<Vec<_>>());
        }
        for (key, value) in &writes {
            match value {
                Some(value) => model.insert(key.clone(), value.clone()),
                None => model.remove(key),
            };
        }
        scene.write(writes).await;
        let mut txn = scene.begin().await;
        for _ in 0..12 {
            let (a, b) = (some_key(&mut rng), some_key(&mut rng));
            let range =
                if rng.u8(..3) == 0 { all() } else { KeyRange { start: a.clone().min(b.clone()), end: a.max(b) } };
            let limit = [1, 3, ETCD_REVERSE_PAGE + 1, ETCD_PAGE + 1][rng.usize(..4)];
            let within: Vec<(Vec<u8>, Vec<u8>)> = model
                .range(range.start.clone()..range.end.clone())
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let first: Vec<_> = within.iter().take(limit).cloned().collect();
            let last: Vec<_> = within.iter().rev().take(limit).cloned().collect();
            assert_eq!(scan(&mut txn, &range, limit, Order::Forward).await, first, "round {round}");
            assert_eq!(scan(&mut txn, &range, limit, Order::Reverse).await, last, "round {round}");
        }
        if round == 6 {
            scene.sweep_all().await;
        }
    }
}
