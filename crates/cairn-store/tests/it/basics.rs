//! What a caller may rely on, on the operating system's disk and in one thread.

use crate::support::*;
use bytes::Bytes;
use cairn_proto::checksum::chunk_crcs;
use cairn_proto::{BlockId, PgEpoch, PgId, WriterId};
use cairn_store::{
    BlockKey, Cause, Durability, ErrorKind, OpenDiskError, OpenError, Put, PutError, ReadError, RealDisk, Store,
    StoreOptions, SyncError,
};
use std::sync::Arc;

fn real_disk() -> (tempfile::TempDir, Arc<RealDisk>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path().join("store")).unwrap());
    (dir, disk)
}

#[test]
fn blocks_of_all_lengths_come_back_also_after_reopening() {
    let (_dir, disk) = real_disk();
    let (store, report) = open(&disk, manual());
    assert!(report.created && !report.is_damaged());
    let (uuid, incarnation) = (store.uuid(), store.incarnation());
    let lens = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 300_000, 3 << 20];
    for (n, len) in (0..).zip(lens) {
        put_durable(&store, n, len);
    }
    for (n, len) in (0..).zip(lens) {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, len));
        store.verify(key(n)).unwrap();
    }
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.created && !report.is_damaged() && report.scanned_records == 0, "{report:?}");
    assert_eq!(report.blocks, lens.len() as u64);
    assert_eq!(store.uuid(), uuid);
    assert_ne!(incarnation.0, 0);
    assert_eq!(store.highest_writer(), WriterId(5));
    for (n, len) in (0..).zip(lens) {
        assert_eq!(read(&store, key(n)).unwrap(), content(n, len));
        let block = store.read(key(n)).unwrap();
        assert_eq!((block.pg(), block.pg_epoch(), block.file_offset_hint()), (PG, PgEpoch(3), 42));
        assert!(block.os_file().is_some());
    }
}

#[test]
fn content_in_parts_of_any_length_is_one_block() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let whole = content(1, 700_001);
    let cuts = [0, 1, 2, 65_536, 65_537, 131_072, 131_072, 400_000, 700_001];
    let parts = cuts.windows(2).map(|cut| Bytes::copy_from_slice(&whole[cut[0]..cut[1]])).collect();
    let mut request = put_of(key(1), whole.clone(), Durability::Durable);
    request.parts = parts;
    put(&store, request.clone()).unwrap();
    assert_eq!(read(&store, key(1)).unwrap(), whole);
    let block = store.read(key(1)).unwrap();
    assert_eq!(block.read_at(65_530, 12).unwrap(), whole[65_530..65_542]);
    assert!(block.read_at(700_000, 2).is_err());
    assert!(block.read_at(u32::MAX, 2).is_err());

    request.key = key(2);
    assert!(
        matches!(put(&store, request), Err(PutError::ChecksumMismatch { chunk: 0, .. })),
        "another block's checksums"
    );
}

#[test]
fn wrong_calls_are_refused_and_store_nothing() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let good = put_of(key(1), content(1, 200_000), Durability::Durable);
    let mut bad = good.clone();
    bad.crcs[2] ^= 1;
    assert!(matches!(put(&store, bad), Err(PutError::ChecksumMismatch { chunk: 2, .. })));
    let mut bad = good.clone();
    bad.crcs.pop();
    assert!(matches!(put(&store, bad), Err(PutError::Invalid(_))));
    let mut bad = good;
    bad.parts = vec![Bytes::from(vec![0; 1 << 20]); 65];
    assert_eq!(put(&store, bad).unwrap_err().kind(), ErrorKind::FixCall);
    assert!(delete(&store, vec![key(1); 1025]).is_err());
    assert!(sync(&store, vec![key(1); 1025]).is_err());
    assert!(matches!(store.read(key(1)), Err(ReadError::NotFound { .. })));
    assert_eq!(store.usage().blocks, 0);
}

#[test]
fn the_same_content_again_succeeds_and_other_content_conflicts() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 100_000);
    let used = store.usage().used_bytes;
    let again = put(&store, put_of(key(1), content(1, 100_000), Durability::Durable)).unwrap();
    assert!(again.existed && again.durable);
    for other in [content(2, 100_000), content(1, 99_999)] {
        let refused = put(&store, put_of(key(1), other, Durability::Durable));
        assert!(matches!(refused, Err(PutError::Conflict(_))));
    }
    assert_eq!(store.usage().used_bytes, used);
    // Twice in one batch.
    let first = begin_put(&store, put_of(key(5), content(5, 10), Durability::Relaxed));
    let second = begin_put(&store, put_of(key(5), content(5, 10), Durability::Durable));
    let third = begin_put(&store, put_of(key(5), content(6, 10), Durability::Durable));
    store.run_pending();
    assert!(!first.recv().unwrap().unwrap().existed);
    assert!(second.recv().unwrap().unwrap().existed);
    assert!(third.recv().unwrap().is_err());
}

