//! `cairn snapshot`: directories as they were.

use std::{
    ffi::{OsStr, OsString},
    time::{SystemTime, UNIX_EPOCH},
};

use cairn_client::Snapshot;
use serde::Serialize;

use super::Complaints;
use crate::{
    args::{self, SnapshotWhat},
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonArray, JsonPath, Out},
    text,
};

/// A snapshot in JSON.
#[derive(Debug, Serialize)]
struct SnapshotJson {
    number: u64,
    /// The directory.
    #[serde(flatten)]
    path: JsonPath,
    /// Absent of a hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    taken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    owner: String,
    /// Absent when it stays until it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl From<&Snapshot> for SnapshotJson {
    fn from(snapshot: &Snapshot) -> Self {
        Self {
            number: snapshot.number,
            path: JsonPath::from(snapshot.path.as_path()),
            name: snapshot.name.as_ref().map(|name| name.to_string_lossy().into_owned()),
            taken: text::rfc3339(snapshot.taken_ns),
            owner: snapshot.owner.clone(),
            ttl_ms: snapshot.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// The name of a snapshot taken at `time_ns`: the time, without colons, which many tools take for something else.
fn name_of_time(time_ns: i64) -> OsString {
    text::rfc3339(time_ns).split('.').next().unwrap_or_default().trim_end_matches('Z').replace(':', ".").into()
}

/// Runs the command.
pub async fn run(args: args::Snapshot, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.what {
        SnapshotWhat::Create(args) => create(args, context, out).await,
        SnapshotWhat::Ls(args) => list(args, context, out).await,
        SnapshotWhat::Rm(args) => remove(args, context).await,
    }
}

async fn create(args: args::SnapshotCreate, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let path = &args.path;
    remote_path(path)?;
    let name = args.name.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut name = name_of_time(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX));
        name.push("Z");
        name
    });
    let client = context.connect().await?;
    let taken = client.snapshot(path, &name).await.map_err(|error| Failure::client(path, &error));
    client.close().await;
    let snapshot = taken?;
    if args.json {
        return out.json(&SnapshotJson::from(&snapshot));
    }
    out.name(snapshot.location().unwrap_or_default().as_os_str())?;
    out.line(format_args!(""))
}

async fn list(args: args::SnapshotLs, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let path = args.path.as_deref();
    path.map_or(Ok(()), remote_path)?;
    let client = context.connect().await?;
    let found = client.snapshots(path, args.all).await;
    client.close().await;
    let snapshots = found.map_err(|error| Failure::client(path.unwrap_or("/".as_ref()), &error))?;
    if args.json {
        let mut json = JsonArray::begin(out)?;
        for snapshot in &snapshots {
            json.element(out, &SnapshotJson::from(snapshot))?;
        }
        return json.end(out);
    }
    for snapshot in &snapshots {
        let place = snapshot.location().unwrap_or_else(|| snapshot.path.clone());
        out.text(format_args!("{}  ", text::minute(snapshot.taken_ns)))?;
        out.name(place.as_os_str())?;
        out.line(format_args!("{}", note(snapshot)))?;
    }
    Ok(())
}

/// What else there is to say of a snapshot, behind its place.
fn note(snapshot: &Snapshot) -> String {
    let mut note = String::new();
    if snapshot.name.is_none() {
        note.push_str("  (hold)");
    }
    if !snapshot.owner.is_empty() {
        note.push_str(&format!("  for {}", text::bytes(snapshot.owner.as_bytes())));
    }
    if let Some(ttl) = snapshot.ttl {
        note.push_str(&format!("  ends {} s after its last renewal", ttl.as_secs()));
    }
    note
}

async fn remove(args: args::SnapshotRm, context: &Context) -> Result<(), Failure> {
    let path = &args.path;
    remote_path(path)?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("snapshot");
    for name in &args.names {
        let place = path.join(".snapshots").join(OsStr::new(name));
        let removed = client.delete_snapshot(path, name).await.map_err(|error| Failure::client(&place, &error));
        complaints.hear(removed)?;
    }
    client.close().await;
    complaints.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_without_a_name_is_called_by_its_time() {
        assert_eq!(name_of_time(1_772_352_900_000_000_000), "2026-03-01T08.15.00");
        assert_eq!(name_of_time(1_772_352_900_123_456_789), "2026-03-01T08.15.00");
    }
}
