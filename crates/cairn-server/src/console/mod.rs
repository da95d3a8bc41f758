//! The console port of a server: `/metrics`, `/healthz` and `/readyz` over plain HTTP, for machines that watch it.
//!
//! What a role measures and how it judges itself is its own business ([`Subject`]); which answer that makes is decided in
//! `answer.rs`. Everything a caller may take is bounded: connections, bytes and time of a request, and there is one
//! request to a connection.

mod answer;
mod place;

pub(crate) use answer::{Reason, Verdict};
pub use place::{ConsolePlace, ConsolePlaceError};

use crate::error::StartError;
use crate::limits::{
    CHECK_TIMEOUT, CONSOLE_CONNECTIONS_MAX, CONSOLE_HEAD_MAX, CONSOLE_HEAD_TIMEOUT, CONSOLE_HEADERS_MAX,
    CONSOLE_TIMEOUT,
};
use crate::listen::Lent;
use answer::{Answer, Page, page_of};
use async_trait::async_trait;
use cairn_net::{Link, Net, Stream};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Pause after an error of `accept` that is the process's own (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a console shows.
#[async_trait]
pub(crate) trait Subject: Send + Sync + 'static {
    /// The page of all measurements.
    async fn metrics(&self) -> String;

    /// Whether the process does what it was started for at all: one that does not has to be started again.
    async fn health(&self) -> Verdict;

    /// Whether requests should be sent here now.
    async fn readiness(&self) -> Verdict;
}

/// A console port that is bound.
pub(crate) struct Console {
    listener: Lent,
}

impl Console {
    /// Binds the console port of a server that listens on `service` (as it was asked for, and as it is); `None` when
    /// there is to be none.
    ///
    /// # Errors
    /// When the address is not on loopback, does not exist or is not free.
    pub(crate) async fn bind(
        net: &dyn Net,
        place: &ConsolePlace,
        asked: SocketAddr,
        service: SocketAddr,
    ) -> Result<Option<Self>, StartError> {
        let Some(addr) = place.addr(asked, service)? else { return Ok(None) };
        let failed = |source| StartError::Console { addr, source };
        // Scrapers and health checks have no certificates.
        let net = net.unprotected().unwrap_or(net);
        let listener = net.bind(&addr.to_string()).await.map_err(failed)?;
        Ok(Some(Self { listener: Lent::new(listener).map_err(failed)? }))
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.addr()
    }

    /// The same port, for somebody who serves it before this one does.
    pub(crate) fn lend(&self) -> Self {
        Self { listener: self.listener.share() }
    }

    /// Answers until `stop`; connections that are open then are dropped. Of several that serve, one after the other does.
    pub(crate) async fn serve(self, subject: Arc<dyn Subject>, stop: CancellationToken) {
        let mut listener = self.listener.lend();
        let slots = Arc::new(Semaphore::new(CONSOLE_CONNECTIONS_MAX));
        let mut open = JoinSet::new();
        let accept = async {
            loop {
                let slot = slots.clone().acquire_owned().await.expect("this semaphore is never closed");
                match listener.accept().await {
                    Ok((stream, _)) => drop(open.spawn(converse(stream, subject.clone(), slot))),
                    Err(error) => {
                        tracing::debug!(%error, "accepting a connection to the console failed");
                        sleep(ACCEPT_PAUSE).await; // tidy: sleep-ok(pause after an error of the process)
                    }
                }
                while open.try_join_next().is_some() {}
            }
        };
        stop.run_until_cancelled(accept).await;
        // What they hold is let go before this returns.
        open.shutdown().await;
    }
}

/// One connection: one request, one answer.
async fn converse(stream: Box<dyn Stream>, subject: Arc<dyn Subject>, _slot: OwnedSemaphorePermit) {
    let (read, write) = stream.split();
    let io = TokioIo::new(tokio::io::join(read, write));
    let service = service_fn(|request| respond(request, subject.as_ref()));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONSOLE_HEAD_TIMEOUT)
        .max_header_size(CONSOLE_HEAD_MAX)
        .max_buf_size(CONSOLE_HEAD_MAX)
        .max_headers(CONSOLE_HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(io, service);
    match timeout(CONSOLE_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the console failed"),
        Err(_) => tracing::debug!("a connection to the console took too long"),
    }
}

/// The body of a request is never read: it means nothing here, and the connection ends after the answer.
async fn respond(request: Request<Incoming>, subject: &dyn Subject) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = match page_of(request.method().as_str(), request.uri().path()) {
        Ok(Page::Metrics) => Answer::metrics(subject.metrics().await),
        Ok(Page::Health) => Answer::verdict("healthy", &subject.health().await),
        Ok(Page::Readiness) => Answer::verdict("ready", &subject.readiness().await),
        Err(refusal) => refusal,
    };
    let status = StatusCode::from_u16(answer.status).expect("our statuses are statuses");
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allowed) = answer.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    Ok(response)
}

/// Whether our own server answers a ping.
pub(crate) async fn answers(own: &Link) -> Result<(), Reason> {
    let silent = |why| Reason::new("unresponsive", format!("{} does not answer a ping: {why}", own.addr()));
    match timeout(CHECK_TIMEOUT, own.ping(CHECK_TIMEOUT)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(silent(error.to_string())),
        Err(_) => Err(silent(format!("silent for {CHECK_TIMEOUT:?}"))),
    }
}
