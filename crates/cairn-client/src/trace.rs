//! Spans of operations and legs, in the words of OpenTelemetry, and the trace context that legs carry to servers.
//!
//! An operation whose span somebody wants draws a trace and a span id; every leg that is begun inside of it, also by
//! tasks that were spawned with [`carry`], is a child of it and tells its server. When nobody listens, all of this costs
//! the look at a flag.

use crate::client::Inner;
use cairn_proto::trace::TraceParent;
use std::num::{NonZeroU64, NonZeroU128};
use std::path::Path;
use tracing::{Instrument, Span, field};

tokio::task_local! {
    /// The operation that the running task works for.
    static OPERATION: TraceParent;
}

/// Runs an operation of the caller in a span of its own.
pub(crate) async fn operation<T, E>(
    inner: &Inner,
    name: &'static str,
    path: &Path,
    error_type: impl Fn(&E) -> &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = tracing::debug_span!(
        "operation",
        otel.name = name,
        otel.kind = "internal",
        otel.status_code = field::Empty,
        error.r#type = field::Empty,
        cairn.path = field::Empty,
        trace_id = field::Empty,
        span_id = field::Empty,
    );
    if span.is_disabled() {
        return work.await;
    }
    let own = inner.draw_trace();
    span.record("cairn.path", field::display(path.display()));
    span.record("trace_id", field::display(format_args!("{:032x}", own.trace)));
    span.record("span_id", field::display(format_args!("{:016x}", own.span)));
    let result = OPERATION.scope(own, work).instrument(span.clone()).await;
    if let Err(error) = &result {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", error_type(error));
    }
    tracing::debug!(parent: &span, ok = result.is_ok(), "operation ended");
    result
}

/// Keeps the operation of the task that calls this around `work`, which is to be spawned.
pub(crate) fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let operation = OPERATION.try_get().ok();
    let span = Span::current();
    async move {
        match operation {
            Some(operation) => OPERATION.scope(operation, work).instrument(span).await,
            None => work.await,
        }
    }
}

/// The span of one leg.
pub(crate) struct LegSpan(Span);

/// What a leg is about.
pub(crate) struct LegFacts<'a> {
    pub(crate) op: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) node: u32,
    pub(crate) addr: &'a str,
    pub(crate) attempt: u8,
}

impl LegSpan {
    /// Begins the span, and says what the request is to carry: empty when nobody listens.
    pub(crate) fn begin(inner: &Inner, facts: &LegFacts<'_>) -> (Self, String) {
        let span = tracing::debug_span!(
            "leg",
            otel.name = facts.op,
            otel.kind = "client",
            otel.status_code = field::Empty,
            rpc.system = "cairn",
            rpc.method = facts.op,
            server.address = facts.addr,
            error.r#type = field::Empty,
            cairn.node = facts.node,
            cairn.leg.kind = facts.kind,
            cairn.attempt = facts.attempt,
            trace_id = field::Empty,
            span_id = field::Empty,
        );
        if span.is_disabled() {
            return (Self(span), String::new());
        }
        let drawn = inner.draw_trace();
        // Background work is a trace of its own.
        let trace = OPERATION.try_get().map_or(drawn.trace, |operation| operation.trace);
        let own = TraceParent { trace, ..drawn };
        span.record("trace_id", field::display(format_args!("{:032x}", own.trace)));
        span.record("span_id", field::display(format_args!("{:016x}", own.span)));
        (Self(span), own.to_string())
    }

    /// The leg ended.
    pub(crate) fn end(&self, outcome: &'static str) {
        if self.0.is_disabled() {
            return;
        }
        if outcome != "ok" && outcome != "cancelled" {
            self.0.record("otel.status_code", "ERROR");
            self.0.record("error.type", outcome);
        }
        tracing::debug!(parent: &self.0, outcome, "leg ended");
    }
}

impl Inner {
    /// A trace and a span that nobody has had before.
    fn draw_trace(&self) -> TraceParent {
        let mut random = self.trace_random.lock();
        TraceParent {
            trace: NonZeroU128::new(random.u128(1..)).expect("drawn above 0"),
            span: NonZeroU64::new(random.u64(1..)).expect("drawn above 0"),
            sampled: true,
        }
    }
}
