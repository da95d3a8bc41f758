//! Opening: is there such a server, does it keep what it acknowledges, is the table there.

use super::error::{opening, words};
use crate::OpenError;
use crate::url::PostgresPlace;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// What every connection does first.
#[derive(Clone, Default, Debug)]
pub(super) struct Setup {
    pub(super) commands: String,
    /// Whether the server knows `synchronous_commit`.
    pub(super) relaxes: bool,
}

fn never<T>(cause: impl Into<String>) -> Result<T, OpenError> {
    Err(OpenError::Never { cause: cause.into() })
}

pub(super) async fn look(place: &PostgresPlace) -> Result<Setup, OpenError> {
    let client = super::pool::connect(&place.config).await.map_err(|error| opening(&error))?;
    let version = show(&client, "SELECT version()").await?;
    let setup = if is_postgres(&version) { durability(&client, place.allow_async).await? } else { Setup::default() };
    table(&client, &place.table).await?;
    tracing::info!(version, "the metadata engine is a table of PostgreSQL's wire protocol");
    Ok(setup)
}

/// True for PostgreSQL itself; others that speak its protocol have other settings.
fn is_postgres(version: &str) -> bool {
    version.starts_with("PostgreSQL") && !version.contains("-YB-")
}

async fn show(client: &Client, query: &str) -> Result<String, OpenError> {
    let rows = client.simple_query(query).await.map_err(|error| opening(&error))?;
    let value = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.unwrap_or_default().to_owned())
}

/// Refuses a server that loses what it acknowledged when it loses power, or with its machine while it has standbys.
async fn durability(client: &Client, allow_async: bool) -> Result<Setup, OpenError> {
    if show(client, "SELECT pg_is_in_recovery()").await? == "t" {
        return Err(OpenError::Away { cause: "PostgreSQL: the server is a standby; name the primary".into() });
    }
    let allow = "say allow_async=1 in the engine's URL if losing acknowledged changes is acceptable";
    for setting in ["fsync", "full_page_writes"] {
        if !allow_async && show(client, &format!("SHOW {setting}")).await? != "on" {
            return never(format!(
                "PostgreSQL has {setting} = off, so a power failure destroys it: turn it on, or {allow}"
            ));
        }
    }
    let standbys: u64 = show(client, "SELECT count(*) FROM pg_stat_replication").await?.parse().unwrap_or(0);
    let waits = !show(client, "SHOW synchronous_standby_names").await?.is_empty();
    if !allow_async && standbys > 0 && !waits {
        return never(format!(
            "PostgreSQL has {standbys} standbys and waits for none of them, so a failover loses what was acknowledged: set \
             synchronous_standby_names, or {allow}"
        ));
    }
    // Plans for a table that was small at first would read it whole, and then everything meets everything.
    let mut commands =
        "SET enable_seqscan = off; SET jit = off; SET idle_in_transaction_session_timeout = '60s'".to_owned();
    let level = show(client, "SHOW synchronous_commit").await?;
    if !allow_async && (level == "off" || level == "local") {
        commands.push_str("; SET synchronous_commit = on");
    }
    Ok(Setup { commands, relaxes: true })
}

async fn table(client: &Client, table: &str) -> Result<(), OpenError> {
    let schema = table.split_once('.').map(|(schema, _)| schema);
    let schema = schema.map_or_else(String::new, |schema| format!("CREATE SCHEMA IF NOT EXISTS {schema};"));
    let create = format!("{schema} CREATE TABLE IF NOT EXISTS {table} (key bytea PRIMARY KEY, value bytea NOT NULL)");
    // Without the right to create there may be a table all the same.
    let probe = format!("SELECT key, value FROM {table} LIMIT 0");
    let mut last = None;
    // Two servers that create it at once may both be refused once.
    for _ in 0..3 {
        match client.simple_query(&probe).await {
            Ok(_) => return Ok(()),
            Err(error)
                if error.code() == Some(&SqlState::UNDEFINED_TABLE)
                    || error.code() == Some(&SqlState::INVALID_SCHEMA_NAME) => {}
            Err(error) => return Err(opening(&error)),
        }
        last = client.simple_query(&create).await.err();
    }
    match last {
        Some(error) => never(format!("PostgreSQL: no table {table}, and it cannot be made: {}", words(&error))),
        None => never(format!("PostgreSQL: no table {table}")),
    }
}

#[cfg(test)]
mod tests {
    use super::is_postgres;

    #[test]
    fn who_speaks() {
        assert!(is_postgres("PostgreSQL 15.8 (Debian 15.8-0+deb12u1) on x86_64-pc-linux-gnu"));
        assert!(!is_postgres("CockroachDB CCL v24.1.0 (x86_64-pc-linux-gnu, built 2024/05/15)"));
        assert!(!is_postgres("PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu"));
    }
}
