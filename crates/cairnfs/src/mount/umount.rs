//! `cairn umount`: unmounts, and waits until the processes of the mount have written everything and ended.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    dead::{self, How},
    run_dir::{Part, RunFiles},
    table::{self, Mounted},
};
use crate::{args, failure::Failure, text};

/// How often it is looked whether the processes have ended.
const POLL: Duration = Duration::from_millis(20);
/// Processes that are named as users of a mount.
const USERS_SHOWN: usize = 5;

/// Runs the command.
///
/// # Errors
/// It is no mount of ours, somebody uses it, or its server does not end in time.
pub async fn run(args: args::Umount) -> Result<(), Failure> {
    for dir in &args.dirs {
        one(dir, &args).await?;
    }
    Ok(())
}

async fn one(dir: &Path, args: &args::Umount) -> Result<(), Failure> {
    let point = table::mount_point(dir).map_err(|error| Failure::io(dir, &error))?;
    let mounted = table::mounted_at(&point).map_err(|error| Failure::io(dir, &error))?;
    let files = RunFiles::of(&point);
    let Some(mounted) = mounted.filter(Mounted::is_ours) else {
        return Err(Failure::at(text::path(dir), "no CairnFS is mounted there"));
    };
    let (supervisor, server) = (files.process(Part::Supervisor), files.process(Part::Server));
    tracing::debug!(?mounted, ?supervisor, ?server, "unmounting");
    let how = match (args.force, args.lazy) {
        (true, _) => How::ByForce,
        (false, true) => How::Lazily,
        (false, false) => How::IfUnused,
    };
    let unmounted = {
        let point = point.clone();
        // Everything that programs wrote is written back first, which may take a while.
        tokio::task::spawn_blocking(move || dead::unmount(&point, how)).await
    };
    match unmounted.map_err(|error| Failure::at(text::path(dir), error))? {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(busy(dir, &point)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let what = format_args!("{error}: only who mounted it and root may unmount it");
            return Err(Failure::at(text::path(dir), what));
        }
        Err(error) => return Err(Failure::io(dir, &error)),
    }
    if args.lazy || args.force {
        return Ok(());
    }
    let deadline = Instant::now() + args.timeout.get();
    for part in [Part::Server, Part::Supervisor] {
        while let Some(process) = files.process(part) {
            // Somebody mounts there again already.
            if ![supervisor, server].contains(&Some(process)) {
                break;
            }
            if Instant::now() >= deadline {
                let seconds = args.timeout.get().as_secs();
                let what = format_args!(
                    "it is unmounted, but process {process} has not written everything to the cluster within \
                    {seconds} s (wait for it, or look at `cairn status`)"
                );
                return Err(Failure::at(text::path(dir), what));
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

fn busy(dir: &Path, point: &Path) -> Failure {
    let users = users(point);
    let by = match users.as_slice() {
        [] => String::new(),
        users => format!(" by {}", users.join(", ")),
    };
    Failure::at(text::path(dir), format_args!("is in use{by} (-l takes it away from newcomers at once)"))
}

/// Processes with a working directory or an open file in the mount, as far as we may see them.
fn users(point: &Path) -> Vec<String> {
    // By name only: to ask the mount itself might take for ever.
    let inside = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(point));
    let uses = |process: &Path| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        inside(process.join("cwd")) || inside(process.join("root")) || open.into_iter().any(|open| inside(open.path()))
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_number =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let describe = |path: PathBuf| {
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        format!("{} ({})", name.trim(), path.file_name().unwrap_or_default().to_string_lossy())
    };
    processes.filter(is_number).filter(|path| uses(path)).take(USERS_SHOWN).map(describe).collect()
}
