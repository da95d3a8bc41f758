//! Registers the node with metadata and tells it once a second how the stores are.

use super::identity::{IdentityError, Registration};
use super::slot::StoreSlot;
use super::state::{Membership, Node};
use crate::backoff::Backoff;
use crate::entropy;
use crate::limits::{BEAT_TIMEOUT, HEARTBEAT_PERIOD, HEARTBEAT_RANGE, RETRY_PAUSE};
use crate::links::CallError;
use crate::tasks::blocking;
use bytes::Bytes;
use cairn_meta::limits::CLUSTER_VERSION;
use cairn_net::Identity;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::Code;
use cairn_proto::{ClusterId, Incarnation, NodeId, StoreId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// What metadata is told that this node runs.
const SOFTWARE: &str = concat!("cairn/", env!("CARGO_PKG_VERSION"));

/// Why a registration did not come about.
#[derive(Debug, Error)]
enum RegisterError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("metadata's answer contradicts itself: {0}")]
    Answer(&'static str),
}

impl RegisterError {
    /// True when trying again will not help before an operator has looked.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Identity(IdentityError::WrongCluster { .. } | IdentityError::WrongNode { .. }) => true,
            Self::Identity(_) | Self::Answer(_) => false,
            Self::Call(error) => error.status().is_some_and(|status| status.code == Code::WrongCluster),
        }
    }
}

/// Runs until `stop`.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        loop {
            let period = register_until_done(&node).await;
            beat_until_forgotten(&node, period).await;
        }
    })
    .await;
}

async fn register_until_done(node: &Node) -> Duration {
    let mut backoff = Backoff::new(RETRY_PAUSE, entropy::rng());
    loop {
        match register(node).await {
            Ok(period) => {
                tracing::info!(node = %node.id(), addr = node.addr, "registered with metadata");
                node.progress.beat(cairn_net::now());
                node.membership.send_replace(Membership::Registered { node: node.id() });
                node.ledger.retell(node.id());
                node.wakes.map.notify_one();
                node.wakes.catch_up.notify_one();
                node.wakes.heal.notify_one();
                return period;
            }
            Err(error) => {
                let next = if error.is_refusal() {
                    Membership::Refused { reason: error.to_string() }
                } else {
                    Membership::Waiting { error: Some(error.to_string()) }
                };
                // Said once per kind of trouble, not once per attempt.
                let changed = node.membership.send_if_modified(|known| {
                    let changed = std::mem::discriminant(known) != std::mem::discriminant(&next) || *known != next;
                    *known = next;
                    changed
                });
                if changed {
                    tracing::warn!(%error, "not registered with metadata, trying again");
                }
                sleep(backoff.pause()).await; // tidy: sleep-ok(pause between attempts)
            }
        }
    }
}

async fn register(node: &Node) -> Result<Duration, RegisterError> {
    let (uuid, cluster) = {
        let identity = node.home.identity.lock();
        (identity.uuid, identity.registration.as_ref().map(|known| known.cluster))
    };
    // A directory in which no store was ever found has nothing to be registered.
    let known: Vec<&StoreSlot> = node.stores.iter().map(|slot| &**slot).filter(|slot| slot.uuid().is_some()).collect();
    let stores: Vec<pb::StoreBeat> = known.iter().map(|slot| node.beat(slot)).collect();
    let openings = stores.iter().map(|beat| Incarnation(beat.incarnation)).collect();
    let ask = pb::RegisterNode {
        uuid: Bytes::copy_from_slice(&uuid),
        boot_id: Bytes::copy_from_slice(&node.boot.0),
        addr: node.addr.clone(),
        zone: node.zone.clone(),
        rack: node.rack.clone(),
        host: node.host.clone(),
        stores,
        cluster_id: cluster.map_or_else(Bytes::new, |cluster| Bytes::copy_from_slice(&cluster.0)),
        software: SOFTWARE.to_owned(),
        newest_version: CLUSTER_VERSION,
    };
    let reply = match node.meta.call(Kind::RegisterNode(ask)).await? {
        response::Kind::RegisterNode(reply) => reply,
        _ => return Err(RegisterError::Answer("it is not the answer to a registration")),
    };
    let granted = granted(&known, &reply)?;
    let home = node.home.clone();
    let kept = granted.clone();
    blocking(move || home.identity.lock().register(&home.disk, kept)).await?;
    node.take_identity(&granted)?;
    // What was opened again while metadata was asked is none of these, and registered next.
    *node.registered.lock() = openings;
    Ok(period(reply.heartbeat_ms))
}

fn granted(stores: &[&StoreSlot], reply: &pb::RegisterNodeReply) -> Result<Registration, RegisterError> {
    let cluster = ClusterId::from_slice(&reply.cluster_id).filter(|cluster| !cluster.is_nil());
    let cluster = cluster.ok_or(RegisterError::Answer("it names no cluster"))?;
    if reply.node_id == 0 {
        return Err(RegisterError::Answer("it gives no node id"));
    }
    if reply.store_ids.len() != stores.len() || reply.store_ids.contains(&0) {
        return Err(RegisterError::Answer("it does not number every store"));
    }
    let ids = reply.store_ids.iter().map(|id| StoreId(*id));
    let stores = stores.iter().filter_map(|slot| slot.uuid()).zip(ids).collect();
    Ok(Registration { cluster, node: NodeId(reply.node_id), stores })
}

