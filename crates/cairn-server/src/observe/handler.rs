//! A handler around the role's own one.

use super::requests::RequestStats;
use async_trait::async_trait;
use bytes::Bytes;
use cairn_net::{Body, Handler, RequestContext};
use cairn_proto::pb::{self, response};
use cairn_proto::status::{Code, Status, code_name};
use cairn_proto::trace::TraceParent;
use cairn_proto::{NodeId, op};
use std::sync::Arc;
use tracing::{Instrument, Span, field};

/// Counts, times and traces every request, and hands it on.
pub(crate) struct Observed<H> {
    inner: Arc<H>,
    requests: Arc<RequestStats>,
    /// Number of this node, as it is known now; 0 = none.
    node: Box<dyn Fn() -> NodeId + Send + Sync>,
}

impl<H: Handler> Observed<H> {
    pub(crate) fn new(
        inner: Arc<H>,
        requests: Arc<RequestStats>,
        node: impl Fn() -> NodeId + Send + Sync + 'static,
    ) -> Self {
        Self { inner, requests, node: Box::new(node) }
    }

    /// The span of a request, in the words of OpenTelemetry's conventions for RPC servers. Disabled, it costs a look at
    /// a flag.
    fn span(&self, ctx: &RequestContext, request: &pb::Request) -> Span {
        let span = tracing::debug_span!(
            "request",
            otel.kind = "server",
            otel.status_code = field::Empty,
            rpc.system = "cairn",
            rpc.method = op::name(ctx.op),
            error.r#type = field::Empty,
            network.peer.address = field::Empty,
            trace_id = field::Empty,
            parent_span_id = field::Empty,
            cairn.node = field::Empty,
            cairn.attempt = ctx.attempt,
            cairn.hedge = ctx.hedge,
        );
        if span.is_disabled() {
            return span;
        }
        if let Some(addr) = ctx.peer.addr {
            span.record("network.peer.address", field::display(addr));
        }
        let node = (self.node)();
        if node != NodeId(0) {
            span.record("cairn.node", node.0);
        }
        // A trace that cannot be read is none: the request is served all the same.
        if let Some(parent) = TraceParent::parse(&request.trace_parent) {
            span.record("trace_id", field::display(format_args!("{:032x}", parent.trace)));
            span.record("parent_span_id", field::display(format_args!("{:016x}", parent.span)));
        }
        span
    }
}

#[async_trait]
impl<H: Handler> Handler for Observed<H> {
    async fn handle(
        &self,
        ctx: &RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
    ) -> Result<(response::Kind, Body), Status> {
        let span = self.span(ctx, &request);
        let request_bytes = body.iter().map(|part| part.len() as u64).sum();
        let watch = self.requests.begin(ctx.op, request_bytes, cairn_net::now());
        let outcome = self.inner.handle(ctx, request, body).instrument(span.clone()).await;
        let (code, response_bytes) = match &outcome {
            Ok((_, body)) => (Code::Ok, body.len()),
            Err(status) => (status.code, 0),
        };
        let micros = watch.end(code, response_bytes, cairn_net::now());
        if !span.is_disabled() {
            let outcome = code_name(code);
            if code != Code::Ok {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", outcome.as_str());
            }
            tracing::debug!(parent: &span, outcome, duration_us = micros, request_bytes, response_bytes, "answered");
        }
        outcome
    }

    fn pong(&self) -> pb::Pong {
        self.inner.pong()
    }
}
