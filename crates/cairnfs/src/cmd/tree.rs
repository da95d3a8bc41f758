//! `cairn tree`.

use std::{borrow::Cow, ffi::OsStr, mem, os::unix::ffi::OsStrExt, path::PathBuf, vec};

use cairn_client::{DfsClient, DirEntry, FileKind, Metadata};
use serde::Serialize;

use super::{Complaints, facts::sorted_dir};
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::Out,
    text,
};

/// A directory that is being written, and what is left of it.
struct Level {
    path: PathBuf,
    left: vec::IntoIter<DirEntry>,
    begun: bool,
}

#[derive(Serialize)]
struct Node<'a> {
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_hex: Option<String>,
    kind: &'static str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Cow<'a, str>>,
}

/// Runs the command. Entries are written as they come; only the levels above the current one are held.
pub async fn run(args: args::Tree, context: &Context, out: &mut Out) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let client = context.connect().await?;
    let found = client.metadata(&args.path).await;
    let metadata = found.map_err(|error| Failure::client(&args.path, &error))?;
    let mut complaints = Complaints::new("tree");
    let mut walk = Walk { client: &client, args: &args, levels: Vec::new(), directories: 0, files: 0 };
    walk.entry(args.path.as_os_str(), &metadata, out)?;
    walk.descend(args.path.clone(), metadata.kind, &mut complaints, out).await?;
    while let Some(level) = walk.levels.last_mut() {
        let Some(entry) = level.left.next() else {
            walk.levels.pop();
            if args.json {
                out.text("]}")?;
            }
            continue;
        };
        let path = level.path.join(&entry.name);
        walk.entry(&entry.name, &entry.metadata, out)?;
        walk.descend(path, entry.kind, &mut complaints, out).await?;
    }
    out.line("")?;
    if !args.json {
        // The root is not counted among what is in it.
        let directories = text::count(walk.directories.saturating_sub(1), "directory");
        out.line(format_args!("{directories}, {}", text::count(walk.files, "file")))?;
    }
    client.close().await;
    complaints.end()
}

struct Walk<'a> {
    client: &'a DfsClient,
    args: &'a args::Tree,
    levels: Vec<Level>,
    directories: u64,
    files: u64,
}

impl Walk<'_> {
    /// Writes an entry of the innermost level; in JSON without its closing brace.
    fn entry(&mut self, name: &OsStr, metadata: &Metadata, out: &mut Out) -> Result<(), Failure> {
        match metadata.kind {
            FileKind::Directory => self.directories += 1,
            _ => self.files += 1,
        }
        let first = self.levels.last_mut().is_none_or(|level| !mem::replace(&mut level.begun, true));
        if self.args.json {
            return out.text(format_args!("{}{}", if first { "" } else { ",\n" }, json(name, metadata)));
        }
        if let Some((innermost, outer)) = self.levels.split_last() {
            for level in outer {
                out.text(if level.left.len() > 0 { "│   " } else { "    " })?;
            }
            out.text(if innermost.left.len() > 0 { "├── " } else { "└── " })?;
        }
        out.name(name)?;
        if let Some(target) = &metadata.target {
            out.text(" -> ")?;
            out.name(target.as_os_str())?;
        }
        out.line("")
    }

    /// Opens the level below an entry that was just written, or ends the entry.
    async fn descend(
        &mut self,
        path: PathBuf,
        kind: FileKind,
        complaints: &mut Complaints,
        out: &mut Out,
    ) -> Result<(), Failure> {
        let deep_enough = self.args.level.is_some_and(|level| self.levels.len() >= level);
        if kind == FileKind::Directory
            && !deep_enough
            && let Some(mut entries) = complaints.hear(sorted_dir(self.client, &path).await)?
        {
            if self.args.directories {
                entries.retain(|entry| entry.kind == FileKind::Directory);
            }
            self.levels.push(Level { path, left: entries.into_iter(), begun: false });
            return if self.args.json { out.text(",\"children\":[") } else { Ok(()) };
        }
        if self.args.json { out.text("}") } else { Ok(()) }
    }
}

/// A node in JSON without its closing brace.
fn json(name: &OsStr, metadata: &Metadata) -> String {
    let node = Node {
        name: name.to_string_lossy(),
        name_hex: name.to_str().is_none().then(|| text::hex(name.as_bytes())),
        kind: text::kind(metadata.kind),
        size: metadata.size,
        target: metadata.target.as_ref().map(|target| target.to_string_lossy()),
    };
    let mut json = serde_json::to_string(&node).expect("text and numbers are JSON");
    json.pop();
    json
}
