//! Requests from this process to others: to the metadata servers, whichever answers, and to storage nodes by number.

use crate::entropy;
use crate::limits::METAS_MAX;
use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_net::{Body, Call, LegError, Link, LinkConfig, Net, Reply, SharedIdentity, now};
use cairn_proto::NodeId;
use cairn_proto::pb::request::Kind;
use cairn_proto::pb::response;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;

/// A request that got no usable answer.
#[derive(Clone, Debug, Error)]
pub(crate) enum CallError {
    /// The leg failed, or the peer answered with an error.
    #[error("{addr}: {source}")]
    Leg {
        addr: String,
        #[source]
        source: Box<LegError>,
    },
    /// The peer answered something else than was asked.
    #[error("{addr} answered another question than was asked")]
    Confused { addr: String },
    /// There is nobody to ask.
    #[error("no address to ask")]
    Nobody,
}

impl CallError {
    /// The peer's status, when it answered with one.
    pub(crate) fn status(&self) -> Option<&cairn_proto::status::Status> {
        match self {
            Self::Leg { source, .. } => source.status(),
            Self::Confused { .. } | Self::Nobody => None,
        }
    }
}

/// Makes links that speak with this process's identity.
#[derive(Clone)]
pub(crate) struct Dialer {
    pub(crate) net: Arc<dyn Net>,
    pub(crate) identity: SharedIdentity,
    pub(crate) config: Arc<LinkConfig>,
}

impl Dialer {
    pub(crate) fn link(&self, addr: &str, expect: NodeId) -> Link {
        let seed = entropy::rng().u64(..);
        Link::new(self.net.clone(), addr.to_owned(), expect, self.identity.clone(), self.config.clone(), seed)
    }
}

pub(crate) async fn start(link: &Link, call: Call) -> Result<(response::Kind, Bytes), CallError> {
    let addr = || link.addr().to_owned();
    match link.start(call).await {
        Ok(Reply { response, body, .. }) => match response.kind {
            Some(kind) => Ok((kind, body)),
            None => Err(CallError::Confused { addr: addr() }),
        },
        Err(source) => Err(CallError::Leg { addr: addr(), source: Box::new(source) }),
    }
}

/// The metadata servers. Any serves any request; the one that answered last is asked first.
pub(crate) struct MetaClient {
    dialer: Dialer,
    /// Addresses of the configuration.
    given: Vec<String>,
    links: ArcSwap<Vec<Link>>,
    preferred: AtomicUsize,
    timeout: Duration,
}

impl MetaClient {
    pub(crate) fn new(dialer: &Dialer, addrs: &[String], timeout: Duration) -> Self {
        // A number is never expected of a metadata server.
        let links = addrs.iter().map(|addr| dialer.link(addr, NodeId(0))).collect();
        let (dialer, given) = (dialer.clone(), addrs.to_vec());
        Self { dialer, given, links: ArcSwap::from_pointee(links), preferred: AtomicUsize::new(0), timeout }
    }

    /// Takes over which servers the cluster map names. One alone is who was asked, maybe under another address.
    pub(crate) fn learn(&self, told: &[String]) {
        let told = if told.len() > 1 { &told[..told.len().min(METAS_MAX)] } else { &self.given };
        let known = self.links.load();
        if told.iter().map(String::as_str).eq(known.iter().map(Link::addr)) {
            return;
        }
        let kept = |addr: &String| known.iter().find(|link| link.addr() == addr).cloned();
        let links: Vec<Link> =
            told.iter().map(|addr| kept(addr).unwrap_or_else(|| self.dialer.link(addr, NodeId(0)))).collect();
        known.iter().filter(|link| !told.iter().any(|addr| link.addr() == addr)).for_each(Link::close);
        self.links.store(Arc::new(links));
    }