impl Node {
    /// What a heartbeat says of a store, without defects.
    pub(crate) fn beat(&self, slot: &StoreSlot) -> pb::StoreBeat {
        let joins = slot.id().map(|store| self.progress.joins(store)).unwrap_or_default();
        pb::StoreBeat { joins, ..slot.beat() }
    }

    /// Speaks as what a registration granted, from now on.
    pub(crate) fn take_identity(&self, granted: &Registration) -> Result<(), RegisterFault> {
        for slot in &self.stores {
            if let Some(id) = slot.uuid().and_then(|uuid| granted.stores.get(&uuid))
                && !slot.set_id(*id)
            {
                return Err(RegisterFault);
            }
        }
        self.speaks_as.rcu(|known| Identity {
            cluster_id: granted.cluster,
            node_id: granted.node,
            ..Identity::clone(known)
        });
        Ok(())
    }
}

/// A store was given another number than it has.
#[derive(Debug)]
pub(crate) struct RegisterFault;

impl From<RegisterFault> for RegisterError {
    fn from(_: RegisterFault) -> Self {
        Self::Answer("a store is given another number than it had")
    }
}

fn period(heartbeat_ms: u32) -> Duration {
    match heartbeat_ms {
        0 => HEARTBEAT_PERIOD,
        ms => Duration::from_millis(u64::from(ms)).clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1),
    }
}

/// Returns when metadata asks for a new registration.
async fn beat_until_forgotten(node: &Node, period: Duration) {
    let mut silent = false;
    let mut hearers = BTreeSet::new();
    loop {
        sleep(period).await; // tidy: sleep-ok(the period of the heartbeat)
        if node.stores.iter().any(|slot| slot.is_open() && node.trusted(slot).is_err()) {
            // A store was found, or opened again, after the node had registered: what it says is compared then.
            return;
        }
        match beat(node, &mut hearers).await {
            Ok(reply) => {
                node.progress.beat(cairn_net::now());
                if std::mem::take(&mut silent) {
                    tracing::info!("metadata answers again");
                    node.membership.send_replace(Membership::Registered { node: node.id() });
                }
                if reply.register_again {
                    tracing::info!("metadata asks for a new registration");
                    node.membership.send_replace(Membership::Waiting { error: None });
                    return;
                }
                if reply.map_version != node.view.load().version {
                    node.wakes.map.notify_one();
                }
                if reply.degraded_rows > 0 && !node.catch_up_stuck.load(Ordering::Relaxed) {
                    node.wakes.catch_up.notify_one();
                }
            }
            Err(error) => {
                node.progress.failed_beats.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(%error, "metadata does not answer heartbeats");
                    node.membership.send_replace(Membership::Waiting { error: Some(error.to_string()) });
                }
            }
        }
    }
}

/// Reports to every metadata server; `hearers` are those that took the report before.
async fn beat(node: &Node, hearers: &mut BTreeSet<String>) -> Result<pb::HeartbeatReply, CallError> {
    let mut stores: Vec<pb::StoreBeat> =
        node.stores.iter().filter(|slot| slot.id().is_some()).map(|slot| node.beat(slot)).collect();
    let mut told = Vec::new();
    for beat in &mut stores {
        beat.defects = node.ledger.take(StoreId(beat.id));
        told.extend(beat.defects.iter().cloned());
    }
    let boot_id = Bytes::copy_from_slice(&node.boot.0);
    let ask = pb::Heartbeat {
        node_id: node.id().0,
        boot_id,
        stores,
        brief: false,
        software: SOFTWARE.to_owned(),
        newest_version: CLUSTER_VERSION,
    };
    // All of them judge nodes by what they hear themselves; one is enough to count what this node lacks.
    let asked =
        node.meta.call_all(|first| Kind::Heartbeat(pb::Heartbeat { brief: !first, ..ask.clone() }), BEAT_TIMEOUT);
    let mut failure = CallError::Nobody;
    let mut heard: Vec<(String, pb::HeartbeatReply)> = Vec::new();
    for (addr, answer) in asked.await {
        match answer {
            Ok(response::Kind::Heartbeat(reply)) => heard.push((addr, reply)),
            Ok(_) => failure = CallError::Confused { addr },
            Err(error) => failure = error,
        }
    }
    let took = |(_, reply): &&(String, pb::HeartbeatReply)| !reply.register_again;
    if heard.iter().filter(took).count() == 0 {
        node.ledger.put_back(told);
    }
    let newcomer = heard.iter().filter(took).any(|(addr, _)| !hearers.contains(addr));
    if newcomer && !hearers.is_empty() {
        // It was away, or is new: what the others were told before, it does not know.
        node.ledger.retell(node.id());
    }
    *hearers = heard.iter().filter(took).map(|(addr, _)| addr.clone()).collect();
    let register_again = heard.iter().any(|(_, reply)| reply.register_again);
    let map_version = heard.iter().map(|(_, reply)| reply.map_version).max().unwrap_or(0);
    let degraded_rows = heard.iter().map(|(_, reply)| reply.degraded_rows).max().unwrap_or(0);
    if heard.is_empty() { Err(failure) } else { Ok(pb::HeartbeatReply { map_version, degraded_rows, register_again }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_period_stays_within_reason() {
        assert_eq!(period(0), HEARTBEAT_PERIOD);
        assert_eq!(period(200), Duration::from_millis(200));
        assert_eq!(period(1), HEARTBEAT_RANGE.0);
        assert_eq!(period(u32::MAX), HEARTBEAT_RANGE.1);
    }
}
