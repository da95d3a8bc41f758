//! `cairn ln`, `cairn chown`, `cairn touch`, `cairn mkfifo`, `cairn mknod`: further names, attributes, special files.

use std::path::Path;

use cairn_client::{CreateOptions, DfsClient, ErrorKind, NodeKind, OpenOptions, SetAttributes, SetTime, Symlinks};

use super::Complaints;
use crate::{
    args::{self, SpecialKind},
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

/// Runs `cairn chown`.
pub async fn chown(args: args::Chown, context: &Context, _: &mut Out) -> Result<(), Failure> {
    let attributes = SetAttributes { uid: args.owner.uid, gid: args.owner.gid, ..SetAttributes::default() };
    let symlinks = if args.no_dereference { Symlinks::Keep } else { Symlinks::Follow };
    change("chown", &args.paths, (attributes, symlinks), context).await
}

fn special(mode: u32) -> CreateOptions {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    CreateOptions::new().mode(mode).uid(uid).gid(gid)
}

/// Runs `cairn mkfifo`.
pub async fn mkfifo(args: args::Mkfifo, context: &Context, _: &mut Out) -> Result<(), Failure> {
    args.paths.iter().try_for_each(|path| remote_path(path))?;
    let client = context.connect().await?;
    let mut complaints = Complaints::new("mkfifo");
    for path in &args.paths {
        let made = client.create_node(path, NodeKind::Fifo, special(args.mode)).await;
        complaints.hear(made.map(drop).map_err(|error| Failure::client(path, &error)))?;
    }
    client.close().await;
    complaints.end()
}

/// Runs `cairn mknod`.
pub async fn mknod(args: args::Mknod, context: &Context, _: &mut Out) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let kind = match (args.kind, args.major, args.minor) {
        (SpecialKind::Fifo, None, _) => NodeKind::Fifo,
        (SpecialKind::Socket, None, _) => NodeKind::Socket,
        (SpecialKind::Block, Some(major), Some(minor)) => NodeKind::BlockDevice(rustix::fs::makedev(major, minor)),
        (SpecialKind::Char, Some(major), Some(minor)) => NodeKind::CharDevice(rustix::fs::makedev(major, minor)),
        (SpecialKind::Fifo | SpecialKind::Socket, Some(_), _) => {
            return Err(Failure::usage("MAJOR", "only devices have numbers"));
        }
        (SpecialKind::Block | SpecialKind::Char, ..) => {
            return Err(Failure::usage("MAJOR MINOR", "a device needs both numbers"));
        }
    };
    let client = context.connect().await?;
    let made = client.create_node(&args.path, kind, special(args.mode)).await;
    client.close().await;
    made.map(drop).map_err(|error| Failure::client(&args.path, &error))
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
