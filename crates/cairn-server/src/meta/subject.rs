//! What the console of a metadata server shows.

use super::handler::MetaHandler;
use super::troubles::Troubles;
use crate::console::{Reason, Subject, Verdict, answers};
use crate::limits::{CHECK_TIMEOUT, COUNTS_AGE_MAX};
use crate::view::ClusterView;
use async_trait::async_trait;
use cairn_meta::Meta;
use cairn_meta::kv::Engine;
use cairn_metrics::{Exposition, Family, Page, Source};
use cairn_net::Link;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use tokio::time::{Instant, timeout};

/// What the duties of a metadata server have done.
#[derive(Default, Debug)]
pub(crate) struct DutyCounts {
    /// Garbage rows whose blocks are gone from every member.
    pub(crate) garbage_rows_removed: AtomicU64,
}

/// Counts that cost a scan of rows.
#[derive(Clone, Copy)]
struct Counted {
    at: Instant,
    degraded_runs: u64,
    garbage_runs: u64,
}

/// What a metadata server measures beside its requests.
pub(super) struct MetaSource {
    meta: Meta,
    /// Does not hold the engine open.
    engine: Weak<dyn Engine>,
    handler: Arc<MetaHandler>,
    duties: Arc<DutyCounts>,
    troubles: Arc<Troubles>,
    counted: Mutex<Option<Counted>>,
}

impl MetaSource {
    pub(super) fn new(
        meta: Meta,
        engine: Weak<dyn Engine>,
        handler: Arc<MetaHandler>,
        (duties, troubles): (Arc<DutyCounts>, Arc<Troubles>),
    ) -> Self {
        Self { meta, engine, handler, duties, troubles, counted: Mutex::new(None) }
    }

    /// Why nothing new should be made now: the engine is about to be full.
    fn pressure(&self) -> Option<String> {
        self.engine.upgrade().and_then(|engine| engine.pressure())
    }

    /// Counts rows again when the last count is too old. When the engine does not answer, the last count stays.
    async fn refresh(&self) {
        let now = cairn_net::now();
        if self.counted.lock().is_some_and(|counted| now.saturating_duration_since(counted.at) < COUNTS_AGE_MAX) {
            return;
        }
        let ask = pb::Request { kind: Some(Kind::ClusterStatus(pb::ClusterStatus {})), ..Default::default() };
        match timeout(CHECK_TIMEOUT, self.meta.execute(&ask)).await {
            Ok(Ok(response::Kind::ClusterStatus(status))) => {
                let (degraded_runs, garbage_runs) = (status.degraded_runs, status.garbage_runs);
                *self.counted.lock() = Some(Counted { at: now, degraded_runs, garbage_runs });
            }
            Ok(Ok(_)) | Err(_) => tracing::debug!("rows were not counted for a scrape"),
            Ok(Err(status)) => tracing::debug!(%status, "rows were not counted for a scrape"),
        }
    }
}

impl Source for MetaSource {
    fn measure(&self, page: &mut Page<'_>) -> fmt::Result {
        self.measure_commits(page)?;
        self.measure_engine(page)?;
        self.measure_cluster(page)?;
        self.measure_groups(page)?;
        self.measure_log(page)?;
        self.measure_rows(page)
    }
}

impl MetaSource {
    fn measure_commits(&self, page: &mut Page<'_>) -> fmt::Result {
        let commits = self.engine.upgrade().map(|engine| engine.commits()).unwrap_or_default();
        let help = "Transactions that were committed.";
        page.counter("cairn_meta_commits_total", help, |family| family.count(&[], commits.transactions))?;
        let help = "Transactions that conflicted and were run again.";
        page.counter("cairn_meta_commit_conflicts_total", help, |family| family.count(&[], commits.conflicts))?;
        let help = "Groups of transactions written to the disk together.";
        page.counter("cairn_meta_commit_groups_total", help, |family| family.count(&[], commits.groups))?;
        let help = "Time spent on writing groups, the sync included.";
        page.counter("cairn_meta_commit_busy_seconds_total", help, |family| {
            family.real(&[], commits.busy.as_secs_f64())
        })?;
        let help = "Age of the write of a group that is under way; 0 when there is none.";
        page.gauge("cairn_meta_commit_stall_seconds", help, |family| {
            family.real(&[], commits.stalled_for.as_secs_f64())
        })
    }

