//! `cairn watch`: what changes, as it happens.

use std::path::Path;

use cairn_client::{Changes, FileKind, WatchOptions, WatchedChange, WatchedKind};
use serde::Serialize;

use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonPath, Out, say},
    text,
};

/// A change in JSON.
#[derive(Debug, Serialize)]
struct ChangeJson {
    change: &'static str,
    #[serde(flatten)]
    path: Option<JsonPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<JsonPath>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    what: Vec<&'static str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    moved: bool,
    inode: u64,
    kind: &'static str,
    time: String,
    cursor: String,
}

fn word(kind: &WatchedKind) -> &'static str {
    match kind {
        WatchedKind::Created { .. } => "created",
        WatchedKind::Removed { .. } => "removed",
        WatchedKind::Renamed { .. } => "renamed",
        WatchedKind::Changed { .. } => "changed",
    }
}

/// What of it changed.
fn what(kind: &WatchedKind) -> Vec<&'static str> {
    let WatchedKind::Changed { content, attributes, xattrs } = kind else { return Vec::new() };
    let words = [(*content, "content"), (*attributes, "attributes"), (*xattrs, "xattrs")];
    words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect()
}

fn is_moved(kind: &WatchedKind) -> bool {
    matches!(kind, WatchedKind::Created { moved: true } | WatchedKind::Removed { moved: true })
}

fn name(path: Option<&Path>, inode: u64, out: &mut Out) -> Result<(), Failure> {
    match path {
        Some(path) => out.name(path.as_os_str()),
        None => out.text(format_args!("(inode {inode}; its path is not known any more)")),
    }
}

fn write(change: &WatchedChange, out: &mut Out) -> Result<(), Failure> {
    out.text(format_args!("{:7} ", word(&change.kind)))?;
    if let WatchedKind::Renamed { from } = &change.kind {
        name(from.as_deref(), change.inode, out)?;
        out.text(" -> ")?;
    }
    name(change.path.as_deref(), change.inode, out)?;
    if change.file_kind == FileKind::Directory {
        out.text("/")?;
    }
    if is_moved(&change.kind) {
        out.text(" (moved)")?;
    }
    let what = what(&change.kind);
    if !what.is_empty() {
        out.text(format_args!(" ({})", what.join(", ")))?;
    }
    out.line("")
}

fn json(change: &WatchedChange, changes: &Changes) -> ChangeJson {
    ChangeJson {
        change: word(&change.kind),
        path: change.path.as_deref().map(JsonPath::from),
        from: match &change.kind {
            WatchedKind::Renamed { from } => from.as_deref().map(JsonPath::from),
            _ => None,
        },
        what: what(&change.kind),
        moved: is_moved(&change.kind),
        inode: change.inode,
        kind: text::kind(change.file_kind),
        time: text::rfc3339(change.time_ns),
        cursor: changes.cursor().to_string(),
    }
}

/// Runs the command, until it is interrupted or has told as many changes as asked for.
pub async fn run(args: args::Watch, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let path = &args.path;
    remote_path(path)?;
    let client = context.connect().await?;
    let options = WatchOptions { since: args.since, oldest: args.oldest, ..WatchOptions::default() };
    let mut changes = client.watch_with(path, options).await.map_err(|error| Failure::client(path, &error))?;
    if !args.json {
        say(format_args!("watching {}", text::path(path)));
    }
    let mut told = 0;
    while args.count.is_none_or(|count| told < count) {
        let change = changes.next_change().await.map_err(|error| Failure::client(path, &error))?;
        told += 1;
        if args.json {
            out.json_line(&json(&change, &changes))?;
        } else {
            write(&change, out)?;
        }
        out.flush()?;
    }
    if !args.json {
        say(format_args!("go on with --since {}", changes.cursor()));
    }
    client.close().await;
    Ok(())
}
