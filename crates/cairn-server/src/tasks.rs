//! The tasks of a server: what answers requests and what does duties, ended in that order's reverse.

use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// All tasks of one server. Dropped, they are told to end and not waited for.
pub(crate) struct Tasks {
    duties: TaskTracker,
    servers: TaskTracker,
    stop_duties: DropGuard,
    stop_servers: DropGuard,
}

impl Tasks {
    pub(crate) fn new() -> Self {
        Self {
            duties: TaskTracker::new(),
            servers: TaskTracker::new(),
            stop_duties: CancellationToken::new().drop_guard(),
            stop_servers: CancellationToken::new().drop_guard(),
        }
    }

    /// Cancelled when duties are to end.
    pub(crate) fn duty_stop(&self) -> CancellationToken {
        token(&self.stop_duties)
    }

    /// Cancelled when requests are no longer to be taken.
    pub(crate) fn server_stop(&self) -> CancellationToken {
        token(&self.stop_servers)
    }

    /// Runs a duty, which ends soon after [`Tasks::duty_stop`] is cancelled.
    pub(crate) fn spawn_duty(&self, duty: impl Future<Output = ()> + Send + 'static) {
        self.duties.spawn(duty);
    }

    /// As [`Tasks::spawn_duty`], on a runtime of lower priority, if there is one.
    pub(crate) fn spawn_calm_duty(&self, on: Option<&Handle>, duty: impl Future<Output = ()> + Send + 'static) {
        match on {
            Some(on) => self.duties.spawn_on(duty, on),
            None => self.duties.spawn(duty),
        };
    }

    /// Runs what answers requests, which ends after [`Tasks::server_stop`] is cancelled and its requests are drained.
    pub(crate) fn spawn_server(&self, server: impl Future<Output = ()> + Send + 'static) {
        self.servers.spawn(server);
    }

    /// Ends the duties, which are clients of other servers, then the server; waits for each at most `grace`.
    pub(crate) async fn stop(self, grace: Duration) {
        token(&self.stop_duties).cancel();
        self.duties.close();
        if timeout(grace, self.duties.wait()).await.is_err() {
            tracing::warn!("duties did not end in time");
        }
        token(&self.stop_servers).cancel();
        self.servers.close();
        if timeout(grace, self.servers.wait()).await.is_err() {
            tracing::warn!("requests in hand did not end in time");
        }
    }
}

fn token(guard: &DropGuard) -> CancellationToken {
    guard.token().clone()
}

/// Runs work that waits for a disk on the blocking pool.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: nobody is left to take a result.
            Err(_) => std::future::pending().await,
        },
    }
}
