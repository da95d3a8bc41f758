//! The course that all heal scenarios share: load, something breaks, everything is whole again, everything is read.

use super::super::reads::targets;
use super::super::{Context, Form};
use super::seen::Seen;
use crate::cluster::{Cluster, Setup};
use crate::load::{Class, Kind, Target, Window, Work};
use crate::operator::Operator;
use crate::payload::{self, Mark};
use crate::replicas;
use crate::report::Outcome;
use crate::run::{Course, FAULT0, Results};
use crate::slots::Slots;
use crate::whole::lacks;
use anyhow::{Context as _, Result, ensure};
use cairn_client::{ClusterStatus, DfsClient, File, GroupStatus};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// After so long a silent node is suspect, and after so long it is out, instead of 10 s and 10 min.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
pub const OUT_AFTER: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);
/// Bytes read at once while files are verified.
const PIECE_LEN: usize = 1 << 20;

/// How much there is of everything.
#[derive(Clone, Copy)]
struct Scale {
    targets: u32,
    target_len: u64,
    slot_files: usize,
    slots_per_file: u64,
    small_per_s: f64,
    large_per_s: f64,
    writes_per_s: f64,
    warm: Duration,
    healthy: Duration,
    healed: Duration,
    /// How long the cluster may take for each thing that is waited for.
    patience: Duration,
}

impl Scale {
    const FULL: Self = Self {
        targets: 16,
        target_len: 64 << 20,
        slot_files: 8,
        slots_per_file: 96,
        small_per_s: 200.0,
        large_per_s: 10.0,
        writes_per_s: 40.0,
        warm: Duration::from_secs(3),
        healthy: Duration::from_secs(10),
        healed: Duration::from_secs(5),
        patience: Duration::from_secs(300),
    };
    const SHORT: Self = Self {
        targets: 4,
        target_len: 8 << 20,
        slot_files: 4,
        slots_per_file: 24,
        small_per_s: 30.0,
        large_per_s: 2.0,
        writes_per_s: 8.0,
        warm: Duration::from_millis(500),
        healthy: Duration::from_millis(1500),
        healed: Duration::from_millis(500),
        patience: Duration::from_secs(60),
    };
}

/// The cluster a scenario wants.
#[derive(Clone)]
pub struct Shape {
    /// Storage nodes.
    pub nodes: u16,
    /// Nodes that are started later.
    pub spares: u16,
    /// Bytes that each of them may use; `None` = its disk.
    pub capacity: Option<u64>,
    /// Zones they are dealt out to.
    pub zones: &'static [&'static str],
    /// Members on a disk of their own, of so many bytes.
    pub disks: BTreeMap<String, u64>,
}

impl Shape {
    /// So many nodes, nothing special.
    pub fn of(nodes: u16) -> Self {
        Self { nodes, spares: 0, capacity: None, zones: &[], disks: BTreeMap::new() }
    }
}

/// A cluster under load.
pub struct Scene {
    pub context: Context,
    pub cluster: Cluster,
    pub operator: Operator,
    /// Asks for the state of the cluster; the load has a client of its own.
    pub watcher: DfsClient,
    pub seen: Arc<Seen>,
    client: DfsClient,
    targets: Vec<Target>,
    slots: Arc<Slots>,
    scale: Scale,
}

impl Scene {
    async fn start(context: Context, shape: &Shape) -> Result<Self> {
        let scale = if context.form == Form::Full { Scale::FULL } else { Scale::SHORT };
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        let (suspect, out) = (ms(SUSPECT_AFTER), ms(OUT_AFTER));
        let setup = Setup {
            spares: shape.spares,
            meta_args: ["--suspect-after", &suspect, "--out-after", &out].map(str::to_owned).to_vec(),
            node_args: shape
                .capacity
                .into_iter()
                .flat_map(|bytes| ["--capacity".to_owned(), bytes.to_string()])
                .collect(),
            zones: shape.zones.iter().map(|zone| (*zone).to_owned()).collect(),
            disks: shape.disks.clone(),
            ..context.setup(shape.nodes)
        };
        let cluster = Cluster::start(&setup).await?;
        let client = cluster.client().seed(context.seed).connect().await?;
        let watcher = cluster.client().connect().await?;
        let operator = Operator::new(&context.cairn, cluster.meta().addr);
        let targets = targets(&client, scale.targets, scale.target_len).await?;
        let slots = Arc::new(Slots::create(&client, scale.slot_files, scale.slots_per_file).await?);
        let seen = Arc::default();
        Ok(Self { context, cluster, operator, watcher, seen, client, targets, slots, scale })
    }

