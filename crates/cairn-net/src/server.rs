//! Answers requests: accepts connections, reads frames within bounds, calls the handler, writes responses.
//!
//! Per connection there is a session: a reading task ([`session`]) and a writing task ([`respond`]); every request runs
//! in a task of its own. A peer that sends garbage, drips, or does not read what it asked for loses its connection;
//! memory held for requests is bounded by [`ServerConfig::body_bytes`].

mod answer;
mod context;
mod pings;
mod respond;
mod session;
mod stats;

pub use context::{RequestContext, WorkTime};
pub use stats::ServerStats;

use crate::body::Body;
use crate::config::ServerConfig;
use crate::seam::{Listener, Stream, now};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_proto::pb;
use cairn_proto::status::Status;
use parking_lot::Mutex;
use session::Session;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often sessions are looked after: idle, unfinished, not reading.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an error of `accept` that is the process's own (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a server does with requests.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. `body` holds one element per frame as it came; all but those of PUT were held against
    /// their frame checksums (a PUT's content is verified end to end by whoever stores it).
    ///
    /// Runs in a task of its own and is never dropped halfway, except when the server's drain timeout is over at
    /// shutdown: a caller that went away only cancels `ctx.cancelled`. A panic is answered with `Internal`.
    ///
    /// # Errors
    /// The status travels to the caller.
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(pb::response::Kind, Body), Status>;

    /// Answers PING; must not wait and must not touch a disk. A server that is going away says `draining` by itself.
    fn pong(&self) -> pb::Pong {
        pb::Pong::default()
    }
}

/// What all sessions of a server share.
struct Server {
    handler: Arc<dyn Handler>,
    config: ServerConfig,
    sessions: Mutex<BTreeMap<u64, Entry>>,
    tasks: TaskTracker,
    /// Ends handlers that outlive the drain timeout.
    hard_stop: CancellationToken,
}

/// A session in the server's books.
struct Entry {
    task: AbortHandle,
    /// Set when the handshake is done.
    session: Arc<OnceLock<Arc<Session>>>,
}

/// Takes a session off the books when its task ends, however it ends.
struct Registration {
    server: Arc<Server>,
    serial: u64,
    session: Arc<OnceLock<Arc<Session>>>,
    _slot: OwnedSemaphorePermit,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.server.sessions.lock().remove(&self.serial);
        self.server.config.stats.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(session) = self.session.get() {
            session.end();
        }
    }
}

/// Serves until `shutdown` is cancelled: then every peer gets GOAWAY, requests in flight may finish within
/// `config.drain_timeout`, and the function returns with all its tasks ended. Dropping it instead leaves the sessions
/// that exist running.
pub async fn serve(
    listener: Box<dyn Listener>,
    handler: Arc<dyn Handler>,
    config: ServerConfig,
    shutdown: CancellationToken,
) {
    let server = Arc::new(Server {
        handler,
        config,
        sessions: Mutex::new(BTreeMap::new()),
        tasks: TaskTracker::new(),
        hard_stop: CancellationToken::new(),
    });
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = accept_all(&server, listener) => {}
        () = sweep_all(&server) => {}
    }
    server.drain().await;
}

async fn accept_all(server: &Arc<Server>, mut listener: Box<dyn Listener>) {
    let slots = Arc::new(Semaphore::new(server.config.max_connections));
    let mut serial = 0;
    loop {
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            ServerStats::count(&server.config.stats.turned_away);
            tracing::debug!(%addr, "too many connections");
            continue;
        };
        serial += 1;
        server.start_session(serial, slot, stream, addr);
    }
}

async fn sweep_all(server: &Arc<Server>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        server.sweep();
    }
}

/// What the sweep sees of a session.
#[derive(Clone, Copy, Debug)]
struct SessionView {
    has_requests: bool,
    silent_for: Duration,
    owed_for: Duration,
    blocked_for: Duration,
}

/// Why a session must end, if it must.
fn overdue(view: SessionView, frame_timeout: Duration, idle_timeout: Duration) -> Option<&'static str> {
    if view.owed_for >= frame_timeout {
        Some("a begun frame was not finished")
    } else if view.blocked_for >= frame_timeout {
        Some("the peer does not read its responses")
    } else if !view.has_requests && view.silent_for >= idle_timeout {
        Some("idle")
    } else {
        None
    }
}

impl Server {
    fn start_session(
        self: &Arc<Self>,
        serial: u64,
        slot: OwnedSemaphorePermit,
        stream: Box<dyn Stream>,
        addr: SocketAddr,
    ) {
        let stats = &self.config.stats;
        ServerStats::count(&stats.accepted);
        stats.connections.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(OnceLock::new());
        let registration =
            Registration { server: Arc::clone(self), serial, session: Arc::clone(&session), _slot: slot };
        let server = Arc::clone(self);
        // The task begins when its entry is in the books, so that ending takes the entry off again.
        let (go, may) = oneshot::channel::<()>();
        let cell = Arc::clone(&session);
        let task = self.tasks.spawn(async move {
            let _registration = registration;
            if may.await.is_err() {
                return;
            }
            let closed = session::run(&server, stream, addr, &cell).await;
            if closed.is_breach() {
                ServerStats::count(&server.config.stats.broken);
            }
            tracing::debug!(%addr, reason = %closed, "session ended");
        });
        self.sessions.lock().insert(serial, Entry { task: task.abort_handle(), session });
        let _ = go.send(());
    }

    fn sweep(&self) {
        let now = now();
        let sessions = self.sessions.lock();
        for entry in sessions.values() {
            let Some(session) = entry.session.get() else {
                continue;
            };
            let view = session.view(now);
            if let Some(reason) = overdue(view, self.config.frame_timeout, self.config.idle_timeout) {
                tracing::debug!(peer = ?session.peer.addr, reason, "session closed");
                ServerStats::count(&self.config.stats.timed_out);
                entry.task.abort();
            }
        }
    }

    /// Lets every session finish what it has, within the drain timeout.
    async fn drain(self: &Arc<Self>) {
        self.config.stats.going_away.store(true, Ordering::Relaxed);
        for entry in self.sessions.lock().values() {
            match entry.session.get() {
                Some(session) => session.go_away("the server is shutting down"),
                None => entry.task.abort(),
            }
        }
        self.tasks.close();
        if timeout(self.config.drain_timeout, self.tasks.wait()).await.is_err() {
            for entry in self.sessions.lock().values() {
                entry.task.abort();
            }
            self.hard_stop.cancel();
            self.tasks.wait().await;
        }
    }
}

#[cfg(test)]
mod tests;
