//! Loading a dump into an empty engine: whole or not at all.
//!
//! A mark is written before the first row and removed with the last transaction, so that no server opens what is half
//! loaded; the next attempt removes such a half and begins anew. Before the mark goes, all rows are read back and held
//! against the sum in the trailer.

use super::log::LoggedGroup;
use super::{
    DUMP_VERSION, FRAME_HEAD, FRAME_TAIL, Frame, MAGIC, PAYLOAD_MAX, PRELUDE_LEN, RowDigest, namespace, parse,
};
use crate::error::OpenError;
use crate::jump;
use crate::keys::{Key, Setting, setting};
use crate::kv::{CommitOutcome, Durability, Engine, EngineError, KeyRange, Order, Txn};
use crate::limits::{ATTEMPTS_MAX, LOAD_BYTES_PER_TX, LOAD_ROWS_PER_TX, SCAN_ROWS};
use crate::rows::{self, Row};
use crate::settings;
use bytes::{Bytes, BytesMut};
use cairn_proto::checksum::crc32c;
use cairn_proto::pb;
use std::sync::Arc;

/// Why a dump was not loaded. The engine is as it was, or marked as half loaded so that no server opens it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine holds a namespace.
    #[error("the target is not empty: a dump is loaded into a new engine only")]
    NotEmpty,
    /// The bytes are no dump.
    #[error("this is not a dump of metadata: it does not begin with {MAGIC:?}", MAGIC = "CAIRNDMP")]
    NotADump,
    /// The dump has a newer form.
    #[error(
        "the dump has version {found}; this program knows versions up to {DUMP_VERSION}: load it with the newer program"
    )]
    NewerDump {
        /// Its version.
        found: u32,
    },
    /// What was dumped is of a newer program, or no engine could hold it.
    #[error(transparent)]
    Refused(#[from] OpenError),
    /// The dump is damaged.
    #[error("the dump is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where the frame begins that is wrong.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The dump ends before its trailer.
    #[error("the dump is cut off at byte {offset}: its end is missing")]
    Truncated {
        /// Where it ends.
        offset: u64,
    },
    /// Somebody else loads into the same engine, or removed the mark.
    #[error("somebody else works on the target at the same time")]
    Contended,
    /// What was read back is not what was written.
    #[error("what was read back differs from the dump: {found:?} instead of {expected:?}")]
    Differs {
        /// By the dump.
        expected: RowDigest,
        /// As read back.
        found: RowDigest,
    },
    /// The engine did not serve.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What a dump is loaded for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The namespace goes on from a moment that may have been long ago: numbers and epochs that were given out since then
    /// are left out, drawn at random from the seed.
    Restore {
        /// Of the random part.
        seed: u64,
    },
    /// The namespace moves as it is: nothing happened since the dump.
    Move,
}

/// A dump on its way into an engine.
pub struct Loader {
    engine: Arc<dyn Engine>,
    purpose: Purpose,
    /// Value of the mark while we work.
    mark: Bytes,
    /// Bytes of the dump that are not worked off, and where they begin.
    buffer: BytesMut,
    offset: u64,
    header: Option<pb::DumpHeader>,
    began: bool,
    expected: Option<RowDigest>,
    verified: bool,
    digest: RowDigest,
    last_key: Vec<u8>,
    batch: Vec<(Vec<u8>, Vec<u8>)>,
    batch_bytes: usize,
}

fn mark_key() -> Vec<u8> {
    Setting { name: Bytes::from_static(setting::LOADING) }.encode()
}