    fn classes(&self) -> Vec<Class> {
        let Scale { small_per_s, large_per_s, writes_per_s, .. } = self.scale;
        vec![
            Class { name: "small", per_s: small_per_s, kind: Kind::Read(4096) },
            Class { name: "large", per_s: large_per_s, kind: Kind::Read(1 << 20) },
            Class { name: "write", per_s: writes_per_s, kind: Kind::Write },
        ]
    }

    /// How long anything may take.
    pub fn patience(&self) -> Duration {
        self.scale.patience
    }

    /// The state of the cluster, now. A metadata server that is just starting is waited for.
    pub async fn status(&self) -> Result<ClusterStatus> {
        Ok(self.watcher.cluster_status().await?)
    }

    /// Waits for a state of the cluster; how long it took.
    ///
    /// # Errors
    /// It did not come about; the message says what was `left` last.
    pub async fn until(&self, what: &str, left: impl Fn(&ClusterStatus) -> Vec<String>) -> Result<Duration> {
        let begun = Instant::now();
        loop {
            let status = self.status().await?;
            let left = left(&status);
            if left.is_empty() {
                return Ok(begun.elapsed());
            }
            let alarms = status.alarms.join("; ");
            let waited = begun.elapsed();
            ensure!(waited < self.scale.patience, "waited {waited:.0?} for {what}: {} [{alarms}]", left.join(", "));
            sleep(POLL).await;
        }
    }

    /// Waits until the cluster is whole: every run at its full replica count.
    ///
    /// # Errors
    /// As [`Scene::until`].
    pub async fn whole(&self) -> Result<Duration> {
        self.until("full replication", lacks).await
    }

    /// Waits until nodes are in a state.
    ///
    /// # Errors
    /// As [`Scene::until`].
    pub async fn nodes_are(&self, state: &str, ids: &[u32]) -> Result<Duration> {
        let left = |status: &ClusterStatus| {
            let found = status.nodes.iter().filter(|node| ids.contains(&node.id) && node.state != state);
            found.map(|node| format!("node {} is {}", node.id, node.state)).collect()
        };
        self.until(&format!("nodes {ids:?} to be {state}"), left).await
    }

    /// Runs an operator's command to its end.
    ///
    /// # Errors
    /// It failed.
    pub async fn operate(&self, args: &[&str]) -> Result<()> {
        self.operator.done(args, self.scale.patience).await.map(|_| ())
    }

    /// The member stores of every group.
    pub async fn members(&self) -> Result<BTreeMap<u32, BTreeSet<u32>>> {
        let status = self.status().await?;
        let stores = |group: &GroupStatus| group.members.iter().map(|member| member.store).collect();
        Ok(status.groups.iter().map(|group| (group.id, stores(group))).collect())
    }

    fn files(&self) -> Vec<File> {
        self.targets.iter().map(|target| target.file.clone()).chain(self.slots.files().iter().cloned()).collect()
    }

    /// Reads every byte of every file, and holds it against what was acknowledged.
    async fn read_back(&self, outcome: &mut Outcome) -> Result<()> {
        let slots = self.slots.check().await.context("reading back what was written")?;
        let mut wrong = slots.wrong_bytes;
        for target in &self.targets {
            for offset in (0..target.len).step_by(PIECE_LEN) {
                let len = PIECE_LEN.min((target.len - offset) as usize);
                let found = target.file.read_at(offset, len).await.context("reading back what was there")?;
                wrong += (len - found.len().min(len)) as u64;
                wrong += payload::wrong_bytes(Mark { file: target.id, seq: 0 }, offset, &found);
            }
        }
        let during = outcome.fields.get("wrong_bytes").and_then(Value::as_u64).unwrap_or_default();
        outcome.set("wrong_bytes", during + wrong);
        outcome.set("lost", slots.lost);
        outcome.set("visible_failures", slots.visible);
        outcome.set("live_slots", slots.live);
        Ok(())
    }

