//! What a cluster says of itself in the course of a run: alarms that come and go, and how much was under way.

use crate::report::Outcome;
use cairn_client::{ClusterStatus, DfsClient, GroupStatus};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const POLL: Duration = Duration::from_millis(50);
/// Different alarms, and troubles, that are kept.
const TEXTS_MAX: usize = 20;

/// Greatest values so far.
#[derive(Debug, Default)]
pub struct Seen {
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    alarms: BTreeSet<String>,
    degraded_runs_max: u64,
    incomplete_max: u64,
    troubles: BTreeSet<String>,
    out: BTreeSet<u32>,
}

fn keep<'a>(kept: &mut BTreeSet<String>, found: impl Iterator<Item = &'a String>) {
    let room = TEXTS_MAX.saturating_sub(kept.len());
    kept.extend(found.filter(|text| !text.is_empty()).take(room).cloned());
}

impl Said {
    fn take(&mut self, status: &ClusterStatus) {
        self.degraded_runs_max = self.degraded_runs_max.max(status.degraded_runs);
        let incomplete = |group: &&GroupStatus| group.members.iter().any(|member| member.state != "full");
        let incomplete = status.groups.iter().filter(incomplete).count() as u64;
        self.incomplete_max = self.incomplete_max.max(incomplete);
        self.out.extend(status.nodes.iter().filter(|node| node.state == "out").map(|node| node.id));
        let stores = || status.nodes.iter().flat_map(|node| &node.stores);
        keep(&mut self.alarms, status.alarms.iter().chain(stores().map(|store| &store.alarm)));
        keep(&mut self.troubles, stores().map(|store| &store.trouble));
    }
}

impl Seen {
    /// Looks until it is aborted.
    pub async fn watch(self: Arc<Self>, client: DfsClient) {
        loop {
            if let Ok(status) = client.cluster_status().await {
                self.said.lock().take(&status);
            }
            sleep(POLL).await;
        }
    }

    /// Degraded runs there were at once.
    pub fn degraded_runs_max(&self) -> u64 {
        self.said.lock().degraded_runs_max
    }

    /// Stores that told of a trouble, by their words.
    pub fn troubles(&self) -> usize {
        self.said.lock().troubles.len()
    }

    /// Puts everything into a report.
    pub fn tell(&self, outcome: &mut Outcome) {
        let said = self.said.lock();
        outcome.set("alarms", said.alarms.iter().cloned().collect::<Vec<_>>());
        outcome.set("alarms_seen", said.alarms.len());
        outcome.set("store_troubles", said.troubles.iter().cloned().collect::<Vec<_>>());
        outcome.set("store_troubles_seen", said.troubles.len());
        outcome.set("degraded_runs_max", said.degraded_runs_max);
        outcome.set("incomplete_groups_max", said.incomplete_max);
        outcome.set("nodes_out", said.out.iter().copied().collect::<Vec<u32>>());
    }
}
