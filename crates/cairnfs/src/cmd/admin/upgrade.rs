//! `cairn admin upgrade`: at which version the cluster works, and raising it.

use cairn_client::{Admin, UpgradeStatus};
use serde::Serialize;

use crate::{
    args::{Upgrade, UpgradeWhat},
    failure::Failure,
    output::{Align, Out, Table},
};

#[derive(Serialize)]
struct StatusJson<'a> {
    cluster_version: u64,
    newest: u64,
    finalized: bool,
    obstacles: &'a [String],
    software: Vec<SoftwareJson<'a>>,
}

#[derive(Serialize)]
struct SoftwareJson<'a> {
    role: &'a str,
    id: u64,
    addr: &'a str,
    version: &'a str,
    newest: u64,
    live: bool,
}

/// Runs the command.
pub(super) async fn run(args: &Upgrade, admin: &Admin, out: &mut Out) -> Result<(), Failure> {
    let status = admin.upgrade_status().await.map_err(|error| Failure::admin(&error))?;
    match &args.what {
        UpgradeWhat::Status(args) if args.json => write_json(&status, out),
        UpgradeWhat::Status(_) => write(&status, out),
        UpgradeWhat::Finalize(_) if status.cluster_version == status.newest => {
            out.line(format_args!("the cluster is at version {} already", status.cluster_version))
        }
        UpgradeWhat::Finalize(args) if !args.yes => {
            write(&status, out)?;
            out.flush()?;
            let what = "the former program cannot be run on this cluster afterwards; say so with --yes";
            Err(Failure::usage("upgrade finalize", what))
        }
        UpgradeWhat::Finalize(_) => {
            let finalized = admin.finalize_upgrade(status.newest).await.map_err(|error| Failure::admin(&error))?;
            out.line(format_args!("the cluster is at version {} from now on", finalized.cluster_version))
        }
    }
}

fn write_json(status: &UpgradeStatus, out: &mut Out) -> Result<(), Failure> {
    let software = status.software.iter().map(|software| SoftwareJson {
        role: &software.role,
        id: software.id.into(),
        addr: &software.addr,
        version: &software.version,
        newest: software.newest.into(),
        live: software.live,
    });
    out.json(&StatusJson {
        cluster_version: status.cluster_version.into(),
        newest: status.newest.into(),
        finalized: status.cluster_version == status.newest,
        obstacles: &status.obstacles,
        software: software.collect(),
    })
}

fn write(status: &UpgradeStatus, out: &mut Out) -> Result<(), Failure> {
    let (at, newest) = (status.cluster_version, status.newest);
    if at == newest {
        out.line(format_args!("the cluster is at version {at}, the newest that its metadata server knows"))?;
    } else {
        out.line(format_args!("the cluster is at version {at}; version {newest} is not finalized"))?;
    }
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left, Align::Left, Align::Right, Align::Left]);
    table.row(["ROLE", "ID", "ADDRESS", "PROGRAM", "KNOWS", "LIVE"].map(str::to_owned));
    for software in &status.software {
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        table.row([
            software.role.clone(),
            software.id.to_string(),
            software.addr.clone(),
            dash(&software.version),
            if software.newest == 0 { "-".to_owned() } else { software.newest.to_string() },
            if software.live { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.lines().into_iter().try_for_each(|line| out.line(line))?;
    for obstacle in &status.obstacles {
        out.line(obstacle)?;
    }
    if at != newest && status.obstacles.is_empty() {
        out.line("it can be finalized: cairn admin upgrade finalize --yes")?;
    }
    Ok(())
}
