//! Bits that flip in blocks that lie on the disks of nodes: one replica of each block is damaged, two stay clean.

use super::{Noticed, Reader, write_file};
use crate::cluster::Cluster;
use crate::payload::{self, LINE, Mark};
use anyhow::{Context as _, Result, ensure};
use cairn_client::DfsClient;
use fastrand::Rng;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

const FILE: u32 = 2;
/// One chunk: whatever is read of it, all of it is verified.
const BLOCK_LEN: u32 = 64 * 1024;
const READ_LEN: usize = 4096;
/// Every block is read again and again until each damaged replica was asked.
const PATIENCE: Duration = Duration::from_secs(300);
/// Segment files lie below the directory of a node.
const DEPTH_MAX: usize = 4;

/// Where a block's content begins.
struct Place {
    path: PathBuf,
    at: u64,
}

pub(super) async fn run(cluster: &Cluster, client: &DfsClient, reader: &mut Reader, wanted: u64) -> Result<()> {
    let file = write_file(client, "/bits-on-disk", FILE, wanted * u64::from(BLOCK_LEN), BLOCK_LEN).await?;
    reader.file = file;
    let dirs: Vec<PathBuf> =
        (1..=cluster.nodes().len()).map(|node| cluster.data().join(format!("node-{node}"))).collect();
    let mut random = Rng::with_seed(reader.random.u64(..));
    let stats = client.get_connection_stats().await;
    let before: Vec<u64> = (0..dirs.len()).map(|node| Noticed::of(&stats, node).corrupt).collect();
    let mut made = vec![0; dirs.len()];
    let places: Vec<HashMap<u64, Place>> =
        tokio::task::spawn_blocking(move || dirs.iter().map(|dir| find_blocks(dir)).collect::<Result<_>>()).await??;
    for block in 0..wanted {
        let node = random.usize(..made.len());
        let offset = block * u64::from(BLOCK_LEN);
        // A straggler of the write may have reached only two of them.
        let node = (0..made.len()).map(|i| (node + i) % made.len()).find(|node| places[*node].contains_key(&offset));
        let node = node.with_context(|| format!("block {block} is on no disk"))?;
        flip(&places[node][&offset], &mut random)?;
        made[node] += 1;
    }
    let begun = Instant::now();
    let noticed = loop {
        for block in 0..wanted {
            reader.read(Mark { file: FILE, seq: 0 }, block * u64::from(BLOCK_LEN), READ_LEN).await;
        }
        let stats = client.get_connection_stats().await;
        let noticed: Vec<u64> =
            before.iter().enumerate().map(|(node, before)| Noticed::of(&stats, node).corrupt - before).collect();
        if noticed.iter().sum::<u64>() >= wanted || begun.elapsed() > PATIENCE {
            break noticed;
        }
    };
    reader.outcome.on_disk += wanted;
    reader.outcome.injected += wanted;
    reader.outcome.detected += noticed.iter().sum::<u64>();
    reader.outcome.reported_with_node +=
        noticed.iter().zip(&made).map(|(noticed, made)| noticed.min(made)).sum::<u64>();
    Ok(())
}

fn flip(place: &Place, random: &mut Rng) -> Result<()> {
    let file = fs::OpenOptions::new().read(true).write(true).open(&place.path).context("opening a segment")?;
    let at = place.at + random.u64(..u64::from(BLOCK_LEN));
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << random.u8(..8);
    file.write_all_at(&byte, at).context("damaging a segment")?;
    Ok(())
}

/// The blocks of the file in all files below a directory, by their offset in the file.
fn find_blocks(dir: &Path) -> Result<HashMap<u64, Place>> {
    let mut places = HashMap::new();
    let mut left = vec![(dir.to_owned(), 0)];
    while let Some((path, depth)) = left.pop() {
        if path.is_dir() {
            if depth < DEPTH_MAX {
                let entries = fs::read_dir(&path).with_context(|| format!("looking into {}", path.display()))?;
                for entry in entries {
                    left.push((entry?.path(), depth + 1));
                }
            }
            continue;
        }
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        for (offset, at) in blocks_in(&bytes) {
            places.insert(offset, Place { path: path.clone(), at: at as u64 });
        }
    }
    ensure!(!places.is_empty(), "no block of the file lies below {}", dir.display());
    Ok(places)
}

/// Blocks of the file in the bytes of a segment: offset in the file, and place.
fn blocks_in(bytes: &[u8]) -> Vec<(u64, usize)> {
    let name = payload::content(Mark { file: FILE, seq: 0 }, 0, LINE).slice(..8);
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK_LEN as usize <= bytes.len() {
        if bytes[at..at + 8] == name[..] {
            let offset = bytes[at + 8..at + 16].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
            let content = &bytes[at..at + BLOCK_LEN as usize];
            if offset.is_multiple_of(BLOCK_LEN.into())
                && payload::wrong_bytes(Mark { file: FILE, seq: 0 }, offset, content) == 0
            {
                found.push((offset, at));
                at += BLOCK_LEN as usize;
                continue;
            }
        }
        at += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_bytes() {
        let mark = Mark { file: FILE, seq: 0 };
        let mut bytes = vec![1; 100];
        bytes.extend_from_slice(&payload::content(mark, 0, BLOCK_LEN as usize));
        bytes.extend_from_slice(&[2; 33]);
        bytes.extend_from_slice(&payload::content(mark, BLOCK_LEN.into(), BLOCK_LEN as usize));
        bytes.extend_from_slice(&payload::content(Mark { file: FILE + 1, seq: 0 }, 0, BLOCK_LEN as usize));
        let second = 100 + BLOCK_LEN as usize + 33;
        assert_eq!(blocks_in(&bytes), [(0, 100), (BLOCK_LEN.into(), second)]);
        bytes[second + 70] ^= 1;
        assert_eq!(blocks_in(&bytes), [(0, 100)], "a damaged one is none");
    }
}
