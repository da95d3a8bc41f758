//! What the console of a storage node shows.

use super::disk::DiskOp;
use super::progress::Duty;
use super::slot::StoreSlot;
use super::state::{Membership, Node};
use crate::console::{Reason, Subject, Verdict, answers};
use async_trait::async_trait;
use cairn_metrics::{Exposition, Page, Source};
use cairn_net::Link;
use cairn_proto::pb;
use cairn_store::{StoreCounts, Usage};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a node measures beside its requests.
pub(super) struct NodeSource {
    pub(super) node: Arc<Node>,
}

impl Source for NodeSource {
    fn measure(&self, page: &mut Page<'_>) -> fmt::Result {
        let stores: Vec<StoreFigures> = self.node.stores.iter().enumerate().map(StoreFigures::of).collect();
        self.measure_stores(page, &stores)?;
        measure_queues(page, &stores)?;
        measure_space(page, &stores)?;
        self.measure_disks(page, &stores)?;
        self.measure_duties(page)?;
        self.measure_scrub(page)?;
        self.measure_standing(page)
    }
}

/// One store, looked at once for all its measurements.
struct StoreFigures {
    /// Its number, or while it has none its place in the configuration as `new-1`.
    name: String,
    usage: Usage,
    counts: StoreCounts,
    writable: bool,
    index: usize,
}

impl StoreFigures {
    fn of((index, slot): (usize, &Arc<StoreSlot>)) -> Self {
        let name = Self::name(index, slot);
        let usage = slot.usage();
        Self { name, writable: slot.trouble(&usage).is_empty(), usage, counts: slot.counts(), index }
    }

    fn name(index: usize, slot: &StoreSlot) -> String {
        slot.id().map_or_else(|| format!("new-{}", index + 1), |id| id.0.to_string())
    }

    fn labels(&self) -> [(&str, &str); 1] {
        [("store", &self.name)]
    }
}

impl NodeSource {
    fn measure_stores(&self, page: &mut Page<'_>, stores: &[StoreFigures]) -> fmt::Result {
        let mut gauge = |name, help, value: fn(&StoreFigures) -> u64| {
            page.gauge(name, help, |family| {
                stores.iter().try_for_each(|store| family.count(&store.labels(), value(store)))
            })
        };
        gauge("cairn_node_store_capacity_bytes", "Bytes that the store may use.", |s| s.usage.capacity_bytes)?;
        gauge("cairn_node_store_used_bytes", "Bytes that the store uses.", |s| s.usage.used_bytes)?;
        gauge("cairn_node_store_free_bytes", "Bytes that puts may still take.", |s| s.usage.free_bytes)?;
        gauge("cairn_node_store_blocks", "Blocks in the store, bad ones included.", |s| s.usage.blocks)?;
        let help = "Bad blocks in the store that are not repaired yet.";
        gauge("cairn_node_store_quarantined_blocks", help, |s| s.usage.quarantined)?;
        gauge("cairn_node_store_writable", "1 while the store takes writes.", |s| u64::from(s.writable))
    }

    fn measure_disks(&self, page: &mut Page<'_>, stores: &[StoreFigures]) -> fmt::Result {
        let watches = || stores.iter().map(|store| (store, self.node.stores[store.index].disk()));
        let help = "Time of operations on the disk; op sync is fdatasync.";
        page.histogram("cairn_node_disk_duration_seconds", help, |family| {
            for (store, disk) in watches() {
                for op in DiskOp::ALL {
                    let labels = [("store", store.name.as_str()), ("op", op.name())];
                    family.reading(&labels, &disk.of(op).duration.read())?;
                }
            }
            Ok(())
        })?;
        let help = "Bytes read from and written to files; what is sent straight from the page cache is left out.";
        page.counter("cairn_node_disk_bytes_total", help, |family| {
            for (store, disk) in watches() {
                for op in [DiskOp::Read, DiskOp::Write] {
                    let labels = [("store", store.name.as_str()), ("op", op.name())];
                    family.count(&labels, disk.of(op).bytes.load(Ordering::Relaxed))?;
                }
            }
            Ok(())
        })?;
        page.counter("cairn_node_disk_errors_total", "Operations on the disk that failed.", |family| {
            for (store, disk) in watches() {
                for op in DiskOp::ALL {
                    let labels = [("store", store.name.as_str()), ("op", op.name())];
                    family.count(&labels, disk.of(op).errors.load(Ordering::Relaxed))?;
                }
            }
            Ok(())
        })?;
        let help = "Age of the oldest operation on the disk that is not finished.";
        let now = cairn_net::now();
        page.gauge("cairn_node_disk_stall_seconds", help, |family| {
            watches().try_for_each(|(store, disk)| family.real(&store.labels(), disk.stall(now).as_secs_f64()))
        })
    }

