//! `cairn chmod`: permissions, also of all that is below a directory.

use std::path::{Path, PathBuf};

use cairn_client::{DfsClient, FileKind, SetAttributes, Symlinks};
use tokio::task::JoinSet;

use super::Complaints;
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    mode::ModeChange,
    output::Out,
};

/// Changes under way at once.
const AT_ONCE: usize = 16;

/// Runs the command.
pub async fn run(args: args::Chmod, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("chmod");
    for path in &args.paths {
        match named(&client, path, &args.mode).await {
            Ok(FileKind::Directory) if args.recursive => below(&client, path, &args.mode, &mut complaints).await?,
            Ok(_) => {}
            Err(failure) => {
                complaints.hear::<()>(Err(failure))?;
            }
        }
    }
    client.close().await;
    complaints.end()
}

/// Changes what was named on the command line; what it is.
async fn named(client: &DfsClient, path: &Path, change: &ModeChange) -> Result<FileKind, Failure> {
    let failed = |error| Failure::client(path, &error);
    let found = match change.fixed() {
        Some(mode) => set(client, path, mode, Symlinks::Follow).await?,
        None => {
            let found = client.metadata(path).await.map_err(failed)?;
            set(client, path, change.apply(found.mode, found.kind), Symlinks::Follow).await?
        }
    };
    Ok(found)
}

async fn set(client: &DfsClient, path: &Path, mode: u32, symlinks: Symlinks) -> Result<FileKind, Failure> {
    let attributes = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
    let changed = client.set_attributes_with(path, attributes, symlinks).await;
    changed.map(|metadata| metadata.kind).map_err(|error| Failure::client(path, &error))
}

/// Changes everything below a directory but symbolic links, directories before what is in them.
async fn below(
    client: &DfsClient,
    top: &Path,
    change: &ModeChange,
    complaints: &mut Complaints,
) -> Result<(), Failure> {
    let mut waiting: Vec<PathBuf> = vec![top.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        let mut entries = match client.read_dir(&dir).await {
            Ok(entries) => entries,
            Err(error) => {
                complaints.hear::<()>(Err(Failure::client(&dir, &error)))?;
                continue;
            }
        };
        let mut changing = JoinSet::new();
        loop {
            let entry = match entries.next_entry().await {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(error) => {
                    complaints.hear::<()>(Err(Failure::client(&dir, &error)))?;
                    break;
                }
            };
            if entry.kind == FileKind::Symlink {
                continue;
            }
            let path = dir.join(&entry.name);
            let mode = change.apply(entry.metadata.mode, entry.kind);
            if entry.kind == FileKind::Directory {
                waiting.push(path.clone());
            }
            if changing.len() == AT_ONCE {
                hear(&mut changing, complaints).await?;
            }
            let client = client.clone();
            changing.spawn(async move { set(&client, &path, mode, Symlinks::Keep).await });
        }
        while !changing.is_empty() {
            hear(&mut changing, complaints).await?;
        }
    }
    Ok(())
}

/// Waits for one change.
async fn hear(changing: &mut JoinSet<Result<FileKind, Failure>>, complaints: &mut Complaints) -> Result<(), Failure> {
    match changing.join_next().await {
        Some(Ok(changed)) => complaints.hear(changed).map(drop),
        // It was cancelled, which nobody does, or has panicked, which was told.
        Some(Err(_)) | None => Ok(()),
    }
}
