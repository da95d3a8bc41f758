//! What all tests use: content, calls that wait for their answer, stores on either kind of disk.

use crate::sim_disk::SimDisk;
use bytes::Bytes;
use cairn_proto::checksum::chunk_crcs;
use cairn_proto::{BlockId, PgEpoch, PgId, Shard};
use cairn_store::{
    BlockKey, DeleteAck, DeleteError, Disk, Durability, Execution, OpenReport, Put, PutAck, PutError, ReadError,
    RealDisk, Store, StoreOptions, SyncAck, SyncError,
};
use std::sync::{Arc, mpsc};

pub const PG: PgId = PgId(7);

pub fn key(n: u32) -> BlockKey {
    BlockKey::replica(BlockId::new(1 + u64::from(n % 3), 5, n))
}

/// Content that tells blocks and offsets apart.
pub fn content(n: u32, len: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(u64::from(n) << 32 | len as u64);
    let mut content = vec![0; len];
    rng.fill(&mut content);
    content
}

pub fn put_of(key: BlockKey, content: Vec<u8>, durability: Durability) -> Put {
    let crcs = chunk_crcs(key.block, key.shard, &content);
    Put { key, pg: PG, pg_epoch: PgEpoch(3), parts: vec![Bytes::from(content)], crcs, file_offset_hint: 42, durability }
}

/// A put without answer yet.
pub fn begin_put(store: &Store, put: Put) -> mpsc::Receiver<Result<PutAck, PutError>> {
    let (sender, receiver) = mpsc::channel();
    store.put(put, Box::new(move |result| sender.send(result).unwrap_or(())));
    receiver
}

pub fn begin_delete(store: &Store, keys: Vec<BlockKey>) -> mpsc::Receiver<Result<DeleteAck, DeleteError>> {
    let (sender, receiver) = mpsc::channel();
    store.delete(keys, Box::new(move |result| sender.send(result).unwrap_or(())));
    receiver
}

pub fn begin_sync(store: &Store, keys: Vec<BlockKey>) -> mpsc::Receiver<Result<SyncAck, SyncError>> {
    let (sender, receiver) = mpsc::channel();
    store.sync(keys, Box::new(move |result| sender.send(result).unwrap_or(())));
    receiver
}

pub fn put(store: &Store, put: Put) -> Result<PutAck, PutError> {
    let answer = begin_put(store, put);
    store.run_pending();
    answer.recv().expect("every put is answered")
}

pub fn put_durable(store: &Store, n: u32, len: usize) {
    let ack = put(store, put_of(key(n), content(n, len), Durability::Durable)).unwrap();
    assert!(ack.durable);
}

pub fn delete(store: &Store, keys: Vec<BlockKey>) -> Result<DeleteAck, DeleteError> {
    let answer = begin_delete(store, keys);
    store.run_pending();
    answer.recv().expect("every delete is answered")
}

pub fn sync(store: &Store, keys: Vec<BlockKey>) -> Result<SyncAck, SyncError> {
    let answer = begin_sync(store, keys);
    store.run_pending();
    answer.recv().expect("every sync is answered")
}

/// Reads and verifies a whole block, as a client does.
pub fn read(store: &Store, key: BlockKey) -> Result<Vec<u8>, ReadError> {
    let block = store.read(key)?;
    assert_eq!(block.key(), key);
    let bytes = block.read_at(0, block.len()).map_err(|source| ReadError::Io { key, source })?;
    let mismatch = cairn_proto::checksum::first_mismatch(key.block, Shard(0), 0, &bytes, block.crcs());
    match mismatch {
        None => Ok(bytes.into()),
        Some(_) => Err(store.verify(key).expect_err("the reader found a bad chunk")),
    }
}

pub fn manual() -> StoreOptions {
    StoreOptions {
        execution: Execution::Manual,
        segment_len: 1 << 20,
        reserve_bytes: Some(0),
        entropy: entropy(1),
        ..StoreOptions::default()
    }
}

pub fn entropy(seed: u64) -> Arc<dyn Fn() -> u128 + Send + Sync> {
    let rng = std::sync::Mutex::new(fastrand::Rng::with_seed(seed));
    Arc::new(move || rng.lock().unwrap().u128(..))
}

/// A disk that outlives the processes that use it.
pub trait Lasting {
    fn mounted(&self) -> Arc<dyn Disk>;
}

impl Lasting for Arc<RealDisk> {
    fn mounted(&self) -> Arc<dyn Disk> {
        Arc::clone(self) as Arc<dyn Disk>
    }
}

impl Lasting for Arc<SimDisk> {
    fn mounted(&self) -> Arc<dyn Disk> {
        self.mount()
    }
}

pub fn open(disk: &impl Lasting, options: StoreOptions) -> (Store, OpenReport) {
    Store::open(disk.mounted(), options).unwrap()
}