    fn measure_duties(&self, page: &mut Page<'_>) -> fmt::Result {
        let progress = &self.node.progress;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let help = "What a duty had left after its last look: degraded rows, bad or missing blocks, groups.";
        page.gauge("cairn_node_duty_left", help, |family| {
            Duty::ALL.iter().try_for_each(|duty| family.count(&[("duty", duty.name())], progress.left(*duty)))
        })?;
        page.counter("cairn_node_copied_blocks_total", "Blocks copied from other nodes.", |family| {
            family.count(&[], get(&progress.copied_blocks))
        })?;
        page.counter("cairn_node_copied_bytes_total", "Bytes copied from other nodes.", |family| {
            family.count(&[], get(&progress.copied_bytes))
        })?;
        page.counter("cairn_node_deleted_blocks_total", "Blocks deleted on command of metadata.", |family| {
            family.count(&[], get(&progress.deleted_blocks))
        })?;
        page.counter("cairn_node_purged_blocks_total", "Blocks of former memberships deleted.", |family| {
            family.count(&[], get(&progress.purged_blocks))
        })?;
        page.counter("cairn_node_compared_groups_total", "Comparisons of a group with another member.", |family| {
            family.count(&[], get(&progress.compared_groups))
        })?;
        let help = "Bytes a second that copies to and from the store may take now.";
        page.gauge("cairn_node_repair_rate_bytes", help, |family| {
            self.node.stores.iter().enumerate().try_for_each(|(index, slot)| {
                family.real(&[("store", StoreFigures::name(index, slot).as_str())], slot.repair_rate())
            })
        })?;
        let sweeps = || {
            let stores = self.node.stores.iter().enumerate();
            stores.map(|(index, slot)| (StoreFigures::name(index, slot), slot.sweep.totals()))
        };
        let help = "Blocks that metadata judged for the sweep, and those without a file that it deleted.";
        page.counter("cairn_node_sweep_blocks_total", help, |family| {
            for (store, totals) in sweeps() {
                for (event, blocks) in [("judged", totals.judged_blocks), ("deleted", totals.swept_blocks)] {
                    family.count(&[("store", store.as_str()), ("event", event)], blocks)?;
                }
            }
            Ok(())
        })?;
        let help = "Blocks without a file that the sweep keeps until an operator has looked.";
        page.gauge("cairn_node_sweep_kept_blocks", help, |family| {
            for (store, totals) in sweeps() {
                for (reason, blocks) in [("future", totals.future_blocks), ("stopped", totals.stopped_blocks)] {
                    family.count(&[("store", store.as_str()), ("reason", reason)], blocks)?;
                }
            }
            Ok(())
        })?;
        let (open, found, ended) = self.node.ledger.counts();
        let help = "Defects found and not repaired yet: open entries of the ledger.";
        page.gauge("cairn_node_defects_open", help, |family| family.count(&[], open))?;
        page.counter("cairn_node_defects_found_total", "Defects found, by what was wrong.", |family| {
            found.iter().try_for_each(|(cause, count)| family.count(&[("cause", cause)], *count))
        })?;
        page.counter("cairn_node_defects_ended_total", "Defects that are over, by how they ended.", |family| {
            ended.iter().try_for_each(|(result, count)| family.count(&[("result", result)], *count))
        })
    }

    fn measure_scrub(&self, page: &mut Page<'_>) -> fmt::Result {
        let scrubs: Vec<(String, pb::StoreScrub)> = self
            .node
            .stores
            .iter()
            .enumerate()
            .map(|(index, slot)| (StoreFigures::name(index, slot), slot.scrub.to_pb(slot.id().unwrap_or_default())))
            .collect();
        let mut gauge = |name, help, value: fn(&pb::StoreScrub) -> u64| {
            page.gauge(name, help, |family| {
                scrubs.iter().try_for_each(|(store, scrub)| family.count(&[("store", store)], value(scrub)))
            })
        };
        gauge("cairn_node_scrub_running", "1 while everything is being read back.", |s| u64::from(s.running))?;
        gauge("cairn_node_scrub_pass", "Passes that began.", |s| s.pass)?;
        gauge("cairn_node_scrub_done_bytes", "Bytes that the pass has read back.", |s| s.bytes_done)?;
        gauge("cairn_node_scrub_planned_bytes", "Bytes that it is to read back in all.", |s| s.bytes_total)?;
        let help = "Defects that the pass, or the last one, found.";
        gauge("cairn_node_scrub_found", help, |s| s.found)?;
        let help = "1 when the period is over and the pass is not complete.";
        gauge("cairn_node_scrub_behind", help, |s| u64::from(s.behind))?;
        let help = "When the last complete pass ended, in seconds since 1970; 0 = never.";
        gauge("cairn_node_scrub_completed_timestamp_seconds", help, |s| {
            (s.last_complete_ns.max(0) / 1_000_000_000) as u64
        })
    }

