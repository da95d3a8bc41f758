//! One client, one big file, from front to back.

use super::{Durability, groups};
use crate::args::BLOCK_LEN;
use crate::cluster::Cluster;
use crate::payload;
use crate::sample::{Sample, Unit, Watch};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use cairn_client::{DfsClient, OpenOptions};
use tokio::io::AsyncWriteExt;

/// What is compared of each block read: enough to notice a wrong one, too little to cost time. (Every byte was held
/// against its checksum by the client.)
const COMPARED_LEN: usize = 64;

/// Writes a new file, 4 MiB per call; ends when all of it is visible and as durable as asked for.
pub async fn write(
    cluster: &Cluster,
    client: &DfsClient,
    path: &str,
    pool: &Bytes,
    size: u64,
    durability: Durability,
) -> Result<Sample> {
    let watch = Watch::start(&groups(cluster)?)?;
    let options = OpenOptions::new().create_new(true).relaxed(durability == Durability::Relaxed);
    let mut writer = client.open_with(path, options).await.context("making the big file")?.writer();
    for offset in (0..size).step_by(BLOCK_LEN as usize) {
        let block = payload::at(pool, offset, BLOCK_LEN as usize);
        writer.write_all(&block).await.with_context(|| format!("writing at {offset}"))?;
    }
    writer.shutdown().await.context("ending the big file")?;
    watch.stop(Unit::Bytes, size)
}

/// Reads it back, block by block as the library hands them out.
pub async fn read(cluster: &Cluster, client: &DfsClient, path: &str, pool: &Bytes, size: u64) -> Result<Sample> {
    let watch = Watch::start(&groups(cluster)?)?;
    let file = client.open_with(path, OpenOptions::new().create(false)).await.context("opening the big file")?;
    let mut reader = file.reader();
    for offset in (0..size).step_by(BLOCK_LEN as usize) {
        let block = reader.next_bytes().await.with_context(|| format!("reading at {offset}"))?;
        ensure!(block.len() == BLOCK_LEN as usize, "{} bytes came at {offset} instead of a block", block.len());
        let expected = payload::at(pool, offset, BLOCK_LEN as usize);
        let is_right = block[..COMPARED_LEN] == expected[..COMPARED_LEN]
            && block[block.len() - COMPARED_LEN..] == expected[expected.len() - COMPARED_LEN..];
        ensure!(is_right, "the block at {offset} is not what was written");
    }
    let end = reader.next_bytes().await.context("reading the end")?;
    ensure!(end.is_empty(), "the big file is longer than what was written");
    watch.stop(Unit::Bytes, size)
}
