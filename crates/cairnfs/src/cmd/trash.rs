//! `cairn trash`: what was removed and is still there.

use std::path::Path;

use cairn_client::{DfsClient, FileKind, TrashEntry};
use serde::Serialize;

use super::Complaints;
use crate::{
    args::{self, TrashWhat},
    context::{Context, remote_path},
    failure::Failure,
    output::{Align, JsonArray, JsonPath, Out, Table},
    text,
};

/// An entry in JSON.
#[derive(Debug, Serialize)]
struct EntryJson<'a> {
    id: String,
    #[serde(flatten)]
    path: Option<JsonPath>,
    kind: &'static str,
    size: u64,
    removed: String,
    until: String,
    who: &'a str,
}

/// What names an entry on the command line.
fn id(entry: &TrashEntry) -> String {
    format!("{:x}-{:x}", entry.inode, entry.since_ns)
}

fn time(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// Where it was, as far as that is known.
fn shown(entry: &TrashEntry) -> String {
    match &entry.path {
        Some(path) => text::path(path),
        None => format!("?/{}", text::path(Path::new(&entry.name))),
    }
}

fn is_below(entry: &TrashEntry, path: &Path) -> bool {
    path == Path::new("/") || entry.path.as_deref().is_some_and(|of| of.starts_with(path))
}

/// Runs the command.
pub async fn run(args: args::Trash, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    let done = match args.what {
        TrashWhat::Ls(args) => list(&client, &args, out).await,
        TrashWhat::Restore(args) => restore(&client, &args, out).await,
        TrashWhat::Empty(args) => empty(&client, &args).await,
    };
    client.close().await;
    done
}

async fn entries(client: &DfsClient) -> Result<Vec<TrashEntry>, Failure> {
    client.list_trash().await.map_err(|error| Failure::cluster(&error))
}

async fn list(client: &DfsClient, args: &args::TrashLs, out: &mut Out) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let mut entries = entries(client).await?;
    entries.retain(|entry| is_below(entry, &args.path));
    if args.json {
        let mut json = JsonArray::begin(out)?;
        for entry in &entries {
            let element = EntryJson {
                id: id(entry),
                path: entry.path.as_deref().map(JsonPath::from),
                kind: text::kind(entry.kind),
                size: entry.size,
                removed: text::rfc3339(time(entry.since_ns)),
                until: text::rfc3339(time(entry.until_ns)),
                who: &entry.who,
            };
            json.element(out, &element)?;
        }
        return json.end(out);
    }
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left, Align::Right, Align::Left]);
    table.row(["ID", "REMOVED", "UNTIL", "SIZE", "PATH"].map(str::to_owned));
    for entry in &entries {
        let size = if entry.kind == FileKind::Directory { "-".to_owned() } else { text::human(entry.size) };
        let slash = if entry.kind == FileKind::Directory { "/" } else { "" };
        let (since, until) = (text::minute(time(entry.since_ns)), text::minute(time(entry.until_ns)));
        table.row([id(entry), since, until, size, shown(entry) + slash]);
    }
    for line in table.lines() {
        out.line(line)?;
    }
    let bytes: u64 = entries.iter().map(|entry| entry.size).sum();
    let dirs = entries.iter().filter(|entry| entry.kind == FileKind::Directory).count() as u64;
    let in_dirs =
        if dirs == 0 { String::new() } else { format!(", and what is in {}", text::count(dirs, "directory")) };
    out.line(format_args!("{} in {}{in_dirs}", text::human(bytes), text::count(entries.len() as u64, "entry")))
}

async fn restore(client: &DfsClient, args: &args::TrashRestore, out: &mut Out) -> Result<(), Failure> {
    if let Some(to) = &args.to {
        remote_path(to)?;
    }
    let entries = entries(client).await?;
    let found = entries
        .iter()
        .rev()
        .find(|entry| id(entry) == args.what || entry.path.as_deref() == Some(Path::new(&args.what)));
    let Some(entry) = found else {
        return Err(Failure::at(&args.what, "not in the trash (`cairn trash ls` lists what is)"));
    };
    let restored = client.restore_trash(entry, args.to.as_deref(), args.parents).await;
    restored.map_err(|error| Failure::named(&args.what, &error))?;
    match args.to.as_deref().or(entry.path.as_deref()) {
        Some(place) => out.line(text::path(place)),
        None => out.line(shown(entry)),
    }
}

async fn empty(client: &DfsClient, args: &args::TrashEmpty) -> Result<(), Failure> {
    let entries = entries(client).await?;
    let mut complaints = Complaints::new("trash");
    let mut drop = async |going: Vec<&TrashEntry>| {
        for entry in going {
            match client.empty_trash(entry).await {
                // It ran out meanwhile, or somebody else dropped it.
                Err(error) if error.kind() == cairn_client::ErrorKind::NotFound => {}
                done => {
                    complaints.hear(done.map_err(|error| Failure::named(id(entry), &error)))?;
                }
            }
        }
        Ok::<(), Failure>(())
    };
    if args.all {
        drop(entries.iter().collect()).await?;
    }
    for what in &args.what {
        let named =
            |entry: &&TrashEntry| id(entry) == *what || (what.starts_with('/') && is_below(entry, Path::new(what)));
        let going: Vec<&TrashEntry> = entries.iter().filter(named).collect();
        if going.is_empty() {
            return Err(Failure::at(what, "not in the trash (`cairn trash ls` lists what is)"));
        }
        drop(going).await?;
    }
    complaints.end()
}
