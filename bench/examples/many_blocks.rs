//! Fills a running cluster with many small blocks: `many_blocks META COUNT [TASKS]`.
//!
//! Each block is 5 KiB at the beginning of 64 KiB of a file, so that a million of them are 5 GiB a replica and as many rows
//! of maps: what a check of everything has most work with. Writes are relaxed.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measuring program outside the product"
)]

use anyhow::{Context, Result};
use bytes::Bytes;
use cairn_client::{CreateOptions, DfsClient, OpenOptions};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BLOCK_LEN: u32 = 64 << 10;
const WRITTEN: usize = 5 << 10;
const BLOCKS_PER_FILE: u64 = 1000;
const REPORT_EVERY: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let meta = args.get(1).context("META is missing")?;
    let count: u64 = args.get(2).context("COUNT is missing")?.parse()?;
    let tasks: u64 = args.get(3).map_or(Ok(32), |tasks| tasks.parse())?;
    let client = DfsClient::builder().relaxed(true).meta(meta).name("many_blocks").connect().await?;
    client.create_dir_all("/many").await?;
    let next = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let work = (0..tasks).map(|_| {
        let (client, next, done) = (client.clone(), next.clone(), done.clone());
        tokio::spawn(async move { fill(&client, count, &next, &done).await })
    });
    let work: Vec<_> = work.collect();
    let watch = tokio::spawn({
        let done = done.clone();
        async move {
            loop {
                tokio::time::sleep(REPORT_EVERY).await;
                let (blocks, seconds) = (done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
                eprintln!("{blocks} blocks in {seconds:.0} s, {:.0} a second", blocks as f64 / seconds);
            }
        }
    });
    for task in work {
        task.await??;
    }
    watch.abort();
    println!("{} blocks in {:.0} s", done.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    client.close().await;
    Ok(())
}

/// Makes files until there are enough.
async fn fill(client: &DfsClient, count: u64, next: &AtomicU64, done: &AtomicU64) -> Result<()> {
    let content = Bytes::from(vec![0x5a; WRITTEN]);
    loop {
        let file = next.fetch_add(1, Ordering::Relaxed);
        let first = file * BLOCKS_PER_FILE;
        if first >= count {
            return Ok(());
        }
        let path = format!("/many/{file}");
        let options = OpenOptions::new().create(true).attributes(CreateOptions::new().block_len(BLOCK_LEN));
        let file = client.open_with(&path, options).await.with_context(|| format!("making {path}"))?;
        for index in 0..BLOCKS_PER_FILE.min(count - first) {
            file.write_at(index * u64::from(BLOCK_LEN), content.clone()).await?;
            done.fetch_add(1, Ordering::Relaxed);
        }
    }
}