    /// Everything that shows that the cluster has healed; what could not be looked at is missing from the outcome and so
    /// from what is met.
    async fn verify(&self, outcome: &mut Outcome) -> Result<()> {
        let whole = self.whole().await;
        outcome.set("whole", whole.is_ok());
        self.read_back(outcome).await?;
        outcome.extend(&replicas::read_all(self.cluster.meta().addr, &self.files()).await?)?;
        let status = self.operator.json(&["status", "--json"], self.scale.patience).await?;
        let count = |name: &str| status.get(name).and_then(Value::as_u64);
        outcome.set("status_degraded_runs", count("degraded_runs"));
        outcome.set("status_groups_incomplete", count("groups_incomplete"));
        outcome.set("status_tasks", status.get("tasks").and_then(Value::as_array).map(Vec::len));
        let fsck = self.operator.run(&["fsck", "--json", "--quiet"], self.scale.patience).await?;
        outcome.set("fsck_status", fsck.status);
        let said = fsck.json().unwrap_or_default();
        outcome.set("fsck_defects", said.get("defects").map(|defects| defects.as_array().map_or(0, Vec::len)));
        if fsck.status != 0 {
            outcome.set("fsck_said", fsck.brief());
            outcome.set("fsck_found", said.get("defects").cloned());
        }
        whole.map(|_| ())
    }
}

/// Latencies while something was broken over those before.
fn ratios(fields: &Map<String, Value>, classes: &[Class]) -> Value {
    let at = |path: &str| fields.get(path.split('/').next()?)?.pointer(&path[path.find('/')?..])?.as_f64();
    let ratio = |class: &str| {
        let (healthy, broken) = (at(&format!("h{class}/p99_ms"))?, at(&format!("f2{class}/p99_ms"))?);
        Some(json!((broken / healthy * 100.0).round() / 100.0))
    };
    let of_class = classes.iter().map(|class| (class.name.to_owned(), ratio(&format!("/{}", class.name))));
    let all = of_class.chain([("all".to_owned(), ratio(""))]);
    all.filter_map(|(name, ratio)| Some((name, ratio?))).collect::<Map<_, _>>().into()
}

/// Runs a scenario: `hit` breaks something, `mend` does what an operator would and waits for what the scenario is about;
/// then the cluster has to become whole, and everything is read. What goes wrong from `hit` on is the field `trouble`,
/// and the rest is looked at all the same.
pub async fn run(
    context: Context,
    shape: Shape,
    hit: impl AsyncFnOnce(&Scene) -> Result<()>,
    mend: impl AsyncFnOnce(&Scene, &mut Outcome) -> Result<()>,
) -> Result<Outcome> {
    let scene = Scene::start(context, &shape).await?;
    let watching = tokio::spawn(scene.seen.clone().watch(scene.watcher.clone()));
    let mut outcome = Outcome::default();
    let course = course(&scene, hit, mend, &mut outcome).await;
    let ended = match course {
        Ok(results) => {
            let mut fields = results.fields();
            fields.insert("p99_ratio".to_owned(), ratios(&fields, &scene.classes()));
            outcome.fields.extend(fields);
            // Generous: every step inside has its own end.
            let verified = timeout(5 * scene.patience(), scene.verify(&mut outcome)).await;
            verified.unwrap_or_else(|_| Err(anyhow::anyhow!("verifying does not end")))
        }
        Err(error) => Err(error),
    };
    watching.abort();
    let trouble = outcome.fields.get("trouble").and_then(Value::as_str).unwrap_or_default().to_owned();
    let also = ended.err().map(|error| format!("{error:#}")).unwrap_or_default();
    outcome.set("trouble", [trouble, also].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; "));
    if outcome.fields.get("trouble").is_some_and(|trouble| trouble != "") {
        outcome.set("logs", scene.cluster.logs());
    }
    scene.seen.tell(&mut outcome);
    outcome.fired = scene.cluster.fired();
    scene.client.close().await;
    scene.watcher.close().await;
    Ok(outcome)
}

async fn course(
    scene: &Scene,
    hit: impl AsyncFnOnce(&Scene) -> Result<()>,
    mend: impl AsyncFnOnce(&Scene, &mut Outcome) -> Result<()>,
    outcome: &mut Outcome,
) -> Result<Results> {
    let work = Work { targets: scene.targets.clone(), slots: Some(scene.slots.clone()) };
    let seed = scene.context.seed;
    let mut course = Course::start(&scene.cluster, &scene.client, work, &scene.classes(), seed).await;
    sleep(scene.scale.warm).await;
    course.enter(Window::Healthy).await;
    sleep(scene.scale.healthy).await;
    course.enter(Window::Fault0).await;
    let begun = Instant::now();
    let mended = async {
        hit(scene).await?;
        sleep(FAULT0.saturating_sub(begun.elapsed())).await;
        course.enter(Window::Fault2).await;
        mend(scene, outcome).await?;
        scene.whole().await
    };
    if let Err(error) = mended.await {
        outcome.set("trouble", format!("{error:#}"));
    }
    outcome.set("whole_after_s", begun.elapsed().as_secs_f64());
    course.enter(Window::Healed).await;
    sleep(scene.scale.healed).await;
    course.finish().await
}
