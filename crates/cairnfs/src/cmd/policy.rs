//! `cairn policy`: how files in a directory are stored.

use std::path::Path;

use cairn_client::{Metadata, PolicyChange};
use serde::Serialize;

use super::Complaints;
use crate::{
    args::{self, PolicyWhat},
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonArray, JsonPath, Out},
    settings::DurabilityName,
    text,
};

/// A policy in JSON.
#[derive(Debug, Serialize)]
struct PolicyJson {
    #[serde(flatten)]
    path: JsonPath,
    replicas: u64,
    block_len: u64,
    durability: &'static str,
}

impl PolicyJson {
    fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: JsonPath::from(path),
            replicas: metadata.replicas.into(),
            block_len: metadata.block_len.into(),
            durability: durability(metadata),
        }
    }
}

/// The word for when writes are acknowledged.
pub(super) fn durability(metadata: &Metadata) -> &'static str {
    if metadata.relaxed { "relaxed" } else { "durable" }
}

fn write(path: &Path, metadata: &Metadata, out: &mut Out) -> Result<(), Failure> {
    out.name(path.as_os_str())?;
    let replicas = text::count(metadata.replicas.into(), "replica");
    let blocks = text::human(metadata.block_len.into());
    out.line(format_args!(": {replicas}, blocks of {blocks}, {}", durability(metadata)))
}

/// Runs the command.
pub async fn run(args: args::Policy, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.what {
        PolicyWhat::Get(args) => get(args, context, out).await,
        PolicyWhat::Set(args) => set(args, context, out).await,
    }
}

async fn get(args: args::PolicyGet, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("policy");
    let mut json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    for path in &args.paths {
        let found = client.metadata(path).await.map_err(|error| Failure::client(path, &error));
        let Some(metadata) = complaints.hear(found)? else { continue };
        match &mut json {
            Some(json) => json.element(out, &PolicyJson::new(path, &metadata))?,
            None => write(path, &metadata, out)?,
        }
    }
    if let Some(json) = json {
        json.end(out)?;
    }
    client.close().await;
    complaints.end()
}

async fn set(args: args::PolicySet, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let path = &args.path;
    remote_path(path)?;
    let replicas = args.replicas.map(|replicas| u32::try_from(replicas.get()).expect("bounded by its type"));
    let change = PolicyChange {
        replicas,
        block_len: args.block_size.map(|size| size.0),
        relaxed: args.durability.map(|durability| durability == DurabilityName::Relaxed),
    };
    if change == PolicyChange::default() {
        return Err(Failure::usage("policy set", "say what to change: --replicas, --block-size, --durability"));
    }
    let client = context.connect().await?;
    let changed = client.set_policy(path, change).await.map_err(|error| Failure::policy(path, &error));
    client.close().await;
    let metadata = changed?;
    if args.json { out.json(&PolicyJson::new(path, &metadata)) } else { write(path, &metadata, out) }
}
