//! Memory and checksums, one thread.

use crate::cpu::Group;
use crate::sample::{Sample, Unit, Watch};
use anyhow::Result;
use cairn_proto::checksum::crc32c;
use cairn_proto::limits::CHUNK_LEN;
use std::hint::black_box;

/// Copies `size` bytes from one buffer bigger than the caches to another.
pub fn copy(pool: &[u8], size: u64) -> Result<Sample> {
    let mut target = pool.to_vec();
    let watch = Watch::start(&[Group::own("bench")])?;
    let mut left = size;
    while left > 0 {
        let len = left.min(pool.len() as u64) as usize;
        black_box(&mut target)[..len].copy_from_slice(&black_box(pool)[..len]);
        left -= len as u64;
    }
    watch.stop(Unit::Bytes, size)
}

/// Checksums `size` bytes as a client does.
pub fn checksum(pool: &[u8], size: u64) -> Result<Sample> {
    let watch = Watch::start(&[Group::own("bench")])?;
    let mut left = size;
    while left > 0 {
        let len = left.min(pool.len() as u64) as usize;
        for chunk in black_box(&pool[..len]).chunks(CHUNK_LEN as usize) {
            black_box(crc32c(chunk));
        }
        left -= len as u64;
    }
    watch.stop(Unit::Bytes, size)
}
