//! `cairn ls`.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use cairn_client::{DfsClient, ErrorKind, FileKind, Metadata};

use super::{
    Complaints,
    facts::{FileJson, sorted_dir},
};
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{Align, JsonArray, Out, Table},
    text,
};

/// How entries are written.
struct Style {
    long: bool,
    human_readable: bool,
    json: Option<JsonArray>,
}

/// One entry: its name as it is shown, and where it is.
struct Entry {
    shown: OsString,
    path: PathBuf,
    metadata: Metadata,
}

/// Runs the command: first the files among the paths, then the directories with what they hold.
pub async fn run(args: args::Ls, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("ls");
    let json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    let mut style = Style { long: args.long, human_readable: args.human_readable, json };
    let mut files = Vec::new();
    let mut dirs = Vec::new();
    let headed = args.recursive || args.paths.len() > 1;
    for path in args.paths {
        let Some(metadata) = complaints.hear(look(&client, &path, args.long || args.directory).await)? else {
            continue;
        };
        if metadata.kind == FileKind::Directory && !args.directory {
            dirs.push(path);
        } else {
            files.push(Entry { shown: path.clone().into_os_string(), path, metadata });
        }
    }
    style.write(&files, out)?;
    let mut first = files.is_empty();
    // The next directory is the last of the stack.
    dirs.reverse();
    while let Some(dir) = dirs.pop() {
        let Some(entries) = complaints.hear(sorted_dir(&client, &dir).await)? else { continue };
        if headed && style.json.is_none() {
            if !first {
                out.line("")?;
            }
            out.name(dir.as_os_str())?;
            out.line(":")?;
        }
        first = false;
        let entry = |entry: cairn_client::DirEntry| Entry {
            path: dir.join(&entry.name),
            shown: entry.name,
            metadata: entry.metadata,
        };
        let entries: Vec<Entry> = entries.into_iter().map(entry).collect();
        style.write(&entries, out)?;
        if args.recursive {
            let below = entries.into_iter().filter(|entry| entry.metadata.kind == FileKind::Directory);
            dirs.extend(below.map(|entry| entry.path).rev());
        }
    }
    if let Some(json) = style.json {
        json.end(out)?;
    }
    client.close().await;
    complaints.end()
}

/// What a path of the command line is. A link to a directory is that directory, unless the link itself is asked for.
async fn look(client: &DfsClient, path: &Path, itself: bool) -> Result<Metadata, Failure> {
    let failed = |error| Failure::client(path, &error);
    if !itself || path.as_os_str().as_bytes().ends_with(b"/") {
        match client.metadata(path).await {
            // A link that leads nowhere is there nevertheless.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map_err(failed),
        }
    }
    client.symlink_metadata(path).await.map_err(failed)
}

impl Style {
    fn write(&mut self, entries: &[Entry], out: &mut Out) -> Result<(), Failure> {
        if let Some(json) = &mut self.json {
            return entries
                .iter()
                .try_for_each(|entry| json.element(out, &FileJson::new(&entry.path, &entry.metadata)));
        }
        if !self.long {
            return entries.iter().try_for_each(|entry| {
                out.name(&entry.shown)?;
                out.line("")
            });
        }
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
        for Entry { metadata, .. } in entries {
            table.row([
                text::mode(metadata.kind, metadata.mode),
                metadata.nlink.to_string(),
                metadata.uid.to_string(),
                metadata.gid.to_string(),
                text::size(metadata.size, self.human_readable),
                text::minute(metadata.mtime_ns),
            ]);
        }
        for (line, entry) in table.lines().into_iter().zip(entries) {
            out.text(line)?;
            out.text("  ")?;
            out.name(&entry.shown)?;
            if let Some(target) = &entry.metadata.target {
                out.text(" -> ")?;
                out.name(target.as_os_str())?;
            }
            out.line("")?;
        }
        Ok(())
    }
}
