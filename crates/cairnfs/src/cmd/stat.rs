//! `cairn stat`.

use std::path::Path;

use cairn_client::{FileKind, Metadata};

use super::{Complaints, facts::FileJson, policy::durability};
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::{JsonArray, Out},
    text,
};

/// Runs the command.
pub async fn run(args: args::Stat, context: &Context, out: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("stat");
    let mut json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    for path in &args.paths {
        let found = if args.dereference { client.metadata(path).await } else { client.symlink_metadata(path).await };
        let found = found.map_err(|error| Failure::client(path, &error));
        let Some(metadata) = complaints.hear(found)? else { continue };
        match &mut json {
            Some(json) => json.element(out, &FileJson::new(path, &metadata))?,
            None => write(path, &metadata, out)?,
        }
    }
    if let Some(json) = json {
        json.end(out)?;
    }
    client.close().await;
    complaints.end()
}

fn write(path: &Path, metadata: &Metadata, out: &mut Out) -> Result<(), Failure> {
    out.text("    Path: ")?;
    out.name(path.as_os_str())?;
    if let Some(target) = &metadata.target {
        out.text(" -> ")?;
        out.name(target.as_os_str())?;
    }
    let Metadata { kind, mode, uid, gid, nlink, size, inode, version, .. } = metadata;
    out.line("")?;
    out.line(format_args!("    Kind: {}", text::kind(*kind)))?;
    if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
        out.line(format_args!("  Device: {}", text::device(metadata.rdev)))?;
    }
    out.line(format_args!("    Size: {size} ({})", text::human(*size)))?;
    out.line(format_args!("    Mode: {:04o} ({})", mode & 0o7777, text::mode(*kind, *mode)))?;
    out.line(format_args!("   Owner: {uid}:{gid}"))?;
    if metadata.has_xattrs {
        let which = if metadata.has_acl { "has an ACL (`cairn acl get`)" } else { "see `cairn xattr ls`" };
        out.line(format_args!("  Xattrs: {which}"))?;
    }
    out.line(format_args!("   Inode: {inode}, version {version}, {}", text::count(u64::from(*nlink), "link")))?;
    out.line(format_args!(
        "  Stored: {}, blocks of {}, {}",
        text::count(u64::from(metadata.replicas), "replica"),
        text::human(u64::from(metadata.block_len)),
        durability(metadata)
    ))?;
    out.line(format_args!("Accessed: {}", text::rfc3339(metadata.atime_ns)))?;
    out.line(format_args!("Modified: {}", text::rfc3339(metadata.mtime_ns)))?;
    out.line(format_args!(" Changed: {}", text::rfc3339(metadata.ctime_ns)))?;
    match metadata.btime_ns {
        0 => Ok(()),
        btime_ns => out.line(format_args!("    Made: {}", text::rfc3339(btime_ns))),
    }
}