#[test]
fn sync_names_what_is_missing() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    put(&store, put_of(key(1), content(1, 10), Durability::Unsynced)).unwrap();
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 10), "accepted is readable");
    put(&store, put_of(key(3), content(3, 10), Durability::Durable)).unwrap();
    assert!(store.quarantine(key(3), Cause::Payload));
    let ack = sync(&store, vec![key(1), key(2), key(3)]).unwrap();
    assert_eq!(ack.missing, [key(2), key(3)]);
    assert_eq!(ack.incarnation, store.incarnation());
}

#[test]
fn a_delete_frees_space_and_lasts() {
    let (_dir, disk) = real_disk();
    let keep_nothing = || StoreOptions { recycle_bytes: Some(0), ..manual() };
    let (store, _) = open(&disk, keep_nothing());
    for n in 0..10 {
        put_durable(&store, n, 400_000);
    }
    let before = store.usage();
    assert_eq!(delete(&store, (0..5).map(key).chain([key(77)]).collect()).unwrap().deleted, 5);
    assert_eq!(delete(&store, vec![key(0)]).unwrap().deleted, 0, "already");
    let after = store.usage();
    assert_eq!(after.blocks, 5);
    assert!(before.used_bytes - after.used_bytes > 5 * 400_000 - 8192, "{before:?} {after:?}");
    let on_disk = |dir: &std::path::Path| -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().blocks() * 512).sum()
    };
    assert!(on_disk(&disk.root().join("segments")) <= after.used_bytes, "payloads are punched");
    drop(store);
    let (store, _) = open(&disk, keep_nothing());
    assert!(store.usage().used_bytes <= after.used_bytes, "less where a segment without blocks was removed");
    for n in 0..10 {
        assert_eq!(store.read(key(n)).is_ok(), n >= 5);
    }
    put_durable(&store, 0, 400_000);
    assert_eq!(read(&store, key(0)).unwrap(), content(0, 400_000), "a straggler may store it again");
}

#[test]
fn segments_without_blocks_are_removed_in_order() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let count = |disk: &RealDisk| {
        let files = std::fs::read_dir(disk.root().join("segments")).unwrap();
        files.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|end| end == "seg")).count()
    };
    for n in 0..20 {
        put_durable(&store, n, 300_000);
    }
    assert_eq!(count(&disk), 7);
    delete(&store, (0..9).map(key).collect()).unwrap();
    store.checkpoint();
    assert_eq!(count(&disk), 4, "three segments of three blocks are gone");
    delete(&store, (9..20).map(key).collect()).unwrap();
    store.checkpoint();
    store.checkpoint();
    assert_eq!(count(&disk), 1);
    drop(store);
    let (store, report) = open(&disk, manual());
    assert!(!report.is_damaged(), "{report:?}");
    assert_eq!(store.usage().blocks, 0);
    assert_eq!(store.highest_writer(), WriterId(5));
}

#[test]
fn inventories_are_by_group_in_key_order_and_paged() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let mut expected = Vec::new();
    for n in 0..50 {
        let mut request = put_of(key(n), content(n, 10 + n as usize), Durability::Relaxed);
        request.pg = PgId(n % 2);
        put(&store, request).unwrap();
        if n % 2 == 1 {
            expected.push(key(n));
        }
    }
    store.quarantine(expected.pop().unwrap(), Cause::Payload);
    expected.sort();
    let mut listed: Vec<BlockKey> = Vec::new();
    loop {
        let page = store.list(PgId(1), listed.last().copied(), 7);
        assert!(page.iter().all(|block| block.len == 10 + block.key.block.seq.0));
        listed.extend(page.iter().map(|block| block.key));
        if page.len() < 7 {
            break;
        }
    }
    assert_eq!(listed, expected);
}

#[test]
fn what_nobody_waits_for_at_its_turn_is_not_done() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let (sender, answers) = std::sync::mpsc::channel();
    let begin = |n: u32, wanted: bool| {
        let sender = sender.clone();
        let done = Box::new(move |result: Result<_, PutError>| sender.send((n, result.is_ok())).unwrap());
        store.put_while(put_of(key(n), content(n, 100), Durability::Unsynced), Box::new(move || wanted), done);
    };
    begin(1, true);
    begin(2, false);
    begin(3, true);
    store.run_pending();
    let mut answers: Vec<(u32, bool)> = answers.try_iter().collect();
    answers.sort_unstable();
    assert_eq!(answers, [(1, true), (2, false), (3, true)]);
    assert_eq!(store.usage().blocks, 2);
    assert_eq!(read(&store, key(3)).unwrap(), content(3, 100));
    let (sender, answer) = std::sync::mpsc::channel();
    let done = Box::new(move |result: Result<_, SyncError>| sender.send(result.map(drop)).unwrap());
    store.sync_while(vec![key(1)], Box::new(|| false), done);
    store.run_pending();
    assert!(matches!(answer.recv().unwrap(), Err(SyncError::Abandoned(_))));
    assert_eq!(store.counts().abandoned, 2);
    // Their places in the queue are free again.
    put_durable(&store, 2, 100);
}