    fn measure_standing(&self, page: &mut Page<'_>) -> fmt::Result {
        let node = &self.node;
        let help = "Requests that are in hand, by gate.";
        page.gauge("cairn_node_requests_admitted", help, |family| {
            let reads = node.gates.reads.inside();
            let writes = node.gates.writes.inside();
            family.count(&[("gate", "read")], reads as u64)?;
            family.count(&[("gate", "write")], writes as u64)
        })?;
        let registered = matches!(*node.membership.borrow(), Membership::Registered { .. });
        page.gauge("cairn_node_registered", "1 while metadata knows this node and answers it.", |family| {
            family.count(&[], u64::from(registered))
        })?;
        let help = "Time since metadata answered a heartbeat or a registration; nothing before the first.";
        page.gauge("cairn_node_heartbeat_age_seconds", help, |family| {
            match node.progress.silent_for(cairn_net::now()) {
                Some(silent) => family.real(&[], silent.as_secs_f64()),
                None => Ok(()),
            }
        })?;
        let help = "Heartbeats that metadata did not answer.";
        page.counter("cairn_node_heartbeat_failures_total", help, |family| {
            family.count(&[], node.progress.failed_beats.load(Ordering::Relaxed))
        })?;
        page.gauge("cairn_node_map_version", "Version of the cluster map that the node has.", |family| {
            family.count(&[], node.view.load().version)
        })?;
        page.gauge("cairn_node_draining", "1 while the node ends.", |family| {
            family.count(&[], u64::from(node.draining.load(Ordering::Relaxed)))
        })
    }
}

fn measure_queues(page: &mut Page<'_>, stores: &[StoreFigures]) -> fmt::Result {
    let mut gauge = |name, help, value: fn(&StoreCounts) -> u64| {
        page.gauge(name, help, |family| {
            stores.iter().try_for_each(|store| family.count(&store.labels(), value(&store.counts)))
        })
    };
    let help = "Requests that wait in the store to be written or synced.";
    gauge("cairn_node_store_queue_requests", help, |counts| counts.waiting_requests as u64)?;
    let help = "Payload that waits in the store to be written.";
    gauge("cairn_node_store_queue_bytes", help, |counts| counts.waiting_bytes as u64)?;
    let mut counter = |name, help, value: fn(&StoreCounts) -> u64| {
        page.counter(name, help, |family| {
            stores.iter().try_for_each(|store| family.count(&store.labels(), value(&store.counts)))
        })
    };
    let help = "Batches of requests written with one call.";
    counter("cairn_node_store_batches_total", help, |counts| counts.batches)?;
    let help = "Requests in those batches.";
    counter("cairn_node_store_batched_requests_total", help, |counts| counts.batched_requests)?;
    let help = "Of those, requests for whom nobody waited any more: nothing was done.";
    counter("cairn_node_store_abandoned_requests_total", help, |counts| counts.abandoned)?;
    let help = "Rounds of making durable what was written.";
    counter("cairn_node_store_sync_rounds_total", help, |counts| counts.sync_rounds)?;
    let help = "Requests that those rounds answered.";
    counter("cairn_node_store_sync_waiters_total", help, |counts| counts.sync_waiters)?;
    let help = "Blocks that were found bad, torn ones after a crash included.";
    counter("cairn_node_store_quarantines_total", help, |counts| counts.quarantined)
}