    fn measure_engine(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "1 while the engine is about to be full, so that nothing new is made.";
        page.gauge("cairn_meta_engine_full", help, |family| family.count(&[], u64::from(self.pressure().is_some())))?;
        let help = "For how long the engine has not served the duties of this server; 0 when it does.";
        page.gauge("cairn_meta_engine_away_seconds", help, |family| {
            family.real(&[], self.troubles.engine_away_for().as_secs_f64())
        })?;
        let help = "Times that a duty could not do its work, and was to try it again.";
        page.counter("cairn_meta_duty_failures_total", help, |family| {
            let failures = self.troubles.failures();
            failures.into_iter().try_for_each(|(duty, count)| family.count(&[("duty", duty.name())], count))
        })
    }

    fn measure_log(&self, page: &mut Page<'_>) -> fmt::Result {
        let report = self.handler.shipped().report();
        let help = "Storage nodes that hold a whole snapshot of metadata and the log behind it.";
        page.gauge("cairn_meta_log_nodes", help, |family| {
            family.count(&[], report.iter().filter(|target| target.whole).count() as u64)
        })?;
        let names: Vec<String> = (1..=report.len()).map(|number| number.to_string()).collect();
        let targets = || names.iter().zip(&report);
        let help = "Commits that have not been shipped, of each of the nodes that are to have them.";
        page.gauge("cairn_meta_log_commits_behind", help, |family| {
            targets().try_for_each(|(name, target)| family.count(&[("target", name)], target.commits_behind))
        })?;
        let help = "For how long such a node has not had all commits.";
        page.gauge("cairn_meta_log_lag_seconds", help, |family| {
            targets().try_for_each(|(name, target)| family.real(&[("target", name)], f64::from(target.lag_ms) / 1000.0))
        })
    }

    fn measure_groups(&self, page: &mut Page<'_>) -> fmt::Result {
        let gauges = self.meta.gauges();
        page.gauge("cairn_meta_groups", "Placement groups by how whole they are.", |family| {
            let whole = gauges.groups.saturating_sub(gauges.groups_incomplete);
            family.count(&[("state", "whole")], whole)?;
            family.count(&[("state", "incomplete")], gauges.groups_incomplete)?;
            family.count(&[("state", "at_risk")], gauges.groups_at_risk)
        })?;
        let by_state = |family: &mut Family<'_>, counts: &[(&'static str, u64)]| {
            counts.iter().try_for_each(|(state, count)| family.count(&[("state", state)], *count))
        };
        let help = "Memberships of stores in groups that are not full.";
        page.gauge("cairn_meta_memberships", help, |family| by_state(family, &gauges.members))?;
        let help = "Moves of memberships that are under way or planned.";
        page.gauge("cairn_meta_moves", help, |family| by_state(family, &gauges.moves))?;
        let help = "Tasks that have not ended.";
        page.gauge("cairn_meta_tasks", help, |family| by_state(family, &gauges.tasks))?;
        let help = "Things that an operator has to look at; cairn status names them.";
        page.gauge("cairn_meta_alarms", help, |family| family.count(&[], gauges.alarms))?;
        let help = "Memberships that went from one store to another.";
        page.counter("cairn_meta_moves_done_total", help, |family| family.count(&[], gauges.moves_done))?;
        let help = "Bytes of the groups of those memberships, as estimated when they began.";
        page.counter("cairn_meta_moved_bytes_total", help, |family| family.count(&[], gauges.moved_bytes))
    }

    fn measure_cluster(&self, page: &mut Page<'_>) -> fmt::Result {
        let gauges = self.meta.gauges();
        page.gauge("cairn_meta_sessions", "Open sessions of clients that this server knows of.", |family| {
            family.count(&[], gauges.sessions)
        })?;
        page.gauge("cairn_meta_inodes", "Inodes.", |family| family.count(&[], gauges.inodes))?;
        let help = "Bytes of all files, counted once.";
        page.gauge("cairn_meta_file_bytes", help, |family| family.count(&[], gauges.file_bytes))?;
        page.gauge("cairn_meta_nodes", "Storage nodes by state.", |family| {
            let name =
                |state: pb::NodeState| state.as_str_name().trim_start_matches("NODE_STATE_").to_ascii_lowercase();
            gauges.nodes.iter().try_for_each(|(state, count)| family.count(&[("state", &name(*state))], *count))
        })?;
        let help = "1 while so many nodes are silent that none is taken for lost.";
        page.gauge("cairn_meta_silence_alarm", help, |family| family.count(&[], u64::from(gauges.silence_alarm)))?;
        let help = "Bytes that the stores of the cluster may use.";
        page.gauge("cairn_meta_capacity_bytes", help, |family| family.count(&[], gauges.capacity_bytes))?;
        let help = "Bytes that the stores of the cluster use.";
        page.gauge("cairn_meta_used_bytes", help, |family| family.count(&[], gauges.used_bytes))?;
        let help = "Stores that report that they take no writes.";
        page.gauge("cairn_meta_troubled_stores", help, |family| family.count(&[], gauges.troubled_stores))?;
        let help = "Bad blocks that the stores of the cluster report.";
        page.gauge("cairn_meta_quarantined_blocks", help, |family| family.count(&[], gauges.quarantined_blocks))?;
        let help = "Metadata servers that serve the namespace.";
        page.gauge("cairn_meta_servers", help, |family| family.count(&[], gauges.servers))?;
        let help = "Epoch in which this server carries out the duties of all; 0 while another one does.";
        page.gauge("cairn_meta_duty_epoch", help, |family| family.count(&[], gauges.duty_epoch))?;
        let help = "Version of the cluster map.";
        page.gauge("cairn_meta_map_version", help, |family| family.count(&[], gauges.map_version))
    }

    fn measure_rows(&self, page: &mut Page<'_>) -> fmt::Result {
        let counted = *self.counted.lock();
        let help = "Committed runs that a member of their group lacks.";
        page.gauge("cairn_meta_degraded_runs", help, |family| match counted {
            Some(counted) => family.count(&[], counted.degraded_runs),
            None => Ok(()),
        })?;
        let help = "Dropped runs whose blocks are not yet gone from every member.";
        page.gauge("cairn_meta_garbage_runs", help, |family| match counted {
            Some(counted) => family.count(&[], counted.garbage_runs),
            None => Ok(()),
        })?;
        let help = "Dropped runs whose blocks are gone from every member.";
        page.counter("cairn_meta_garbage_runs_collected_total", help, |family| {
            family.count(&[], self.duties.garbage_rows_removed.load(Ordering::Relaxed))
        })?;
        page.gauge("cairn_meta_draining", "1 while the server ends.", |family| {
            family.count(&[], u64::from(self.handler.is_draining()))
        })
    }
}

