#![allow(clippy::disallowed_methods, reason = "tests look at real files")]

use super::*;
use crate::limits::DISK_SIZE_MIN;
use crate::testing::{Errors, Failing, chunk, key};
use std::path::Path;
use tempfile::TempDir;

const ENOSPC: i32 = 28;
const EIO: i32 = 5;

async fn start(dir: &Path) -> (DiskTier, Arc<Errors>) {
    let (files, errors) = Failing::new(dir);
    let tier = DiskTier::new(dir.to_owned(), Arc::new(files), DISK_SIZE_MIN);
    tier.start([1; 16]);
    tier.settle().await;
    (tier, errors)
}

async fn get(tier: &DiskTier, seq: u32) -> Option<CachedChunk> {
    tier.load(key(seq).block, 0..1).await.remove(0)
}

fn segments(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".seg")).count()
}

#[tokio::test]
async fn chunks_are_written_beside_and_read_back() {
    let dir = TempDir::new().unwrap();
    let (tier, _) = start(dir.path()).await;
    assert_eq!(get(&tier, 1).await, None);
    tier.keep(key(1), chunk(1));
    tier.settle().await;
    assert_eq!(get(&tier, 1).await, Some(chunk(1)));
    let stats = tier.stats();
    assert_eq!((stats.chunks, stats.hits, stats.dropped, stats.is_off), (1, 1, 0, false));
    tier.remove(key(1));
    assert_eq!(get(&tier, 1).await, None);
}

#[tokio::test]
async fn a_full_disk_ends_it_and_gets_its_room_back() {
    let dir = TempDir::new().unwrap();
    let (tier, errors) = start(dir.path()).await;
    tier.keep(key(1), chunk(1));
    tier.settle().await;
    assert_eq!(segments(dir.path()), 1);
    errors.write.store(ENOSPC, Ordering::Relaxed);
    tier.keep(key(2), chunk(2));
    tier.settle().await;
    assert!(tier.stats().is_off);
    assert_eq!(segments(dir.path()), 0);
    assert_eq!((get(&tier, 1).await, get(&tier, 2).await), (None, None));
    errors.write.store(0, Ordering::Relaxed);
    tier.keep(key(3), chunk(3));
    tier.settle().await;
    assert_eq!((get(&tier, 3).await, segments(dir.path())), (None, 0), "until the next start");
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_ends_it() {
    let dir = TempDir::new().unwrap();
    let (tier, errors) = start(dir.path()).await;
    tier.keep(key(1), chunk(1));
    tier.settle().await;
    errors.read.store(EIO, Ordering::Relaxed);
    assert_eq!(get(&tier, 1).await, None);
    assert!(tier.stats().is_off);
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_no_reason_to_fail() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let (tier, _) = start(&dir.path().join("file")).await;
    tier.keep(key(1), chunk(1));
    tier.settle().await;
    assert!(tier.stats().is_off);
    assert_eq!(get(&tier, 1).await, None);
}
