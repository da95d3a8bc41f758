//! Opens a store again: one that could not be opened, because its disk was not there or did not answer, and one that is
//! poisoned by a failed write or sync. Each store has a task of its own, so that a disk that hangs holds up nobody else.
//!
//! A poisoned store still serves reads. It is closed only when its disk takes writes again, since opening needs some: on a
//! disk that became read-only it goes on serving what it has. Opening reads what may not have reached the disk past the
//! page cache; what is gone is found by the audit that follows every such opening.

use super::duty::wait;
use super::slot::StoreSlot;
use super::state::Node;
use crate::backoff::Backoff;
use crate::entropy;
use crate::limits::{REVIVE_FORGET, REVIVE_PAUSE, REVIVE_PERIOD};
use crate::tasks::blocking;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Looks after the store with this index until `stop`.
pub(crate) async fn run(node: Arc<Node>, index: usize, stop: CancellationToken) {
    let slot = &node.stores[index];
    let never = Notify::new();
    let mut backoff = Backoff::new(REVIVE_PAUSE, entropy::rng());
    let mut pause = REVIVE_PERIOD;
    let mut well_since = None;
    while wait(&stop, &never, Some(pause)).await {
        pause = REVIVE_PERIOD;
        let Some(ailment) = ailment(slot) else {
            let now = cairn_net::now();
            if now.saturating_duration_since(*well_since.get_or_insert(now)) >= REVIVE_FORGET {
                backoff.reset();
            }
            continue;
        };
        well_since = None;
        // The wait comes before the attempt: a disk that fails every write is not opened all the time.
        if !wait(&stop, &never, Some(backoff.pause())).await {
            return;
        }
        revive(&node, slot, ailment).await;
    }
}

/// Why a store has to be opened.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Ailment {
    Closed,
    Poisoned(String),
}

fn ailment(slot: &StoreSlot) -> Option<Ailment> {
    match slot.store() {
        None => Some(Ailment::Closed),
        Some(store) => store.usage().read_only().map(Ailment::Poisoned),
    }
}

async fn revive(node: &Node, slot: &Arc<StoreSlot>, ailment: Ailment) {
    let name = slot.place().name();
    if let Ailment::Poisoned(reason) = &ailment {
        let probed = slot.ask(|store| store.probe()).await;
        if let Ok(Err(error)) = probed {
            tracing::debug!(store = name, %error, "the disk takes no writes yet");
            return;
        }
        let (slot, reason) = (slot.clone(), format!("being opened again: {reason}"));
        blocking(move || slot.shut(reason)).await;
    }
    let home = node.home.clone();
    let opened = blocking({
        let slot = slot.clone();
        move || {
            let opened = slot.open();
            if let (Ok(()), Some(uuid)) = (&opened, slot.uuid()) {
                let found = [(slot.place().name(), uuid)];
                if let Err(error) = home.identity.lock().found(&home.disk, found) {
                    tracing::warn!(%error, "the place of a store is not written down");
                }
            }
            opened
        }
    });
    match opened.await {
        Ok(()) => {
            tracing::warn!(store = name, "store opened again");
            node.wakes.catch_up.notify_one();
            node.wakes.audit.notify_one();
            node.wakes.heal.notify_one();
        }
        Err(error) => tracing::debug!(store = name, error = %super::slot::explain(&error), "store not open yet"),
    }
}
