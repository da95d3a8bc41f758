//! What a metadata server does without being asked, each on its own timer.
//!
//! Every step is bounded and may be repeated; a step that fails is tried again at the next tick. What fails is told to
//! [`Troubles`], which logs it.

use super::collector::Collector;
use super::subject::DutyCounts;
use super::troubles::{Duty, Troubles};
use crate::limits::{
    BEATS_PERIOD, CLUSTER_DUTY_PERIOD, DROP_MAPS_PERIOD, EXPIRY_CHECKS, EXPIRY_PERIOD, FEED_PERIOD, GARBAGE_PERIOD,
    SNAPSHOTS_PERIOD, TREES_PERIOD,
};
use cairn_meta::Meta;
use cairn_proto::status::Status;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Judges the silence of nodes, forgets metadata servers that are gone, and sees to it that there are enough groups.
pub(crate) async fn look_after_cluster(
    meta: Meta,
    changed: Arc<Notify>,
    troubles: Arc<Troubles>,
    stop: CancellationToken,
) {
    loop {
        let step = async {
            meta.note_silence().await;
            meta.refresh_version().await?;
            let cleared = meta.tend_servers().await?;
            Ok(meta.ensure_groups().await? || cleared)
        };
        let Some(outcome) = stop.run_until_cancelled(step).await else { return };
        if !again((&troubles, Duty::Cluster), outcome, CLUSTER_DUTY_PERIOD, &changed, &stop).await {
            return;
        }
    }
}

/// Ends sessions whose lease ran out.
pub(crate) async fn expire(meta: Meta, lease: Duration, troubles: Arc<Troubles>, stop: CancellationToken) {
    // A short lease, as in tests, is not to be outlasted by the pause between looks.
    let period = EXPIRY_PERIOD.min(lease / EXPIRY_CHECKS);
    let never = Notify::new();
    loop {
        let Some(outcome) = stop.run_until_cancelled(meta.expire_sessions()).await else { return };
        if !again((&troubles, Duty::Sessions), outcome, period, &never, &stop).await {
            return;
        }
    }
}

/// Writes down what heartbeats and renewals said, and looks at what other metadata servers did.
pub(crate) async fn pulse(meta: Meta, changed: Arc<Notify>, troubles: Arc<Troubles>, stop: CancellationToken) {
    let never = Notify::new();
    let (mut version, mut epoch) = (0, None);
    loop {
        let step = async { meta.pulse().await.map(|()| false) };
        let Some(outcome) = stop.run_until_cancelled(step).await else { return };
        let now = (meta.gauges().map_version, meta.duty_epoch());
        if now != (version, epoch) {
            (version, epoch) = now;
            changed.notify_one();
        }
        if !again((&troubles, Duty::Beats), outcome, BEATS_PERIOD, &never, &stop).await {
            return;
        }
    }
}

/// Takes the maps of removed files apart.
pub(crate) async fn drop_maps(meta: Meta, troubles: Arc<Troubles>, stop: CancellationToken) {
    let never = Notify::new();
    loop {
        let Some(outcome) = stop.run_until_cancelled(meta.drop_maps()).await else { return };
        if !again((&troubles, Duty::Maps), outcome, DROP_MAPS_PERIOD, &never, &stop).await {
            return;
        }
    }
}

/// Looks after change logs.
pub(crate) async fn tend_feed(meta: Meta, troubles: Arc<Troubles>, stop: CancellationToken) {
    let never = Notify::new();
    loop {
        let Some(outcome) = stop.run_until_cancelled(meta.tend_feed()).await else { return };
        if !again((&troubles, Duty::Feed), outcome, FEED_PERIOD, &never, &stop).await {
            return;
        }
    }
}

/// Lets go of what deleted snapshots held, and deletes those that nobody renews.
pub(crate) async fn trim_snapshots(meta: Meta, troubles: Arc<Troubles>, stop: CancellationToken) {
    let never = Notify::new();
    loop {
        let step = async {
            let expired = meta.expire_snapshots().await?;
            Ok(meta.trim_snapshots().await? || expired)
        };
        let Some(outcome) = stop.run_until_cancelled(step).await else { return };
        if !again((&troubles, Duty::Snapshots), outcome, SNAPSHOTS_PERIOD, &never, &stop).await {
            return;
        }
    }
}

/// Drops what has run out of the trash, and counts trees whose quota changed.
pub(crate) async fn tend_trees(meta: Meta, troubles: Arc<Troubles>, stop: CancellationToken) {
    let never = Notify::new();
    loop {
        let step = async {
            let dropped = meta.expire_trash().await? | meta.drop_trees().await?;
            Ok(dropped | meta.count_quotas().await?)
        };
        let Some(outcome) = stop.run_until_cancelled(step).await else { return };
        if !again((&troubles, Duty::Trees), outcome, TREES_PERIOD, &never, &stop).await {
            return;
        }
    }
}

/// Collects garbage.
pub(crate) async fn collect(
    mut collector: Collector,
    grace: Duration,
    (counts, troubles): (Arc<DutyCounts>, Arc<Troubles>),
    stop: CancellationToken,
) {
    // A short grace, as in tests, is not to be outlasted by the pause between rounds.
    let period = GARBAGE_PERIOD.min(grace.max(GARBAGE_PERIOD / 10));
    let never = Notify::new();
    loop {
        let Some(outcome) = stop.run_until_cancelled(collector.round()).await else { break };
        troubles.note(Duty::Garbage, outcome.as_ref().map(|_| ()));
        match outcome {
            Ok(0) | Err(_) => {}
            Ok(rows) => {
                counts.garbage_rows_removed.fetch_add(rows as u64, Ordering::Relaxed);
                tracing::debug!(rows, "garbage collected");
            }
        }
        if !pause(&stop, &never, period).await {
            break;
        }
    }
    collector.close();
}

/// After a step: goes on at once while there is more to do, else waits for `period` or a call. False when it is time to
/// stop.
async fn again(
    (troubles, duty): (&Troubles, Duty),
    outcome: Result<bool, Status>,
    period: Duration,
    call: &Notify,
    stop: &CancellationToken,
) -> bool {
    troubles.note(duty, outcome.as_ref().map(|_| ()));
    if outcome == Ok(true) {
        return !stop.is_cancelled();
    }
    pause(stop, call, period).await
}

/// Waits for `period`, or for a call; false when it is time to stop.
async fn pause(stop: &CancellationToken, call: &Notify, period: Duration) -> bool {
    // Over or called, both mean to look again.
    stop.run_until_cancelled(timeout(period, call.notified())).await.is_some()
}
