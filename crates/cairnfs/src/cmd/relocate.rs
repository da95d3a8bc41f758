//! Moving across the border of a quota: a copy with all that can be copied, and then the source goes.
//!
//! Files are cloned, so no byte is moved. Owners, modes, times, extended attributes and ACLs come along, and hard links
//! between files of the same move stay links. The source is removed only when all of it was copied.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use cairn_client::{
    CreateOptions, DfsClient, ErrorKind, FileKind, Metadata, NodeKind, SetAttributes, SetTime, Symlinks, XattrMode,
};

use super::remove;
use crate::{failure::Failure, text};

/// A place in the walk.
enum Step {
    Copy(PathBuf, PathBuf, Metadata),
    /// All that is in the directory was copied: it gets its times.
    Leave(PathBuf, Metadata),
}

/// Moves `source` to `place`, which counts against another quota.
///
/// # Errors
/// What failed first. The source is whole then, and what was copied is left at `place`.
pub async fn across(client: &DfsClient, source: &Path, place: &Path, jobs: usize) -> Result<(), Failure> {
    let found = client.symlink_metadata(source).await;
    let metadata = found.map_err(|error| Failure::client(source, &error))?;
    if metadata.is_dir() {
        if place.starts_with(source) {
            return Err(Failure::at(text::path(source), "cannot be moved into itself"));
        }
        check_free(client, place).await?;
    }
    let is_dir = metadata.is_dir();
    // By inode: where the first name of a file with several was copied to.
    let mut linked: HashMap<u64, PathBuf> = HashMap::new();
    let mut steps = vec![Step::Copy(source.to_path_buf(), place.to_path_buf(), metadata)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Copy(source, place, metadata) => {
                let first = (metadata.nlink > 1 && !metadata.is_dir()).then(|| linked.get(&metadata.inode)).flatten();
                if let Some(first) = first {
                    let made = client.hard_link(first, &place).await;
                    made.map_err(|error| Failure::client(&place, &error))?;
                    continue;
                }
                copy(client, &source, &place, &metadata).await?;
                if metadata.is_dir() {
                    let failed = |error| Failure::client(&source, &error);
                    steps.push(Step::Leave(place.clone(), metadata));
                    let mut entries = client.read_dir(&source).await.map_err(failed)?;
                    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
                        let (from, to) = (source.join(&entry.name), place.join(&entry.name));
                        steps.push(Step::Copy(from, to, entry.metadata));
                    }
                } else {
                    times(client, &place, &metadata).await?;
                    if metadata.nlink > 1 {
                        linked.insert(metadata.inode, place);
                    }
                }
            }
            Step::Leave(place, metadata) => times(client, &place, &metadata).await?,
        }
    }
    // It was moved: no trash keeps it.
    match is_dir {
        true => remove::tree(client, source, jobs, true).await,
        false => client.purge_file(source).await.map_err(|error| Failure::client(source, &error)),
    }
}

/// As rename, a directory takes the place of an empty one at most.
async fn check_free(client: &DfsClient, place: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::client(place, &error);
    let mut entries = match client.read_dir(place).await {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    match entries.next_entry().await.map_err(failed)? {
        None => Ok(()),
        Some(_) => Err(Failure::at(text::path(place), "directory not empty")),
    }
}

async fn copy(client: &DfsClient, source: &Path, place: &Path, metadata: &Metadata) -> Result<(), Failure> {
    let at_place = |error| Failure::client(place, &error);
    let options = CreateOptions::new().mode(metadata.mode).uid(metadata.uid).gid(metadata.gid);
    let node = |kind| client.create_node(place, kind, options.clone());
    match metadata.kind {
        FileKind::File => {
            let cloned = client.clone_file(source, place, options.replace(true)).await;
            cloned.map(drop).map_err(|error| Failure::client(source, &error))?;
        }
        FileKind::Directory => match client.create_dir_with(place, options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => made.map(drop).map_err(at_place)?,
        },
        FileKind::Symlink => {
            let target = client.read_link(source).await.map_err(|error| Failure::client(source, &error))?;
            client.symlink(&target, place, options.replace(true)).await.map(drop).map_err(at_place)?;
        }
        FileKind::Fifo => node(NodeKind::Fifo).await.map(drop).map_err(at_place)?,
        FileKind::Socket => node(NodeKind::Socket).await.map(drop).map_err(at_place)?,
        FileKind::CharDevice => node(NodeKind::CharDevice(metadata.rdev)).await.map(drop).map_err(at_place)?,
        FileKind::BlockDevice => node(NodeKind::BlockDevice(metadata.rdev)).await.map(drop).map_err(at_place)?,
    }
    if metadata.has_xattrs || metadata.has_acl {
        let failed = |error| Failure::client(source, &error);
        for name in client.xattrs(source, Symlinks::Keep).await.map_err(failed)? {
            let value = client.xattr(source, &name, Symlinks::Keep).await.map_err(failed)?;
            client.set_xattr(place, &name, value, XattrMode::Set, Symlinks::Keep).await.map_err(at_place)?;
        }
    }
    Ok(())
}

async fn times(client: &DfsClient, place: &Path, metadata: &Metadata) -> Result<(), Failure> {
    let at = |time| Some(SetTime::At(time));
    let (atime, mtime) = (at(metadata.atime_ns), at(metadata.mtime_ns));
    // The mode once more: an ACL that a directory above hands down may have narrowed it.
    let mode = (metadata.kind != FileKind::Symlink).then_some(metadata.mode);
    let attributes = SetAttributes { mode, atime, mtime, ..SetAttributes::default() };
    let set = client.set_attributes_with(place, attributes, Symlinks::Keep).await;
    set.map(drop).map_err(|error| Failure::client(place, &error))
}
