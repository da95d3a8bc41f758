//! First claim: a connection that is kept is worth much more than one that is made for every operation.
//!
//! Requests for 4 KiB through the product's own connection layer (`Link`) to its own server loop, in one process: once
//! over one `Link` that keeps its connection, once with a `Link` for each request (dial, TLS, HELLO, request, close).

use super::tls::{Sessions, TlsNet};
use crate::sample::{Latency, LatencyReport, spread};
use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{
    Body, Call, Handler, Identity, Link, LinkConfig, Net, RequestContext, ServerConfig, SharedIdentity, TcpNet, serve,
};
use cairn_proto::pb::{self, request, response};
use cairn_proto::status::Status;
use cairn_proto::{BootId, NodeId};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const BODY_LEN: usize = 4096;
const OPERATION_MAX: Duration = Duration::from_secs(10);

/// How connections are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Kept,
    Fresh,
}

/// One way to measure: a network, and how connections on it are used.
const WAYS: [(&str, Transport, Use); 5] = [
    ("tcp_reused", Transport::Tcp, Use::Kept),
    ("tcp_fresh", Transport::Tcp, Use::Fresh),
    ("tls_reused", Transport::Tls(Sessions::Whole), Use::Kept),
    ("tls_fresh", Transport::Tls(Sessions::Whole), Use::Fresh),
    ("tls_fresh_resumed", Transport::Tls(Sessions::Resumed), Use::Fresh),
];
/// Ratios of rates: how many times faster the first is than the second.
const RATIOS: [(&str, &str, &str); 3] = [
    ("tcp: reused / fresh", "tcp_reused", "tcp_fresh"),
    ("tls: reused / fresh", "tls_reused", "tls_fresh"),
    ("tls: reused / fresh with a resumed session", "tls_reused", "tls_fresh_resumed"),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Tls(Sessions),
}

impl Transport {
    fn net(self) -> Result<Arc<dyn Net>> {
        Ok(match self {
            Self::Tcp => Arc::new(TcpNet),
            Self::Tls(sessions) => Arc::new(TlsNet::new(sessions)?),
        })
    }
}

/// One way's figures over all rounds.
#[derive(Serialize)]
pub struct WayReport {
    name: &'static str,
    /// Operations per second of each round.
    pub rates: Vec<f64>,
    latency: LatencyReport,
}

/// Two ways beside each other.
#[derive(Serialize)]
pub struct Ratio {
    /// What over what.
    pub name: &'static str,
    /// Of the rounds' ratios.
    pub min: f64,
    /// What to quote.
    pub median: f64,
    /// Of the rounds' ratios.
    pub max: f64,
}

/// The claim's part of the report.
#[derive(Serialize)]
pub struct Report {
    operations_per_round: usize,
    body_bytes: usize,
    ways: Vec<WayReport>,
    /// First over second, see `name`.
    pub ratios: Vec<Ratio>,
}

/// Answers every request with the same bytes.
struct Source(Body);

#[async_trait]
impl Handler for Source {
    async fn handle(
        &self,
        _ctx: &RequestContext,
        _request: pb::Request,
        _body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        Ok((response::Kind::Get(pb::GetBlockReply::default()), self.0.clone()))
    }
}

/// A server and a way to it.
struct Stage {
    net: Arc<dyn Net>,
    addr: String,
    identity: SharedIdentity,
    config: Arc<LinkConfig>,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

impl Stage {
    async fn new(transport: Transport) -> Result<Self> {
        let net = transport.net()?;
        let listener = net.bind("127.0.0.1:0").await.context("listening on loopback")?;
        let addr = listener.local_addr().context("listening on loopback")?.to_string();
        let identity = Identity::client(BootId([1; 16])).shared();
        let stop = CancellationToken::new();
        let source = Arc::new(Source(Body::from_bytes(vec![7; BODY_LEN].into())));
        let config = ServerConfig::new(Arc::clone(&identity));
        let server = tokio::spawn(serve(listener, source, config, stop.clone()));
        Ok(Self { net, addr, identity, config: Arc::new(LinkConfig::default()), stop, server })
    }

