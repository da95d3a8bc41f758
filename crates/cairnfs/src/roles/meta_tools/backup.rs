//! `cairn meta backup`: dumps whose blocks stay on the nodes.

use std::{path::PathBuf, time::Duration};

use cairn_client::Snapshot;
use serde::Serialize;

use super::{Progress, Target, write_pieces};
use crate::{
    args::{BackupCreate, BackupRm, BackupWhat, MetaBackup},
    cmd::Complaints,
    context::Context,
    failure::Failure,
    output::{JsonArray, Out, say},
    span::Span,
    text,
};

/// A backup in JSON.
#[derive(Serialize)]
struct BackupJson<'a> {
    name: &'a str,
    taken: String,
    /// Its dump was never finished, or is being made.
    unfinished: bool,
    /// Absent when it stays until it is removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

/// Runs the command.
pub(super) async fn run(args: MetaBackup, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.what {
        BackupWhat::Create(args) => create(args, context, out).await,
        BackupWhat::Ls(args) => list(args.json, context, out).await,
        BackupWhat::Rm(args) => remove(args, context).await,
    }
}

async fn create(args: BackupCreate, context: &Context, out: &mut Out) -> Result<(), Failure> {
    if args.name.is_empty() || (args.to.is_none() && args.name.contains('/')) {
        return Err(Failure::usage("NAME", "is no name of a file: give --to, too"));
    }
    let to = args.to.unwrap_or_else(|| PathBuf::from(format!("{}.cairn-dump", args.name)));
    let mut target = Target::open(&to, out)?;
    let mut progress = Progress::new(!args.quiet, "backing up");
    let client = context.connect().await?;
    let made = make(&client, &args.name, args.ttl.map(Span::get), &mut target, &mut progress).await;
    client.close().await;
    match made {
        Ok((rows, bytes)) => {
            let to_file = matches!(target, Target::File { .. });
            let words = progress.end(rows, bytes);
            let line = format!("backed up {words}; {} keeps what it refers to", text::bytes(args.name.as_bytes()));
            if to_file {
                out.line(format_args!("{line}"))
            } else {
                {
                    say(format_args!("{line}"));
                    Ok(())
                }
            }
        }
        Err(failure) => {
            progress.live.finish();
            target.abandon();
            Err(failure)
        }
    }
}

/// Reads the dump into `target`, brings that to disk, and only then says what the hold is for.
async fn make(
    client: &cairn_client::DfsClient,
    name: &str,
    ttl: Option<Duration>,
    target: &mut Target<'_>,
    progress: &mut Progress,
) -> Result<(u64, u64), Failure> {
    let mut dump = client.admin().backup(name).await.map_err(|error| Failure::admin(&error))?;
    let written = write_pieces(async || dump.next().await, target, progress).await;
    match written.and_then(|made| target.keep().map(|()| made)) {
        Ok(made) => {
            dump.keep(ttl).await.map_err(|error| Failure::admin(&error))?;
            Ok(made)
        }
        Err(failure) => {
            dump.abandon().await;
            Err(failure)
        }
    }
}

async fn list(json: bool, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    let found = client.admin().backups().await;
    client.close().await;
    let backups = found.map_err(|error| Failure::admin(&error))?;
    if json {
        let mut json = JsonArray::begin(out)?;
        for hold in &backups {
            let ttl_ms = hold.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            let name = hold.backup.as_deref().unwrap_or_default();
            let taken = text::rfc3339(hold.taken_ns);
            json.element(out, &BackupJson { name, taken, unfinished: hold.unsettled, ttl_ms })?;
        }
        return json.end(out);
    }
    for hold in &backups {
        out.text(format_args!("{}  ", text::minute(hold.taken_ns)))?;
        out.name(hold.backup.as_deref().unwrap_or_default().as_ref())?;
        out.line(format_args!("{}", note(hold)))?;
    }
    Ok(())
}

/// What else there is to say of a backup, behind its name.
fn note(hold: &Snapshot) -> String {
    match (hold.unsettled, hold.ttl) {
        (true, _) => "  (not finished)".into(),
        (false, Some(ttl)) => format!("  for {} s", ttl.as_secs()),
        (false, None) => String::new(),
    }
}

async fn remove(args: BackupRm, context: &Context) -> Result<(), Failure> {
    let client = context.connect().await?;
    let admin = client.admin();
    let mut complaints = Complaints::new("meta backup");
    for name in &args.names {
        let removed = admin.remove_backup(name).await;
        complaints.hear(removed.map_err(|error| Failure::at(text::bytes(name.as_bytes()), error)))?;
    }
    client.close().await;
    complaints.end()
}
