use super::*;
use cairn_proto::PgId;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::Notify;

const BLOCK: BlockId = BlockId::new(1, 2, 3);

/// Keeps everything; what is in `slow` has to be loaded.
#[derive(Default)]
struct Keep {
    quick: Mutex<HashMap<ChunkKey, CachedChunk>>,
    slow: Mutex<HashMap<ChunkKey, CachedChunk>>,
}

impl BlockCache for Keep {
    fn attach(&self, _: [u8; 16]) -> CacheFuture<'_, ()> {
        Box::pin(async {})
    }

    fn peek(&self, key: ChunkKey) -> Option<CachedChunk> {
        self.quick.lock().get(&key).cloned()
    }

    fn load(&self, block: BlockId, chunks: Range<u32>) -> CacheFuture<'_, Vec<Option<CachedChunk>>> {
        let slow = self.slow.lock();
        let found = chunks.map(|chunk| slow.get(&ChunkKey { block, chunk }).cloned()).collect();
        Box::pin(async { found })
    }

    fn insert(&self, key: ChunkKey, chunk: CachedChunk) {
        self.quick.lock().insert(key, chunk);
    }

    fn remove(&self, key: ChunkKey) {
        self.quick.lock().remove(&key);
        self.slow.lock().remove(&key);
    }
}

/// A block of two and a half chunks.
fn content() -> Vec<u8> {
    (0..CHUNK_LEN as usize * 5 / 2).map(|i| (i % 251) as u8).collect()
}

fn range(offset: u32, len: u32) -> BlockRange {
    BlockRange { block: BLOCK, pg: PgId(1), offset, len, target: 77 }
}

