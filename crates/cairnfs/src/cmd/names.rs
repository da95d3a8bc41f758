//! `cairn mkdir`, `cairn rm`, `cairn mv`: what changes names.

use std::path::Path;

use cairn_client::{CreateOptions, DfsClient, ErrorKind, FileKind, RenameMode};

use super::{Complaints, relocate, remove};
use crate::{
    args,
    context::{Context, remote_path},
    copy::plan::{self, Landing, Target},
    copy::put::stands,
    failure::Failure,
    output::Out,
    text,
};

/// Runs `cairn mkdir`.
pub async fn mkdir(args: args::Mkdir, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("mkdir");
    for path in &args.paths {
        complaints.hear(make(&client, path, &args).await)?;
    }
    client.close().await;
    complaints.end()
}

async fn make(client: &DfsClient, path: &Path, args: &args::Mkdir) -> Result<(), Failure> {
    let failed = |error| Failure::client(path, &error);
    if args.parents
        && let Some(parent) = path.parent()
    {
        client.create_dir_all(parent).await.map_err(failed)?;
    }
    let options = CreateOptions::new()
        .mode(args.mode)
        .uid(rustix::process::geteuid().as_raw())
        .gid(rustix::process::getegid().as_raw());
    match client.create_dir_with(path, options).await {
        Err(error) if args.parents && error.kind() == ErrorKind::AlreadyExists => {
            match client.metadata(path).await.map_err(failed)?.kind {
                FileKind::Directory => Ok(()),
                _ => Err(failed(error)),
            }
        }
        other => other.map(drop).map_err(failed),
    }
}

/// Runs `cairn rm`.
pub async fn rm(args: args::Rm, context: &Context, _: &mut Out) -> Result<(), Failure> {
    for path in &args.paths {
        remote_path(path)?;
        if plan::last_name(path).is_none() {
            return Err(Failure::usage(text::path(path), "refusing to remove the root, `.` or `..`"));
        }
    }
    let client = context.connect().await?;
    let mut complaints = Complaints::new("rm");
    for path in &args.paths {
        complaints.hear(remove(&client, path, &args, context.jobs(None)).await)?;
    }
    client.close().await;
    complaints.end()
}

async fn remove(client: &DfsClient, path: &Path, args: &args::Rm, jobs: usize) -> Result<(), Failure> {
    let removed = match client.symlink_metadata(path).await {
        Ok(metadata) if metadata.kind != FileKind::Directory => match args.purge {
            true => client.purge_file(path).await,
            false => client.remove_file(path).await,
        },
        Ok(_) if args.recursive => return remove::tree(client, path, jobs, args.purge).await,
        Ok(_) => return Err(Failure::at(text::path(path), "is a directory (-r removes directories)")),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if args.force && error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| Failure::client(path, &error)),
    }
}

/// Runs `cairn mv`.
pub async fn mv(args: args::Mv, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.sources.iter().chain([&args.target]).try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mode = match (args.no_clobber, args.exchange) {
        (true, _) => RenameMode::NoReplace,
        (_, true) => RenameMode::Exchange,
        _ => RenameMode::Replace,
    };
    // Names that change places are meant themselves.
    let stands = match args.no_target_directory || args.exchange {
        true => Target::Nothing,
        false => stands(&client, &args.target).await?,
    };
    let landings = plan::landings(args.sources, &args.target, stands)
        .map_err(|what| Failure::at(text::path(&args.target), what))?;
    let mut complaints = Complaints::new("mv");
    for Landing { source, place } in landings {
        let moved = match place {
            Ok(place) => match client.rename_with(&source, &place, mode).await {
                // Names that exist are not to be replaced, or change places: that is no matter of copying.
                Err(error) if error.kind() == ErrorKind::CrossDevice && mode == RenameMode::Replace => {
                    relocate::across(&client, &source, &place, context.jobs(None)).await
                }
                renamed => renamed.map_err(|error| Failure::client(&source, &error)),
            },
            Err(what) => Err(Failure::at(text::path(&source), what)),
        };
        complaints.hear(moved)?;
    }
    client.close().await;
    complaints.end()
}
