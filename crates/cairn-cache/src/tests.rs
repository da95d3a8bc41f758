use super::*;
use crate::limits::DISK_SIZE_MIN;
use crate::testing::{chunk, key};
use tempfile::TempDir;

#[tokio::test]
async fn memory_is_bounded_and_what_it_forgot_comes_from_the_disk() {
    let dir = TempDir::new().unwrap();
    let memory = 1024 * 1024;
    let options = CacheOptions { memory, disk: Some((dir.path().to_owned(), DISK_SIZE_MIN)) };
    let cache = LocalCache::new(options.clone());
    cache.attach([1; 16]).await;
    for seq in 0..100 {
        cache.insert(key(seq), chunk(seq));
        cache.settle().await;
        assert!(cache.stats().memory_bytes <= memory);
    }
    let at_hand = (0..100).filter(|seq| cache.peek(key(*seq)).is_some()).count();
    assert!((1..=16).contains(&at_hand), "{at_hand}");
    for seq in 0..100 {
        assert_eq!(cache.load(key(seq).block, 0..2).await, [Some(chunk(seq)), None]);
    }
    drop(cache);
    let cache = LocalCache::new(options);
    cache.attach([1; 16]).await;
    cache.settle().await;
    assert_eq!(cache.peek(key(7)), None);
    assert_eq!(cache.load(key(7).block, 0..1).await, [Some(chunk(7))]);
    assert_eq!(cache.peek(key(7)), Some(chunk(7)), "what the disk gave is in memory from then on");
    cache.remove(key(7));
    assert_eq!(cache.load(key(7).block, 0..1).await, [None]);
    let stats = cache.stats();
    assert_eq!((stats.memory_hits, stats.disk.map(|disk| (disk.hits, disk.chunks))), (1, Some((1, 99))));
}

#[tokio::test]
async fn it_works_with_neither_memory_nor_disk() {
    let cache = LocalCache::new(CacheOptions { memory: 0, disk: None });
    cache.attach([1; 16]).await;
    cache.insert(key(1), chunk(1));
    assert_eq!(cache.peek(key(1)), None);
    assert_eq!(cache.load(key(1).block, 0..3).await, [None, None, None]);
    cache.settle().await;
    assert_eq!(cache.stats(), LocalCacheStats::default());
}
