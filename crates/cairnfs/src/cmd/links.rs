//! `cairn ln`, `cairn chmod`, `cairn chown`, `cairn touch`: names and attributes of what is there.

use std::path::Path;

use cairn_client::{CreateOptions, DfsClient, ErrorKind, OpenOptions, SetAttributes, SetTime, Symlinks};

use super::Complaints;
use crate::{
    args,
    context::{Context, remote_path},
    failure::Failure,
    output::Out,
};

/// Runs `cairn ln`.
pub async fn ln(args: args::Ln, context: &Context, _: &mut Out) -> Result<(), Failure> {
    remote_path(&args.link)?;
    if !args.symbolic {
        remote_path(&args.target)?;
    }
    let client = context.connect().await?;
    let made = match args.symbolic {
        true => {
            let options = CreateOptions::new()
                .replace(args.force)
                .uid(rustix::process::geteuid().as_raw())
                .gid(rustix::process::getegid().as_raw());
            client.symlink(&args.target, &args.link, options).await
        }
        false => client.hard_link(&args.target, &args.link).await,
    };
    let made = made.map(drop).map_err(|error| Failure::client(&args.link, &error));
    client.close().await;
    made
}

/// Changes attributes of each path.
async fn change(
    command: &'static str,
    paths: &[std::path::PathBuf],
    (attributes, symlinks): (SetAttributes, Symlinks),
    context: &Context,
) -> Result<(), Failure> {
    paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new(command);
    for path in paths {
        let changed = client.set_attributes_with(path, attributes.clone(), symlinks).await;
        complaints.hear(changed.map(drop).map_err(|error| Failure::client(path, &error)))?;
    }
    client.close().await;
    complaints.end()
}

/// Runs `cairn chmod`.
pub async fn chmod(args: args::Chmod, context: &Context, _: &mut Out) -> Result<(), Failure> {
    let attributes = SetAttributes { mode: Some(args.mode), ..SetAttributes::default() };
    change("chmod", &args.paths, (attributes, Symlinks::Follow), context).await
}

/// Runs `cairn chown`.
pub async fn chown(args: args::Chown, context: &Context, _: &mut Out) -> Result<(), Failure> {
    let attributes = SetAttributes { uid: args.owner.uid, gid: args.owner.gid, ..SetAttributes::default() };
    let symlinks = if args.no_dereference { Symlinks::Keep } else { Symlinks::Follow };
    change("chown", &args.paths, (attributes, symlinks), context).await
}

/// Runs `cairn touch`.
pub async fn touch(args: args::Touch, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("touch");
    for path in &args.paths {
        complaints.hear(touch_one(&client, path, args.no_create).await)?;
    }
    client.close().await;
    complaints.end()
}

async fn touch_one(client: &DfsClient, path: &Path, no_create: bool) -> Result<(), Failure> {
    let failed = |error| Failure::client(path, &error);
    let now = Some(SetTime::Now);
    let times = SetAttributes { atime: now, mtime: now, ..SetAttributes::default() };
    match client.set_attributes_with(path, times, Symlinks::Follow).await {
        Err(error) if error.kind() == ErrorKind::NotFound && no_create => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let attributes =
                CreateOptions::new().uid(rustix::process::geteuid().as_raw()).gid(rustix::process::getegid().as_raw());
            client.open_with(path, OpenOptions::new().attributes(attributes)).await.map(drop).map_err(failed)
        }
        other => other.map(drop).map_err(failed),
    }
}
