//! `cairn truncate`, `cairn punch`, `cairn locks`: what concerns the content of files.

use std::path::Path;

use cairn_client::{DfsClient, File, LockInfo, LockMode, OpenOptions};
use serde::Serialize;

use super::Complaints;
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonArray, JsonPath, Out},
};

async fn existing(client: &DfsClient, path: &Path) -> Result<File, Failure> {
    client.open_with(path, OpenOptions::new().create(false)).await.map_err(|error| Failure::client(path, &error))
}

/// Runs `cairn truncate`.
pub async fn truncate(args: args::Truncate, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("truncate");
    for path in &args.paths {
        let done = async {
            let file = existing(&client, path).await?;
            file.truncate(args.size.0).await.map_err(|error| Failure::client(path, &error))
        };
        complaints.hear(done.await)?;
    }
    client.close().await;
    complaints.end()
}

/// Runs `cairn punch`.
pub async fn punch(args: args::Punch, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("punch");
    for path in &args.paths {
        let done = async {
            let file = existing(&client, path).await?;
            let range = args.offset.0..args.offset.0.saturating_add(args.length.0);
            file.punch_hole(range).await.map_err(|error| Failure::client(path, &error))
        };
        complaints.hear(done.await)?;
    }
    client.close().await;
    complaints.end()
}

/// A lock in JSON.
#[derive(Debug, Serialize)]
struct LockJson<'a> {
    #[serde(flatten)]
    path: JsonPath,
    kind: &'static str,
    mode: &'static str,
    state: &'static str,
    start: u64,
    /// Absent = without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
    client: &'a str,
    session: u64,
    owner: u64,
    pid: u32,
}

const fn kind(lock: &LockInfo) -> &'static str {
    if lock.whole_file { "flock" } else { "range" }
}

const fn mode(lock: &LockInfo) -> &'static str {
    match lock.mode {
        LockMode::Shared => "shared",
        LockMode::Exclusive => "exclusive",
    }
}

const fn state(lock: &LockInfo) -> &'static str {
    if lock.waiting { "waits" } else { "holds" }
}

fn end(lock: &LockInfo) -> Option<u64> {
    (lock.range.end != u64::MAX).then_some(lock.range.end)
}

fn write(path: &Path, lock: &LockInfo, out: &mut Out) -> Result<(), Failure> {
    out.name(path.as_os_str())?;
    let range = match end(lock) {
        Some(end) => format!("{}..{end}", lock.range.start),
        None => format!("{}..", lock.range.start),
    };
    out.text(format!(": {} {} {} {range}, ", state(lock), kind(lock), mode(lock)))?;
    out.name(lock.client.as_ref())?;
    out.line(format_args!(", process {}, session {}, owner {:#x}", lock.pid, lock.session.0, lock.owner))
}

/// Runs `cairn locks`.
pub async fn locks(args: args::Locks, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("locks");
    let mut json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    for path in &args.paths {
        let found = client.locks(path).await.map_err(|error| Failure::client(path, &error));
        for lock in complaints.hear(found)?.unwrap_or_default() {
            let Some(json) = &mut json else {
                write(path, &lock, out)?;
                continue;
            };
            let row = LockJson {
                path: JsonPath::from(path.as_path()),
                kind: kind(&lock),
                mode: mode(&lock),
                state: state(&lock),
                start: lock.range.start,
                end: end(&lock),
                client: &lock.client,
                session: lock.session.0,
                owner: lock.owner,
                pid: lock.pid,
            };
            json.element(out, &row)?;
        }
    }
    if let Some(json) = json {
        json.end(out)?;
    }
    client.close().await;
    complaints.end()
}
