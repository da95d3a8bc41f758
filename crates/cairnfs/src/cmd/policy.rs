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
    #[serde(skip_serializing_if = "is_zero")]
    trash_s: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl PolicyJson {
    fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: JsonPath::from(path),
            replicas: metadata.replicas.into(),
            block_len: metadata.block_len.into(),
            durability: durability(metadata),
            trash_s: metadata.trash_s,
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
    let trash = match metadata.trash_s {
        0 => String::new(),
        seconds => format!(", trash kept for {}", text::seconds(seconds)),
    };
    out.line(format_args!(": {replicas}, blocks of {blocks}, {}{trash}", durability(metadata)))
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
        trash_s: args.trash.map(|trash| trash.seconds),
    };
    if change == PolicyChange::default() {
        return Err(Failure::usage(
            "policy set",
            "say what to change: --replicas, --block-size, --durability, --trash",
        ));
    }
    let client = context.connect().await?;
    let changed = client.set_policy(path, change).await.map_err(|error| Failure::policy(path, &error));
    client.close().await;
    let metadata = changed?;
    if args.json { out.json(&PolicyJson::new(path, &metadata)) } else { write(path, &metadata, out) }
}