/// Commits what `make` puts into a transaction, again after a conflict or an unknown outcome: it may be repeated.
async fn commit_again(
    engine: &dyn Engine,
    durability: Durability,
    make: impl AsyncFn(&mut Box<dyn Txn>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    for _ in 0..ATTEMPTS_MAX {
        let mut txn = engine.begin().await?;
        match make(&mut txn).await {
            Ok(()) => {}
            Err(LoadError::Engine(EngineError::Conflict)) => continue,
            Err(error) => return Err(error),
        }
        match txn.commit(durability).await {
            Ok(CommitOutcome::Done) => return Ok(()),
            Ok(CommitOutcome::Conflict | CommitOutcome::Unknown) | Err(EngineError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(LoadError::Contended)
}

impl Loader {
    /// Looks whether `engine` can take a dump. `from` says where it comes from, to whoever opens what is half loaded;
    /// `token` tells this attempt from others.
    ///
    /// # Errors
    /// [`LoadError::NotEmpty`], or the engine does not serve.
    pub async fn begin(engine: Arc<dyn Engine>, from: &str, token: u64, purpose: Purpose) -> Result<Self, LoadError> {
        let mut txn = engine.begin().await?;
        let half_loaded = txn.get(&mark_key()).await?.is_some();
        if !half_loaded && !txn.scan(&namespace(), 1, Order::Forward).await?.is_empty() {
            return Err(LoadError::NotEmpty);
        }
        Ok(Self {
            engine,
            purpose,
            mark: format!("{from} (attempt {token:016x})").into(),
            buffer: BytesMut::new(),
            offset: 0,
            header: None,
            began: false,
            expected: None,
            verified: false,
            digest: RowDigest::default(),
            last_key: Vec::new(),
            batch: Vec::new(),
            batch_bytes: 0,
        })
    }

    /// Rows taken so far.
    pub fn digest(&self) -> RowDigest {
        self.digest
    }

    /// What the dump says of itself, once that was read.
    pub fn header(&self) -> Option<&pb::DumpHeader> {
        self.header.as_ref()
    }

    fn damaged<T>(&self, what: &'static str) -> Result<T, LoadError> {
        Err(LoadError::Damaged { offset: self.offset, what })
    }

    /// Takes the next bytes of the dump, of whatever length.
    ///
    /// # Errors
    /// See [`LoadError`]; nothing further may be fed then.
    pub async fn feed(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        self.buffer.extend_from_slice(bytes);
        if !self.began && !self.take_prelude()? {
            return Ok(());
        }
        while let Some(len) = self.frame_len()? {
            let frame = self.buffer.split_to(len).freeze();
            self.take_frame(&frame).await?;
            self.offset += len as u64;
        }
        Ok(())
    }

    fn take_prelude(&mut self) -> Result<bool, LoadError> {
        let seen = self.buffer.len().min(MAGIC.len());
        if self.buffer[..seen] != MAGIC[..seen] {
            return Err(LoadError::NotADump);
        }
        if self.buffer.len() < PRELUDE_LEN {
            return Ok(false);
        }
        let prelude = self.buffer.split_to(PRELUDE_LEN);
        let version = u32::from_le_bytes([prelude[8], prelude[9], prelude[10], prelude[11]]);
        if version > DUMP_VERSION {
            return Err(LoadError::NewerDump { found: version });
        }
        if version == 0 || prelude[12..].iter().any(|byte| *byte != 0) {
            return self.damaged("the first bytes make no sense");
        }
        self.began = true;
        self.offset = PRELUDE_LEN as u64;
        Ok(true)
    }

    /// Length of the frame at the front, once all of it is there.
    fn frame_len(&self) -> Result<Option<usize>, LoadError> {
        let Some(head) = self.buffer.first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let payload = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if payload > PAYLOAD_MAX {
            return self.damaged("a frame is longer than any can be");
        }
        let len = FRAME_HEAD + payload + FRAME_TAIL;
        Ok((self.buffer.len() >= len).then_some(len))
    }

    async fn take_frame(&mut self, frame: &[u8]) -> Result<(), LoadError> {
        let (content, crc) = frame.split_at(frame.len() - FRAME_TAIL);
        if crc32c(content).to_le_bytes() != crc {
            return self.damaged("the checksum of a frame is wrong");
        }
        if self.expected.is_some() {
            return self.damaged("something follows the trailer");
        }
        let Some(parsed) = parse(content[0], &content[FRAME_HEAD..]) else {
            return self.damaged("a frame does not decode");
        };
        match parsed {
            Frame::Header(_) if self.header.is_some() => self.damaged("a second header"),
            Frame::Header(header) => {
                settings::check_versions(header.format_version, header.cluster_version)?;
                self.prepare().await?;
                self.header = Some(*header);
                Ok(())
            }
            _ if self.header.is_none() => self.damaged("the header is missing"),
            Frame::Rows(first, _) if first != self.digest.rows => self.damaged("rows are missing or doubled"),
            Frame::Rows(_, rows) => {
                for (key, value) in rows {
                    if !self.last_key.is_empty() && key <= self.last_key.as_slice() {
                        return self.damaged("rows are out of order");
                    }
                    let range = namespace();
                    if key < range.start.as_slice() || key >= range.end.as_slice() || settings::is_mark(key) {
                        return self.damaged("a row is not one of a namespace");
                    }
                    self.last_key = key.to_vec();
                    self.digest.add(key, value);
                    self.put(key.to_vec(), value.to_vec()).await?;
                }
                Ok(())
            }
            Frame::Trailer(expected) if expected != self.digest => self.damaged("the trailer counts other rows"),
            Frame::Trailer(expected) => {
                self.expected = Some(expected);
                Ok(())
            }
        }
    }

    /// Marks the engine, and removes what an earlier attempt has left.
    async fn prepare(&self) -> Result<(), LoadError> {
        let value = rows::Setting { value: self.mark.clone() }.encode();
        commit_again(&*self.engine, Durability::Durable, async |txn| {
            let half_loaded = txn.get(&mark_key()).await?.is_some();
            if !half_loaded && !txn.scan(&namespace(), 1, Order::Forward).await?.is_empty() {
                return Err(LoadError::NotEmpty);
            }
            txn.put(mark_key(), value.clone());
            Ok(())
        })
        .await?;
        let per_tx = (self.engine.limits().writes / 2).clamp(1, LOAD_ROWS_PER_TX);
        let mut range = namespace();
        loop {
            let mut txn = self.engine.begin().await?;
            let rows = txn.scan(&range, per_tx, Order::Forward).await?;
            drop(txn);
            let Some((last, _)) = rows.last() else { return Ok(()) };
            let next = KeyRange::successor(last);
            self.commit(Durability::Relaxed, async |txn| {
                rows.iter().filter(|(key, _)| *key != mark_key()).for_each(|(key, _)| txn.delete(key.to_vec()));
                Ok(())
            })
            .await?;
            range.start = next;
        }
    }

    /// As [`commit_again`], while the mark is ours.
    async fn commit(
        &self,
        durability: Durability,
        make: impl AsyncFn(&mut Box<dyn Txn>) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let ours = rows::Setting { value: self.mark.clone() }.encode();
        commit_again(&*self.engine, durability, async |txn| {
            if txn.get(&mark_key()).await?.as_deref() != Some(ours.as_slice()) {
                return Err(LoadError::Contended);
            }
            make(txn).await
        })
        .await
    }

    async fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), LoadError> {
        let limits = self.engine.limits();
        let size = key.len() + value.len();
        let full = self.batch.len() + 1 > (limits.writes / 2).clamp(1, LOAD_ROWS_PER_TX)
            || self.batch_bytes + size > (limits.bytes / 2).min(LOAD_BYTES_PER_TX);
        if full && !self.batch.is_empty() {
            self.write_batch(Durability::Relaxed).await?;
        }
        self.batch_bytes += size;
        self.batch.push((key, value));
        Ok(())
    }

    async fn write_batch(&mut self, durability: Durability) -> Result<(), LoadError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        self.commit(durability, async |txn| {
            batch.iter().for_each(|(key, value)| txn.put(key.clone(), value.clone()));
            Ok(())
        })
        .await
    }

    /// The dump has ended: writes the rest and reads everything back.
    ///
    /// # Errors
    /// See [`LoadError`]; the mark stays then.
    pub async fn verify(&mut self) -> Result<(), LoadError> {
        let (Some(expected), Some(_)) = (self.expected, &self.header) else {
            return Err(LoadError::Truncated { offset: self.offset + self.buffer.len() as u64 });
        };
        if !self.buffer.is_empty() {
            return self.damaged("something follows the trailer");
        }
        self.write_batch(Durability::Durable).await?;
        let found = digest_of(&*self.engine).await?;
        if found != expected {
            return Err(LoadError::Differs { expected, found });
        }
        self.verified = true;
        Ok(())
    }

    /// Applies a group of commits that came after the dump, which has been verified.
    ///
    /// # Errors
    /// See [`LoadError`]; the mark stays then.
    pub async fn apply(&mut self, group: &LoggedGroup) -> Result<(), LoadError> {
        let limits = self.engine.limits();
        let per_tx = (limits.writes / 2).clamp(1, LOAD_ROWS_PER_TX);
        let writes: Vec<_> = group.writes.iter().filter(|(key, _)| !settings::is_mark(key)).collect();
        for part in writes.chunks(per_tx) {
            self.commit(Durability::Relaxed, async |txn| {
                for (key, value) in part {
                    match value {
                        Some(value) => txn.put(key.clone(), value.clone()),
                        None => txn.delete(key.clone()),
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Verifies, unless that was done, and removes the mark. The engine can be opened when this returns, and everything is
    /// durable.
    ///
    /// # Errors
    /// See [`LoadError`]; the mark stays then.
    pub async fn finish(mut self) -> Result<(pb::DumpHeader, RowDigest), LoadError> {
        if !self.verified {
            self.verify().await?;
        }
        let (Some(expected), Some(header)) = (self.expected, self.header.take()) else {
            return Err(LoadError::Truncated { offset: self.offset });
        };
        if let Purpose::Restore { seed } = self.purpose {
            self.jump_groups().await?;
            let counters = jump::counters(&*self.engine, &mut fastrand::Rng::with_seed(seed)).await?;
            self.commit(Durability::Durable, async |txn| {
                counters.iter().for_each(|(key, value)| txn.put(key.clone(), value.clone()));
                txn.delete(mark_key());
                Ok(())
            })
            .await?;
        } else {
            self.commit(Durability::Durable, async |txn| {
                txn.delete(mark_key());
                Ok(())
            })
            .await?;
        }
        Ok((header, expected))
    }

    async fn jump_groups(&self) -> Result<(), LoadError> {
        let per_tx = (self.engine.limits().writes / 2).clamp(1, SCAN_ROWS);
        let mut after = None;
        loop {
            let (rows, next) = jump::groups(&*self.engine, after.as_deref(), per_tx).await?;
            self.commit(Durability::Relaxed, async |txn| {
                rows.iter().for_each(|(key, value)| txn.put(key.clone(), value.clone()));
                Ok(())
            })
            .await?;
            match next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }
}

/// Digest of all rows of an engine as they are now, marks left out.
///
/// # Errors
/// The engine does not serve.
pub(crate) async fn digest_of(engine: &dyn Engine) -> Result<RowDigest, EngineError> {
    let mut snapshot = engine.snapshot().await?;
    let mut range = namespace();
    let mut digest = RowDigest::default();
    loop {
        let page = snapshot.scan(&range, SCAN_ROWS).await?;
        page.iter().filter(|(key, _)| !settings::is_mark(key)).for_each(|(key, value)| digest.add(key, value));
        match page.last().filter(|_| page.len() == SCAN_ROWS) {
            Some((last, _)) => range.start = KeyRange::successor(last),
            None => return Ok(digest),
        }
    }
}