/// The console of a metadata server.
pub(super) struct MetaSubject {
    pub(super) source: Arc<MetaSource>,
    pub(super) exposition: Exposition,
    /// To its own server.
    pub(super) own: Link,
}

#[async_trait]
impl Subject for MetaSubject {
    async fn metrics(&self) -> String {
        self.source.refresh().await;
        self.exposition.text()
    }

    /// The server answers a ping on its own port.
    async fn health(&self) -> Verdict {
        answers(&self.own).await.into()
    }

    /// The engine answers a read and takes what is new, and there is a group that takes a block.
    async fn readiness(&self) -> Verdict {
        if self.source.handler.is_draining() {
            return Verdict::from_iter([Reason::new("draining", "the server ends")]);
        }
        let judged = timeout(CHECK_TIMEOUT, own_view(&self.source.meta)).await;
        let judged = match judged {
            Ok(Ok(view)) if view.placeable_groups() > 0 => None,
            Ok(Ok(_)) => {
                let detail = "no placement group has a majority of stores that are up and have room";
                Some(Reason::new("no_placement", detail))
            }
            Ok(Err(status)) => Some(Reason::new("engine", status.to_string())),
            Err(_) => Some(Reason::new("engine", format!("did not answer a read within {CHECK_TIMEOUT:?}"))),
        };
        let full = self.source.pressure().map(|why| Reason::new("engine_full", why));
        Verdict::from_iter(judged.into_iter().chain(full))
    }
}

/// The cluster map of metadata in this process, read from its engine.
///
/// # Errors
/// Those of the engine.
pub(crate) async fn own_view(meta: &Meta) -> Result<ClusterView, Status> {
    let mut view = ClusterView::default();
    let mut cursor = 0;
    loop {
        let ask = pb::ClusterMap { known_version: 0, cursor };
        let request = pb::Request { kind: Some(Kind::ClusterMap(ask)), ..Default::default() };
        let response::Kind::ClusterMap(page) = meta.execute(&request).await? else {
            return Err(Status::new(Code::Internal, "the cluster map is not a cluster map"));
        };
        view.absorb(&page);
        if page.next_cursor == 0 {
            return Ok(view);
        }
        cursor = page.next_cursor;
    }
}
