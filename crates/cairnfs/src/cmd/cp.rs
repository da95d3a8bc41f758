//! `cairn cp`: copies inside the cluster.

use std::path::{Path, PathBuf};

use cairn_client::{CreateOptions, DfsClient, ErrorKind, FileKind, Metadata, OpenOptions};
use tokio::io::{AsyncWriteExt, copy};

use super::Complaints;
use crate::{
    args::{self, Reflink},
    context::{Context, remote_path},
    copy::plan::{self, Landing, Target},
    copy::put::stands,
    failure::Failure,
    output::Out,
    text,
};

/// Runs the command.
pub async fn run(args: args::Cp, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.sources.iter().chain([&args.target]).try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let stands: Target = stands(&client, &args.target).await?;
    let landings = plan::landings(args.sources.clone(), &args.target, stands)
        .map_err(|what| Failure::at(text::path(&args.target), what))?;
    let mut complaints = Complaints::new("cp");
    for Landing { source, place } in landings {
        let copied = match place {
            Ok(place) => all(&client, source, place, &args, &mut complaints).await,
            Err(what) => Err(Failure::at(text::path(&source), what)),
        };
        complaints.hear(copied)?;
    }
    client.close().await;
    complaints.end()
}

/// Copies `source` and, with `-r`, all that is below it. What fails below is complained about, and the rest goes on.
async fn all(
    client: &DfsClient,
    source: PathBuf,
    place: PathBuf,
    args: &args::Cp,
    complaints: &mut Complaints,
) -> Result<(), Failure> {
    let found = match args.recursive {
        true => client.symlink_metadata(&source).await,
        false => client.metadata(&source).await,
    };
    let metadata = found.map_err(|error| Failure::client(&source, &error))?;
    if metadata.is_dir() && !args.recursive {
        return Err(Failure::at(text::path(&source), "is a directory (-r copies directories)"));
    }
    if metadata.is_dir() && place.starts_with(&source) {
        return Err(Failure::at(text::path(&source), "cannot be copied into itself"));
    }
    let mut rest = vec![(source, place, metadata)];
    while let Some((source, place, metadata)) = rest.pop() {
        let copied = one(client, (&source, &metadata), &place, args.reflink).await;
        if complaints.hear(copied)?.is_none() || !metadata.is_dir() {
            continue;
        }
        let failed = |error| Failure::client(&source, &error);
        let mut entries = client.read_dir(&source).await.map_err(failed)?;
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            rest.push((source.join(&entry.name), place.join(&entry.name), entry.metadata));
        }
    }
    Ok(())
}

/// Copies a file, a link, or a directory without what is in it.
async fn one(
    client: &DfsClient,
    (source, metadata): (&Path, &Metadata),
    place: &Path,
    reflink: Reflink,
) -> Result<(), Failure> {
    let at_place = |error| Failure::client(place, &error);
    let options = CreateOptions::new()
        .mode(metadata.mode)
        .uid(rustix::process::geteuid().as_raw())
        .gid(rustix::process::getegid().as_raw());
    match metadata.kind {
        FileKind::File if reflink == Reflink::Always => {
            let cloned = client.clone_file(source, place, options.replace(true)).await;
            cloned.map(drop).map_err(|error| Failure::client(source, &error))
        }
        FileKind::File => {
            let file = client.open_with(source, OpenOptions::new().create(false)).await;
            let file = file.map_err(|error| Failure::client(source, &error))?;
            let mut to = client.create_atomic(place, options.replace(true)).await.map_err(at_place)?;
            copy(&mut file.reader(), &mut to).await.map_err(|error| Failure::at(text::path(source), error))?;
            to.flush().await.map_err(|error| Failure::at(text::path(place), error))?;
            to.finish().await.map(drop).map_err(at_place)
        }
        FileKind::Directory => match client.create_dir_with(place, options).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop).map_err(at_place),
        },
        FileKind::Symlink => {
            let target = metadata.target.as_deref().unwrap_or(Path::new(""));
            client.symlink(target, place, options.replace(true)).await.map(drop).map_err(at_place)
        }
        _ => Err(Failure::at(text::path(source), "is no file, directory or symbolic link")),
    }
}
