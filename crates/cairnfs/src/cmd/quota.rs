//! `cairn quota`: limits of what lies below directories.

use std::path::Path;

use cairn_client::{Quota, QuotaChange};
use serde::Serialize;

use crate::{
    args::{self, QuotaWhat},
    context::{Context, remote_path},
    failure::Failure,
    output::{Align, JsonArray, JsonPath, Out, Table},
    text,
};

/// A quota in JSON; limits of 0 are none.
#[derive(Debug, Serialize)]
struct QuotaJson {
    #[serde(flatten)]
    path: Option<JsonPath>,
    inode: u64,
    bytes: u64,
    used_bytes: u64,
    inodes: u64,
    used_inodes: u64,
    counting: bool,
}

impl From<&Quota> for QuotaJson {
    fn from(quota: &Quota) -> Self {
        Self {
            path: quota.path.as_deref().map(JsonPath::from),
            inode: quota.root,
            bytes: quota.bytes,
            used_bytes: quota.used_bytes,
            inodes: quota.inodes,
            used_inodes: quota.used_inodes,
            counting: quota.counting,
        }
    }
}

/// Runs the command.
pub async fn run(args: args::Quota, context: &Context, out: &mut Out) -> Result<(), Failure> {
    match args.what {
        QuotaWhat::Set(args) => set(args, context).await,
        QuotaWhat::Get(args) => get(args, context, out).await,
        QuotaWhat::Ls(args) => list(args, context, out).await,
        QuotaWhat::Rm(args) => remove(args, context).await,
    }
}

async fn set(args: args::QuotaSet, context: &Context) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let change = QuotaChange { bytes: args.bytes.map(|bytes| bytes.0), inodes: args.inodes };
    if change == QuotaChange::default() {
        return Err(Failure::usage("quota set", "say what to limit: --bytes, --inodes"));
    }
    let client = context.connect().await?;
    let done = client.set_quota(&args.path, change).await.map_err(|error| Failure::policy(&args.path, &error));
    client.close().await;
    done
}

async fn remove(args: args::QuotaRm, context: &Context) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let client = context.connect().await?;
    let done = client.remove_quota(&args.path).await.map_err(|error| Failure::named(text::path(&args.path), &error));
    client.close().await;
    done
}

async fn get(args: args::QuotaGet, context: &Context, out: &mut Out) -> Result<(), Failure> {
    remote_path(&args.path)?;
    let client = context.connect().await?;
    let found = client.quota(&args.path).await.map_err(|error| Failure::client(&args.path, &error));
    client.close().await;
    match (found?, args.json) {
        (Some(quota), true) => out.json(&QuotaJson::from(&quota)),
        (Some(quota), false) => table(&[quota], out),
        (None, true) => out.line("null"),
        (None, false) => out.line(format_args!("{}: no quota", text::path(&args.path))),
    }
}

async fn list(args: args::QuotaLs, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    let found = client.list_quotas().await.map_err(|error| Failure::cluster(&error));
    client.close().await;
    let quotas = found?;
    if !args.json {
        return table(&quotas, out);
    }
    let mut json = JsonArray::begin(out)?;
    for quota in &quotas {
        json.element(out, &QuotaJson::from(quota))?;
    }
    json.end(out)
}

/// One line for each quota.
pub(super) fn table(quotas: &[Quota], out: &mut Out) -> Result<(), Failure> {
    let mut table =
        Table::new(&[Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["QUOTA OF", "USED", "LIMIT", "USE%", "INODES", "LIMIT", ""].map(str::to_owned));
    for quota in quotas {
        let path = quota.path.as_deref().unwrap_or(Path::new("?"));
        let limit = |limit: u64, shown: String| if limit == 0 { "-".to_owned() } else { shown };
        let percent = quota.used_bytes.saturating_mul(100).checked_div(quota.bytes);
        table.row([
            text::path(path),
            text::human(quota.used_bytes),
            limit(quota.bytes, text::human(quota.bytes)),
            percent.map_or("-".to_owned(), |percent| format!("{percent}%")),
            quota.used_inodes.to_string(),
            limit(quota.inodes, quota.inodes.to_string()),
            if quota.counting { "counting".to_owned() } else { String::new() },
        ]);
    }
    table.lines().into_iter().try_for_each(|line| out.line(line))
}
