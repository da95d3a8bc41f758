//! Spans: one for each operation, leg and request, joined by one trace id.

use super::cluster::Cluster;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// A span as it was when the test looked.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name(), value.to_owned());
    }
}

/// Collects the spans of this workspace.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<BTreeMap<u64, Seen>>>);

impl<S: tracing::Subscriber> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut seen = Seen { name: attributes.metadata().name(), fields: BTreeMap::new() };
        attributes.record(&mut seen);
        self.0.lock().insert(id.into_u64(), seen);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        if let Some(seen) = self.0.lock().get_mut(&id.into_u64()) {
            values.record(seen);
        }
    }
}

impl Collector {
    fn named(&self, name: &str, method: Option<&str>) -> Vec<Seen> {
        let is_it = |seen: &&Seen| {
            seen.name == name && method.is_none_or(|method| seen.fields.get("rpc.method").is_some_and(|m| m == method))
        };
        self.0.lock().values().filter(is_it).cloned().collect()
    }
}

/// Everything runs on one thread, so that its subscriber sees it all.
#[tokio::test]
async fn a_read_is_one_trace_from_the_caller_to_the_disk() {
    let collector = Collector::default();
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(collector.clone()));
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    let file = client.open_with("/x", cairn_client::OpenOptions::new().create(true)).await.unwrap();
    file.write_block(0, vec![1; 60_000]).await.unwrap();
    file.read_at(0, 60_000).await.unwrap();
    assert!(client.open_with("/nothing", cairn_client::OpenOptions::new().create(false)).await.is_err());
    // A span that was first met on the thread of another test, where nobody listens, is taken for unwanted for good, until
    // all that were met are judged anew by this thread.
    tracing::callsite::rebuild_interest_cache();
    collector.0.lock().clear();

    file.read_at(0, 60_000).await.unwrap();
    let operations = collector.named("operation", None);
    assert_eq!(operations.len(), 1, "{operations:?}");
    let operation = &operations[0].fields;
    assert_eq!(operation["otel.name"], "read_at");
    assert_eq!(operation["cairn.path"], "/x");
    let trace = &operation["trace_id"];
    assert!(trace.len() == 32 && !operation.contains_key("error.type"), "{operation:?}");

    // The read, and the look at the version beside it.
    let stats = client.get_connection_stats().await;
    for (leg_op, at_least) in [("get", 1), ("get_extents", 1)] {
        let legs = collector.named("leg", Some(leg_op));
        let ours: Vec<&Seen> = legs.iter().filter(|leg| leg.fields.get("trace_id") == Some(trace)).collect();
        assert!(ours.len() >= at_least && ours.len() == legs.len(), "{leg_op}: {legs:?}");
        for leg in ours {
            assert_eq!(leg.fields["rpc.system"], "cairn");
            assert_eq!(leg.fields["otel.kind"], "client");
            assert!(stats.nodes.iter().any(|node| node.addr == leg.fields["server.address"]), "{leg:?}");
            // The server's side of it names the leg as its parent.
            let requests = collector.named("request", Some(leg_op));
            let request = requests.iter().find(|r| r.fields.get("parent_span_id") == leg.fields.get("span_id"));
            let request = request.unwrap_or_else(|| panic!("no request for {leg:?} in {requests:?}"));
            assert_eq!(request.fields.get("trace_id"), Some(trace));
            assert_eq!(request.fields["otel.kind"], "server");
        }
    }

    // A write: the replicas' legs run in tasks of their own, and are of the same trace.
    collector.0.lock().clear();
    file.write_block(0, vec![2; 60_000]).await.unwrap();
    let operations = collector.named("operation", None);
    let trace = operations[0].fields.get("trace_id");
    let puts = collector.named("leg", Some("put"));
    assert_eq!(puts.len(), 3, "{puts:?}");
    assert!(puts.iter().all(|put| put.fields.get("trace_id") == trace), "{puts:?}");
    assert!(collector.named("leg", Some("commit")).iter().all(|commit| commit.fields.get("trace_id") == trace));

    // Failures say what they were.
    collector.0.lock().clear();
    assert!(client.open_with("/nothing", cairn_client::OpenOptions::new().create(false)).await.is_err());
    let failed = &collector.named("operation", None)[0].fields;
    assert_eq!((failed["error.type"].as_str(), failed["otel.status_code"].as_str()), ("not_found", "ERROR"));
    client.close().await;
    cluster.stop().await;
}

/// Without anybody who listens, requests carry no trace.
#[tokio::test]
async fn nobody_listens_and_nothing_is_drawn() {
    let collector = Collector::default();
    let filter = tracing_subscriber::filter::LevelFilter::INFO;
    let subscriber = tracing_subscriber::registry().with(collector.clone().with_filter(filter));
    let _guard = tracing::subscriber::set_default(subscriber);
    let cluster = Cluster::start().await;
    let client = cluster.client().await;
    client.open_with("/x", cairn_client::OpenOptions::new().create(true)).await.unwrap();
    assert!(collector.named("operation", None).is_empty() && collector.named("leg", None).is_empty());
    client.close().await;
    cluster.stop().await;
}
