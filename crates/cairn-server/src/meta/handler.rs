//! What a metadata server answers: whatever [`Meta`] says, within a bound and a deadline.

use super::dumps::Dumps;
use super::own_view;
use super::ship::Shipped;
use super::watch::Watchers;
use crate::gate::Gate;
use crate::limits::{LOCK_PLACES, META_REQUESTS_MAX};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_meta::Meta;
use cairn_meta::kv::Engine;
use cairn_net::{Body, Handler, RequestContext, ServerStats};
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout_at;

/// Name of the engine that ships its log.
const EMBEDDED: &str = "embedded";

/// Answers the requests of a metadata server.
pub(crate) struct MetaHandler {
    pub(super) meta: Meta,
    /// Does not hold the engine open.
    engine: Weak<dyn Engine>,
    pub(super) requests: Gate,
    /// Requests that are held while they wait for a lock.
    pub(super) lock_places: Semaphore,
    watchers: Watchers,
    /// Told when nodes or memberships may have changed.
    cluster_changed: Arc<Notify>,
    stats: Arc<ServerStats>,
    dumps: Arc<Dumps>,
    shipped: Arc<Shipped>,
    draining: AtomicBool,
}

impl MetaHandler {
    pub(crate) fn new(
        meta: Meta,
        engine: Weak<dyn Engine>,
        cluster_changed: Arc<Notify>,
        stats: Arc<ServerStats>,
        shipped: Arc<Shipped>,
    ) -> Self {
        let requests = Gate::new(META_REQUESTS_MAX, "requests");
        Self {
            meta,
            engine,
            requests,
            lock_places: Semaphore::new(LOCK_PLACES),
            watchers: Watchers::new(),
            cluster_changed,
            stats,
            dumps: Arc::default(),
            shipped,
            draining: AtomicBool::new(false),
        }
    }

    /// How many clients are connected, by the boot ids they introduced themselves with.
    fn clients(&self) -> u64 {
        self.stats.clients() as u64
    }

    /// Age of the write to the engine's disk that is under way.
    fn stalled_for(&self) -> Duration {
        self.engine.upgrade().map_or(Duration::ZERO, |engine| engine.commits().stalled_for)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// How the engine's log is shipped.
    pub(crate) fn shipped(&self) -> &Shipped {
        &self.shipped
    }

    /// The dumps that are taken through this server.
    pub(crate) fn dumps(&self) -> Arc<Dumps> {
        self.dumps.clone()
    }

    /// A status with how the log is shipped.
    async fn with_log(&self, mut status: pb::ClusterStatusReply) -> Result<pb::ClusterStatusReply, Status> {
        if status.engine == EMBEDDED {
            let nodes = own_view(&self.meta).await?.peers_up().len();
            status.metalog = self.shipped.report();
            status.alarms.extend(self.shipped.alarm(nodes));
        }
        Ok(status)
    }

    /// What metadata says; the wait for the engine's disk is told to the caller.
    pub(super) async fn execute(&self, ctx: &RequestContext, request: &pb::Request) -> Result<response::Kind, Status> {
        if let Some(Kind::DumpRows(ask)) = &request.kind {
            return self.dumps.serve(&self.meta, ask).await.map(response::Kind::DumpRows);
        }
        let (result, commit_wait) = self.meta.execute_timed(request).await;
        ctx.work.add_disk(commit_wait);
        match result? {
            response::Kind::ClusterStatus(status) => Ok(response::Kind::ClusterStatus(self.with_log(status).await?)),
            other => Ok(other),
        }
    }

    /// Says from now on that the server is about to end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Handler for MetaHandler {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        if !body.is_empty() {
            return Err(Status::new(Code::Invalid, "requests to metadata have no body"));
        }
        if let Some(Kind::WatchChanges(ask)) = request.kind {
            let draining = || self.is_draining();
            let watching = self.watchers.watch(&self.meta, ask, ctx.deadline, &self.requests, draining);
            let reply = match ctx.deadline {
                Some(deadline) => timeout_at(deadline, watching).await.unwrap_or_else(|_| Err(too_late())),
                None => watching.await,
            };
            return Ok((reply?, Body::empty()));
        }
        if let Some(Kind::WaitLock(ask)) = &request.kind {
            let waiting = self.wait_lock(ctx, &request, ask);
            let reply = match ctx.deadline {
                Some(deadline) => timeout_at(deadline, waiting).await.unwrap_or_else(|_| Err(too_late())),
                None => waiting.await,
            };
            return Ok((reply?, Body::empty()));
        }
        let _permit = self.requests.admit()?;
        let registers = matches!(
            request.kind,
            Some(
                Kind::RegisterNode(_)
                    | Kind::JoinDone(_)
                    | Kind::StartTask(_)
                    | Kind::CancelTask(_)
                    | Kind::SetPolicy(_)
            )
        );
        // A mutation that is dropped at its deadline may still happen: its slot tells whoever asks again.
        let result = match ctx.deadline {
            Some(deadline) if deadline <= cairn_net::now() => Err(too_late()),
            Some(deadline) => {
                let executed = timeout_at(deadline, self.execute(ctx, &request)).await;
                executed.unwrap_or_else(|_| Err(too_late()))
            }
            None => self.execute(ctx, &request).await,
        };
        if registers && result.is_ok() {
            self.cluster_changed.notify_one();
        }
        let mut kind = result?;
        if let response::Kind::ClusterMap(map) = &mut kind {
            map.clients = self.clients();
        }
        Ok((kind, Body::empty()))
    }

    fn pong(&self) -> pb::Pong {
        let in_hand = self.requests.inside();
        pb::Pong {
            queue_depth: u32::try_from(in_hand).unwrap_or(u32::MAX),
            disk_stall_ms: u32::try_from(self.stalled_for().as_millis()).unwrap_or(u32::MAX),
            draining: self.is_draining(),
        }
    }
}

fn too_late() -> Status {
    Status::new(Code::Deadline, "the caller's deadline passed before this was done here")
}