/// What a storage node answers.
fn serve(range: BlockRange) -> Result<Verified, Error> {
    let content = content();
    let first_chunk = range.offset / CHUNK_LEN;
    let from = (first_chunk * CHUNK_LEN) as usize;
    let to = ((range.offset + range.len).next_multiple_of(CHUNK_LEN) as usize).min(content.len());
    let crcs = checksum::chunk_crcs(BLOCK, Shard(0), &content);
    let count = (to - from).div_ceil(CHUNK_LEN as usize);
    let crcs = crcs[first_chunk as usize..first_chunk as usize + count].to_vec();
    Ok(Verified { first_chunk, body: Bytes::copy_from_slice(&content[from..to]), crcs })
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Reads, and says which range was fetched, if one was.
async fn read(front: &CacheFront, offset: u32, len: u32) -> Option<(u32, u32)> {
    let fetched = Mutex::new(None);
    let fetch = |range: BlockRange| {
        *fetched.lock() = Some((range.offset, range.len));
        async move { serve(range) }
    };
    let got = front.read(&range(offset, len), far(), fetch).await.unwrap();
    assert_eq!(&got[..], &content()[offset as usize..(offset + len) as usize], "at {offset} for {len}");
    fetched.into_inner()
}

#[tokio::test]
async fn every_range_comes_out_right_whatever_is_cached() {
    let edges = [0, 1, CHUNK_LEN - 1, CHUNK_LEN, CHUNK_LEN + 1, 2 * CHUNK_LEN, content().len() as u32];
    for kept in 0..8u32 {
        for slow in [false, true] {
            for (from, to) in edges.iter().flat_map(|from| edges.iter().map(move |to| (*from, *to))) {
                if from >= to {
                    continue;
                }
                let keep = Arc::new(Keep::default());
                let all = serve(range(0, content().len() as u32)).unwrap();
                for chunk in (0..3).filter(|chunk| kept & 1 << chunk != 0) {
                    let map = if slow { &keep.slow } else { &keep.quick };
                    map.lock().insert(ChunkKey { block: BLOCK, chunk }, all.chunk(chunk).unwrap());
                }
                let front = CacheFront::new(keep);
                let wanted: Vec<u32> = (from / CHUNK_LEN..=(to - 1) / CHUNK_LEN).collect();
                let missing: Vec<u32> = wanted.iter().copied().filter(|chunk| kept & 1 << chunk == 0).collect();
                let fetched = read(&front, from, to - from).await;
                assert_eq!(fetched.is_some(), !missing.is_empty());
                if let (Some((offset, len)), Some(first), Some(last)) = (fetched, missing.first(), missing.last()) {
                    assert_eq!(offset, first * CHUNK_LEN);
                    assert_eq!(len, to.min((last + 1) * CHUNK_LEN) - offset, "nothing beyond what the map promises");
                }
                assert_eq!(front.stats().misses as usize, missing.len());
                assert_eq!(read(&front, from, to - from).await, None, "the second time everything is there");
            }
        }
    }
}

#[tokio::test]
async fn damaged_misplaced_and_short_chunks_are_fetched_again() {
    let all = serve(range(0, content().len() as u32)).unwrap();
    let good = all.chunk(1).unwrap();
    let mut flipped = good.bytes.to_vec();
    flipped[100] ^= 1;
    let spoilt = [
        CachedChunk { bytes: flipped.into(), ..good },
        CachedChunk { bytes: good.bytes.slice(..100), ..good },
        all.chunk(0).unwrap(),
    ];
    for (index, chunk) in spoilt.into_iter().enumerate() {
        let keep = Arc::new(Keep::default());
        let map = if index == 0 { &keep.slow } else { &keep.quick };
        map.lock().insert(ChunkKey { block: BLOCK, chunk: 1 }, chunk);
        let front = CacheFront::new(keep.clone());
        assert_eq!(read(&front, CHUNK_LEN, 1000).await, Some((CHUNK_LEN, 1000)), "{index}");
        assert_eq!((front.stats().damaged, front.stats().misses, front.stats().hits), (1, 1, 0));
        assert_eq!(read(&front, CHUNK_LEN, 1000).await, None, "the good one took its place");
    }
}

#[tokio::test]
async fn one_read_fetches_for_all_that_want_the_same() {
    let front = Arc::new(CacheFront::new(Arc::new(Keep::default())));
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let fetches = Arc::new(AtomicUsize::new(0));
    let read = |offset: u32, len: u32| {
        let (front, begun, go, fetches) = (front.clone(), begun.clone(), go.clone(), fetches.clone());
        tokio::spawn(async move {
            let fetch = |range| async move {
                fetches.fetch_add(1, Ordering::Relaxed);
                begun.notify_one();
                go.notified().await;
                serve(range)
            };
            front.read(&range(offset, len), far(), fetch).await.unwrap()
        })
    };
    let first = read(0, 2 * CHUNK_LEN);
    begun.notified().await;
    let others: Vec<_> = (0..8).map(|i| read(i * 1000, CHUNK_LEN)).collect();
    tokio::task::yield_now().await;
    go.notify_one();
    first.await.unwrap();
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(fetches.load(Ordering::Relaxed), 1);
    assert!(front.flights.under_way.lock().is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn a_read_that_is_given_up_makes_way_for_the_next() {
    let front = Arc::new(CacheFront::new(Arc::new(Keep::default())));
    let begun = Arc::new(Notify::new());
    let stuck = {
        let (front, begun) = (front.clone(), begun.clone());
        tokio::spawn(async move {
            let fetch = |_| async move {
                begun.notify_one();
                std::future::pending().await
            };
            front.read(&range(0, 10), far(), fetch).await
        })
    };
    begun.notified().await;
    let front_of_next = front.clone();
    let next = tokio::spawn(async move { read(&front_of_next, 5, 10).await });
    tokio::task::yield_now().await;
    stuck.abort();
    assert_eq!(next.await.unwrap(), Some((0, 15)));
    assert!(front.flights.under_way.lock().is_empty());
}

#[tokio::test]
async fn nobody_waits_for_another_longer_than_until_its_own_deadline() {
    let front = Arc::new(CacheFront::new(Arc::new(Keep::default())));
    let begun = Arc::new(Notify::new());
    let (front_of_stuck, begun_of_stuck) = (front.clone(), begun.clone());
    let stuck = tokio::spawn(async move {
        let fetch = |_| async move {
            begun_of_stuck.notify_one();
            std::future::pending().await
        };
        front_of_stuck.read(&range(0, 10), far(), fetch).await
    });
    begun.notified().await;
    let got = front.read(&range(0, 10), Instant::now(), |range| async move { serve(range) }).await.unwrap();
    assert_eq!(got.len(), 10, "it asks by itself, and is told there that its time is up");
    stuck.abort();
    assert!(stuck.await.unwrap_err().is_cancelled());
    assert!(front.flights.under_way.lock().is_empty());
}