#[test]
fn blocks_of_a_writer_are_listed_over_all_groups_and_states() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    let mut expected = Vec::new();
    for n in 0..50 {
        let pg = PgId(n % 2);
        put(&store, Put { pg, ..put_of(key(n), content(n, 10), Durability::Relaxed) }).unwrap();
        expected.push((key(n), pg));
    }
    expected.sort();
    let of = |writer: u64| move |found: WriterId| found == WriterId(writer);
    let mut listed: Vec<(BlockKey, PgId)> = Vec::new();
    loop {
        let page = store.list_of(&of(5), listed.last().map(|(key, _)| *key), 7);
        let last = page.len() < 7;
        listed.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(listed, expected);
    assert!(store.list_of(&of(6), None, 7).is_empty());
    let late = BlockKey::replica(BlockId::new(1, 9, 0));
    put(&store, put_of(late, vec![1], Durability::Durable)).unwrap();
    store.quarantine(late, Cause::Payload);
    assert_eq!(store.list_of(&of(9), None, 7), [(late, PG)]);
    assert_eq!(store.writers_after(WriterId(0), 7), [WriterId(5), WriterId(9)].into());
    assert_eq!(store.writers_after(WriterId(0), 1), [WriterId(5)].into());
    assert_eq!(store.writers_after(WriterId(5), 7), [WriterId(9)].into());
}

#[test]
fn a_directory_is_held_by_one() {
    let (_dir, disk) = real_disk();
    assert!(matches!(RealDisk::open(disk.root()), Err(OpenDiskError::Locked { .. })));
    let root = disk.root().to_owned();
    drop(disk);
    RealDisk::open(root).unwrap();
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let (_dir, disk) = real_disk();
    drop(open(&disk, manual()));
    let path = disk.root().join("store.id");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = cairn_proto::checksum::crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let refused = Store::open(disk, manual()).err().unwrap();
    assert!(matches!(refused, OpenError::Version { version: 2, known: 1, .. }));
    assert_eq!(refused.to_string(), "store.id has format version 2, this program knows 1");
}

#[test]
fn a_closed_store_reads_and_refuses_the_rest() {
    let (_dir, disk) = real_disk();
    let (store, _) = open(&disk, manual());
    put_durable(&store, 1, 10);
    store.close();
    store.close();
    assert!(matches!(put(&store, put_of(key(2), content(2, 1), Durability::Durable)), Err(PutError::Closed(_))));
    assert!(delete(&store, vec![key(1)]).is_err() && sync(&store, vec![]).is_err());
    assert_eq!(read(&store, key(1)).unwrap(), content(1, 10));
}

#[test]
fn a_batch_is_one_write_and_one_sync() {
    let disk = crate::sim_disk::SimDisk::new();
    let (store, _) = open(&disk, manual());
    let before = disk.counts();
    let answers: Vec<_> =
        (0..50).map(|n| begin_put(&store, put_of(key(n), content(n, 5000), Durability::Durable))).collect();
    let waiting = store.counts();
    assert_eq!((waiting.waiting_requests, waiting.waiting_bytes, waiting.batches), (50, 250_000, 0));
    store.run_pending();
    assert!(answers.iter().all(|answer| answer.recv().unwrap().unwrap().durable));
    let counts = store.counts();
    assert_eq!((counts.waiting_requests, counts.waiting_bytes), (0, 0));
    assert_eq!((counts.batches, counts.batched_requests), (1, 50));
    assert_eq!((counts.sync_rounds, counts.sync_waiters), (1, 50));
    let after = disk.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1));
    let unsynced = begin_put(&store, put_of(key(60), content(1, 1), Durability::Unsynced));
    store.run_pending();
    assert!(!unsynced.recv().unwrap().unwrap().durable);
    assert_eq!(disk.counts().syncs, after.syncs, "nobody asked");
}

#[test]
fn checksums_of_parts_equal_those_of_the_whole() {
    let whole = content(3, 200_000);
    assert_eq!(chunk_crcs(key(3).block, key(3).shard, &whole).len(), 4);
}