/// What stores do to get space back.
fn measure_space(page: &mut Page<'_>, stores: &[StoreFigures]) -> fmt::Result {
    let mut gauge = |name, help, value: fn(&StoreCounts) -> u64| {
        page.gauge(name, help, |family| {
            stores.iter().try_for_each(|store| family.count(&store.labels(), value(&store.counts)))
        })
    };
    let help = "Bytes of files of removed segments that wait to be used again.";
    gauge("cairn_node_store_recycled_bytes", help, |counts| counts.recycled_bytes)?;
    let help = "Bytes of deleted blocks that were not given back to the file system yet.";
    gauge("cairn_node_store_dead_bytes", help, |counts| counts.dead_bytes)?;
    let mut counter = |name, help, value: fn(&StoreCounts) -> u64| {
        page.counter(name, help, |family| {
            stores.iter().try_for_each(|store| family.count(&store.labels(), value(&store.counts)))
        })
    };
    let help = "Bytes of deleted blocks given back to the file system.";
    counter("cairn_node_store_punched_bytes_total", help, |counts| counts.punched_bytes)?;
    let help = "Segments that compaction emptied.";
    counter("cairn_node_store_compacted_segments_total", help, |counts| counts.compacted_segments)?;
    let help = "Blocks that compaction moved.";
    counter("cairn_node_store_moved_blocks_total", help, |counts| counts.moved_blocks)?;
    let help = "Bytes that compaction moved.";
    counter("cairn_node_store_moved_bytes_total", help, |counts| counts.moved_bytes)?;
    let help = "Segments that were removed.";
    counter("cairn_node_store_removed_segments_total", help, |counts| counts.removed_segments)?;
    let help = "Segments made in files that were used before.";
    counter("cairn_node_store_recycled_segments_total", help, |counts| counts.recycled_segments)?;
    let help = "Blocks that the operating system could not read.";
    counter("cairn_node_store_read_errors_total", help, |counts| counts.read_errors)
}

/// The console of a storage node.
pub(super) struct NodeSubject {
    pub(super) node: Arc<Node>,
    pub(super) exposition: Exposition,
    /// To its own server.
    pub(super) own: Link,
}

#[async_trait]
impl Subject for NodeSubject {
    async fn metrics(&self) -> String {
        self.exposition.text()
    }

    /// The server answers a ping on its own port.
    async fn health(&self) -> Verdict {
        answers(&self.own).await.into()
    }

    /// Metadata knows the node and answers it, and each of its stores takes writes.
    async fn readiness(&self) -> Verdict {
        let membership = self.node.membership.borrow().clone();
        let stores = self.node.stores.iter().map(|slot| {
            let name = slot.id().map_or_else(|| slot.place().name(), |id| id.to_string());
            (name, slot.trouble(&slot.usage()))
        });
        judge(self.node.draining.load(Ordering::Relaxed), &membership, stores)
    }
}

/// What keeps a node from being ready: `troubles` says of each store why it takes no writes, empty when it does.
fn judge(draining: bool, membership: &Membership, troubles: impl Iterator<Item = (String, String)>) -> Verdict {
    let draining = draining.then(|| Reason::new("draining", "the node ends"));
    let standing = match membership {
        Membership::Registered { .. } => None,
        Membership::Waiting { error: None } => Some(Reason::new("not_registered", "not registered yet")),
        Membership::Waiting { error: Some(error) } => Some(Reason::new("not_registered", error.clone())),
        Membership::Refused { reason } => Some(Reason::new("refused", reason.clone())),
    };
    let stores = troubles.filter(|(_, trouble)| !trouble.is_empty()).map(|(store, trouble)| {
        let what = if trouble == super::slot::FULL { "store_full" } else { "store_failed" };
        Reason::new(what, format!("{store}: {trouble}"))
    });
    draining.into_iter().chain(standing).chain(stores).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::NodeId;

    #[test]
    fn a_node_is_ready_when_nothing_speaks_against_it() {
        let registered = Membership::Registered { node: NodeId(1) };
        let stores = |troubles: &[&str]| {
            let named = troubles.iter().map(|trouble| ("store 1".to_owned(), (*trouble).to_owned()));
            named.collect::<Vec<_>>().into_iter()
        };
        assert!(judge(false, &registered, stores(&["", ""])).is_good());
        let whats = |verdict: Verdict| verdict.reasons.iter().map(|reason| reason.what).collect::<Vec<_>>();
        assert_eq!(whats(judge(true, &registered, stores(&[]))), ["draining"]);
        let all = judge(false, &Membership::Waiting { error: None }, stores(&["full", "", "failed to write"]));
        assert_eq!(whats(all), ["not_registered", "store_full", "store_failed"]);
        let refused = Membership::Refused { reason: "another cluster".to_owned() };
        assert_eq!(whats(judge(false, &refused, stores(&[]))), ["refused"]);
    }
}