    /// Asks every server at the same time what `ask` makes for it, told whether it is the one that is asked first
    /// otherwise. Their answers, with their addresses. One that does not answer is waited for `timeout`, if there are
    /// others.
    pub(crate) async fn call_all(
        &self,
        ask: impl Fn(bool) -> Kind,
        timeout: Duration,
    ) -> Vec<(String, Result<response::Kind, CallError>)> {
        let links = self.links.load_full();
        let first = self.preferred.load(Ordering::Relaxed) % links.len().max(1);
        let timeout = if links.len() > 1 { timeout } else { self.timeout };
        let calls = links.iter().enumerate().map(|(index, link)| {
            let call = Call::new(ask(index == first), now() + timeout);
            async move { (index, link.addr().to_owned(), start(link, call).await.map(|(kind, _)| kind)) }
        });
        let mut answers = futures_util::future::join_all(calls).await;
        // Who answers first of all that do is asked first from now on, unless the first one still does.
        answers.sort_by_key(|(index, ..)| *index != first);
        if let Some((index, ..)) = answers.iter().find(|(.., answer)| answer.is_ok()) {
            self.preferred.store(*index, Ordering::Relaxed);
        }
        answers.into_iter().map(|(_, addr, answer)| (addr, answer)).collect()
    }

    /// As [`MetaClient::call_within`] the usual time.
    pub(crate) async fn call(&self, kind: Kind) -> Result<response::Kind, CallError> {
        self.call_within(kind, self.timeout).await
    }

    /// Asks once: each server in turn until one answers, be it with an error. The requests of nodes may all be repeated.
    pub(crate) async fn call_within(&self, kind: Kind, timeout: Duration) -> Result<response::Kind, CallError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let links = self.links.load_full();
        let mut last = CallError::Nobody;
        for n in 0..links.len() {
            let index = (first + n) % links.len();
            let deadline = now() + timeout;
            match start(&links[index], Call::new(kind.clone(), deadline)).await {
                Ok((kind, _)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(kind);
                }
                Err(error) if error.status().is_some() => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Closes all connections.
    pub(crate) fn close(&self) {
        self.links.load().iter().for_each(Link::close);
    }
}

/// Links to storage nodes, one each, made when first needed.
pub(crate) struct Peers {
    dialer: Dialer,
    links: Mutex<HashMap<NodeId, Link>>,
}

impl Peers {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, links: Mutex::new(HashMap::new()) }
    }

    /// Asks the node that lives at `addr`; a body of at most `response_max` bytes may come back, unverified.
    pub(crate) async fn call(
        &self,
        node: NodeId,
        addr: &str,
        kind: Kind,
        timeout: Duration,
        response_max: u64,
    ) -> Result<(response::Kind, Bytes), CallError> {
        let link = self.link(node, addr);
        let call = Call { verify_body: false, response_max, ..Call::new(kind, now() + timeout) };
        start(&link, call).await
    }

    /// As [`Peers::call`], with a body and without one in the answer.
    pub(crate) async fn call_with(
        &self,
        node: NodeId,
        addr: &str,
        kind: Kind,
        body: Bytes,
        timeout: Duration,
    ) -> Result<response::Kind, CallError> {
        let link = self.link(node, addr);
        let call = Call { body: Body::from_bytes(body), ..Call::new(kind, now() + timeout) };
        start(&link, call).await.map(|(kind, _)| kind)
    }

    /// Forgets all but these nodes: their connections close.
    pub(crate) fn retain(&self, keep: impl Fn(NodeId) -> bool) {
        self.links.lock().retain(|node, link| {
            let keep = keep(*node);
            if !keep {
                link.close();
            }
            keep
        });
    }

    /// Closes all connections.
    pub(crate) fn close(&self) {
        self.retain(|_| false);
    }

    fn link(&self, node: NodeId, addr: &str) -> Link {
        let mut links = self.links.lock();
        if let Some(link) = links.get(&node).filter(|link| link.addr() == addr) {
            return link.clone();
        }
        let link = self.dialer.link(addr, node);
        if let Some(old) = links.insert(node, link.clone()) {
            old.close();
        }
        link
    }
}
