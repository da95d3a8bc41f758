//! Which names files have, found by walking the tree: metadata keeps no way back from a file to its names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use cairn_client::{DfsClient, ErrorKind, FileKind};

use crate::{cmd::live::Live, failure::Failure, text};

/// A name of each of these files; those without one, or that go meanwhile, are left out.
pub async fn find(client: &DfsClient, inodes: Vec<u64>, live: &mut Live) -> Result<BTreeMap<u64, PathBuf>, Failure> {
    let mut wanted: BTreeSet<u64> = inodes.into_iter().collect();
    let mut names = BTreeMap::new();
    let mut dirs = vec![PathBuf::from("/")];
    let mut seen = 0_u64;
    while let Some(dir) = dirs.pop()
        && !wanted.is_empty()
    {
        let mut entries = match client.read_dir(&dir).await {
            Ok(entries) => entries,
            Err(error) if is_gone(error.kind()) => continue,
            Err(error) => return Err(Failure::client(&dir, &error)),
        };
        loop {
            let entry = match entries.next_entry().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) if is_gone(error.kind()) => break,
                Err(error) => return Err(Failure::client(&dir, &error)),
            };
            let path = dir.join(&entry.name);
            if wanted.remove(&entry.inode) {
                names.insert(entry.inode, path.clone());
            }
            if entry.kind == FileKind::Directory {
                dirs.push(path);
            }
            seen += 1;
            if seen.is_multiple_of(1024) {
                live.set(format_args!("fsck: looking for the names of {}", text::count(wanted.len() as u64, "file")));
            }
        }
    }
    Ok(names)
}

/// Removed or replaced while we walked.
fn is_gone(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}