    fn link(&self) -> Link {
        let (net, identity, config) = (Arc::clone(&self.net), Arc::clone(&self.identity), Arc::clone(&self.config));
        Link::new(net, self.addr.clone(), NodeId(0), identity, config, 1)
    }

    async fn end(self) {
        self.stop.cancel();
        let _ = self.server.await;
    }
}

async fn one(link: &Link) -> Result<()> {
    let deadline = tokio::time::Instant::now() + OPERATION_MAX;
    let reply = link.start(Call::new(request::Kind::Get(pb::GetBlock::default()), deadline)).await?;
    ensure!(reply.body.len() == BODY_LEN, "the answer has {} bytes", reply.body.len());
    Ok(())
}

/// Operations one after the other; the rate, and each one's time.
async fn measure(stage: &Stage, connections: Use, operations: usize) -> Result<(f64, Latency)> {
    let kept = stage.link();
    one(&kept).await?;
    let mut latency = Latency::new();
    let begin = Instant::now();
    for _ in 0..operations {
        let began = Instant::now();
        match connections {
            Use::Kept => one(&kept).await?,
            Use::Fresh => one(&stage.link()).await?,
        }
        latency.record(began.elapsed());
    }
    Ok((operations as f64 / begin.elapsed().as_secs_f64(), latency))
}

/// Measures every way in each round.
///
/// # Errors
/// Loopback or TLS failed.
pub async fn run(rounds: u32, operations: usize) -> Result<Report> {
    let mut stages = Vec::new();
    let mut ways = Vec::new();
    for (name, transport, _) in WAYS {
        stages.push(Stage::new(transport).await?);
        ways.push((name, Vec::new(), Latency::new()));
    }
    for _ in 0..rounds {
        for ((stage, (.., connections)), (name, rates, latencies)) in stages.iter().zip(WAYS).zip(&mut ways) {
            let (rate, latency) = measure(stage, connections, operations).await.with_context(|| (*name).to_owned())?;
            eprintln!("{name:24} {rate:>12.1} op/s");
            rates.push(rate);
            latencies.add(&latency);
        }
    }
    for stage in stages {
        stage.end().await;
    }
    let ways: Vec<WayReport> =
        ways.into_iter().map(|(name, rates, latency)| WayReport { name, rates, latency: latency.report() }).collect();
    let ratios = ratios(&ways).context("no rounds")?;
    Ok(Report { operations_per_round: operations, body_bytes: BODY_LEN, ways, ratios })
}

/// `None` without rounds.
fn ratios(ways: &[WayReport]) -> Option<Vec<Ratio>> {
    let rates = |wanted: &str| ways.iter().find(|way| way.name == wanted).map(|way| &way.rates);
    RATIOS
        .into_iter()
        .map(|(name, above, below)| {
            let by_round: Vec<f64> = rates(above)?.iter().zip(rates(below)?).map(|(a, b)| a / b).collect();
            let (min, median, max) = spread(&by_round)?;
            Some(Ratio { name, min, median, max })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_formed_within_a_round() {
        let way = |name, rates: &[f64]| WayReport { name, rates: rates.to_vec(), latency: Latency::new().report() };
        let ways = [
            way("tcp_reused", &[10.0, 90.0, 20.0]),
            way("tcp_fresh", &[5.0, 10.0, 10.0]),
            way("tls_reused", &[1.0]),
            way("tls_fresh", &[1.0]),
            way("tls_fresh_resumed", &[0.5]),
        ];
        let ratios = ratios(&ways).unwrap();
        assert_eq!((ratios[0].min, ratios[0].median, ratios[0].max), (2.0, 2.0, 9.0));
        assert!((ratios[2].median - 2.0).abs() < 1e-9);
        assert!(super::ratios(&ways[..2]).is_none(), "a way that was not measured has no ratio");
    }

    #[tokio::test]
    async fn every_way_works_and_a_kept_connection_dials_once() {
        for (name, transport, _) in WAYS {
            let stage = Stage::new(transport).await.unwrap();
            let kept = stage.link();
            for _ in 0..3 {
                one(&kept).await.unwrap();
            }
            assert_eq!(kept.stats().dials, 1, "{name}");
            let (rate, _) = measure(&stage, Use::Fresh, 2).await.unwrap();
            assert!(rate > 0.0);
            stage.end().await;
        }
    }
}
