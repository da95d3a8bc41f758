//! Making a dump: a snapshot, read in order and framed.

use super::{
    FRAME_BYTES, FRAME_ROWS_MAX, HEADER, ROWS, RowDigest, TRAILER, namespace, prelude, put_frame, rows_payload,
    trailer_payload,
};
use crate::error::OpenError;
use crate::history::Head;
use crate::keys::{Key, Setting, setting};
use crate::kv::{Engine, EngineError, KeyRange, Snapshot};
use crate::limits::SCAN_ROWS;
use crate::rows::{self, Row};
use crate::settings;
use bytes::Bytes;
use cairn_proto::pb;
use prost::Message;

/// How far a dump is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DumpProgress {
    /// Rows that were read.
    pub rows: u64,
    /// Bytes of the dump that were made.
    pub bytes: u64,
}

/// A dump that is being made.
pub struct Dump {
    snapshot: Box<dyn Snapshot>,
    header: pb::DumpHeader,
    /// What is left to be read; `None` when all was.
    rest: Option<KeyRange>,
    digest: RowDigest,
    begun: bool,
    ended: bool,
    bytes: u64,
    /// Rows that were read and belong to the next frame.
    waiting: Vec<(Bytes, Bytes)>,
}

/// The newest snapshot as of the moment.
async fn newest_snapshot(snapshot: &mut dyn Snapshot) -> Result<u64, OpenError> {
    let Some(value) = setting_of(snapshot, setting::SNAPSHOTS).await? else { return Ok(0) };
    let head = Head::decode(&value).ok_or_else(|| OpenError::Damaged { what: "the setting of snapshots".into() })?;
    Ok(head.newest)
}

async fn setting_of(snapshot: &mut dyn Snapshot, name: &'static [u8]) -> Result<Option<Bytes>, OpenError> {
    let start = Setting { name: Bytes::from_static(name) }.encode();
    let range = KeyRange { end: KeyRange::successor(&start), start };
    let Some((_, value)) = snapshot.scan(&range, 1).await?.pop() else { return Ok(None) };
    let row = rows::Setting::decode(&value).map_err(|error| OpenError::Damaged { what: error.to_string() })?;
    Ok(Some(row.value))
}

impl Dump {
    /// Takes the snapshot. `now_ns` is wall time, shown to people.
    ///
    /// # Errors
    /// The engine holds no namespace, a half-loaded one, or one of a newer program; or it does not serve.
    pub async fn begin(engine: &dyn Engine, now_ns: i64) -> Result<Self, OpenError> {
        Self::of(engine.snapshot().await?, engine.name(), now_ns).await
    }

    /// As [`Dump::begin`], of a snapshot that was taken before.
    ///
    /// # Errors
    /// As [`Dump::begin`].
    pub async fn of(mut snapshot: Box<dyn Snapshot>, engine: &str, now_ns: i64) -> Result<Self, OpenError> {
        let mut values = Vec::new();
        for name in settings::NAMES {
            values.push(setting_of(&mut *snapshot, name).await?);
        }
        Self::with(snapshot, &values, engine, now_ns).await
    }

    /// As [`Dump::begin`], of an engine that is fenced because it is being left.
    pub(crate) async fn of_fenced(engine: &dyn Engine, now_ns: i64) -> Result<Self, OpenError> {
        let mut snapshot = engine.snapshot().await?;
        let mut values = Vec::new();
        for name in settings::NAMES {
            let value = if name == setting::MIGRATED_TO { None } else { setting_of(&mut *snapshot, name).await? };
            values.push(value);
        }
        Self::with(snapshot, &values, engine.name(), now_ns).await
    }

    async fn with(
        mut snapshot: Box<dyn Snapshot>,
        values: &[Option<Bytes>],
        engine: &str,
        now_ns: i64,
    ) -> Result<Self, OpenError> {
        let found = settings::judge(values)?;
        let Some(found) = found else { return Err(OpenError::Empty) };
        let header = pb::DumpHeader {
            cluster_id: Bytes::copy_from_slice(&found.cluster_id.0),
            format_version: found.format_version,
            cluster_version: found.cluster_version,
            engine: engine.to_owned(),
            position: snapshot.position(),
            taken_ns: now_ns,
            software: concat!("cairn/", env!("CARGO_PKG_VERSION")).to_owned(),
            newest_snapshot: newest_snapshot(&mut *snapshot).await?,
        };
        Ok(Self {
            snapshot,
            header,
            rest: Some(namespace()),
            digest: RowDigest::default(),
            begun: false,
            ended: false,
            bytes: 0,
            waiting: Vec::new(),
        })
    }

    /// What the dump says of itself.
    pub fn header(&self) -> &pb::DumpHeader {
        &self.header
    }

    /// How far it is.
    pub fn progress(&self) -> DumpProgress {
        DumpProgress { rows: self.digest.rows, bytes: self.bytes }
    }

    /// Rows and their sum so far; of all once the end was given.
    pub fn digest(&self) -> RowDigest {
        self.digest
    }

    /// The next bytes of the dump, some hundred KiB; `None` after its end.
    ///
    /// # Errors
    /// The engine does not serve, or let go of the snapshot. The dump cannot go on then.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, EngineError> {
        if self.ended {
            return Ok(None);
        }
        let mut out = Vec::new();
        if !self.begun {
            self.begun = true;
            out = prelude();
            put_frame(&mut out, HEADER, &self.header.encode_to_vec());
        }
        let first = self.digest.rows;
        let rows = self.read_rows().await?;
        if rows.is_empty() {
            self.ended = true;
            put_frame(&mut out, TRAILER, &trailer_payload(self.digest));
        } else {
            rows.iter().for_each(|(key, value)| self.digest.add(key, value));
            put_frame(&mut out, ROWS, &rows_payload(first, &rows));
        }
        self.bytes += out.len() as u64;
        Ok(Some(out))
    }

    /// Rows of the next frame; none at the end.
    async fn read_rows(&mut self) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let mut rows: Vec<(Bytes, Bytes)> = Vec::new();
        let mut bytes = 0;
        loop {
            let mut waiting = std::mem::take(&mut self.waiting).into_iter();
            for row in waiting.by_ref() {
                bytes += row.0.len() + row.1.len();
                rows.push(row);
                if bytes >= FRAME_BYTES || rows.len() == FRAME_ROWS_MAX {
                    self.waiting = waiting.collect();
                    return Ok(rows);
                }
            }
            let Some(range) = &mut self.rest else { return Ok(rows) };
            let page = self.snapshot.scan(range, SCAN_ROWS).await?;
            match page.last().filter(|_| page.len() == SCAN_ROWS) {
                Some((last, _)) => range.start = KeyRange::successor(last),
                None => self.rest = None,
            }
            // Marks that stop a server say what was done to an engine, not what is in it.
            self.waiting = page.into_iter().filter(|(key, _)| !settings::is_mark(key)).collect();
        }
    }
}
