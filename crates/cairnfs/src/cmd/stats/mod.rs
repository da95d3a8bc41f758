//! `cairn stats`: the cluster as a client sees it.

mod json;
mod text;

use std::time::Duration;

use crate::{args, context::Context, failure::Failure, output::Out};

/// Time a node has to answer the ping.
const PING_MAX: Duration = Duration::from_secs(2);

/// Runs the command.
pub async fn run(args: args::Stats, context: &Context, out: &mut Out) -> Result<(), Failure> {
    let client = context.connect().await?;
    loop {
        let pings = client.ping_nodes(PING_MAX).await.map_err(|error| Failure::cluster(&error))?;
        if args.prometheus {
            out.text(client.prometheus())?;
        } else {
            let stats = client.get_connection_stats().await;
            if args.json { out.json(&json::of(&stats, &pings))? } else { text::write(&stats, &pings, out)? }
        }
        let Some(seconds) = args.watch else { break };
        out.flush()?;
        tokio::time::sleep(Duration::from_secs(seconds.get())).await;
        if !args.json {
            out.line("")?;
        }
    }
    client.close().await;
    Ok(())
}
