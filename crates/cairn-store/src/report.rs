//! What opening a store found, for operators and for repair.

use crate::format::Cause;
#[cfg(doc)]
use crate::limits::REPORT_ITEMS_MAX;
use crate::store::QuarantinedBlock;
use cairn_proto::{Incarnation, StoreUuid};

/// A region of a segment without a valid record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedRegion {
    /// The segment.
    pub segment: u32,
    /// First byte of the region.
    pub from: u64,
    /// First byte behind it.
    pub to: u64,
    /// True when it can be what a crash left of writes that were never acknowledged as durable; false when records
    /// that were durable are damaged.
    pub torn: bool,
}

/// What opening found. Everything in it but the counts is a defect worth telling an operator.
#[derive(Clone, Debug, Default)]
pub struct OpenReport {
    /// The store was made by this call.
    pub created: bool,
    /// Drawn for this opening.
    pub incarnation: Incarnation,
    /// Blocks held, quarantined ones included.
    pub blocks: u64,
    /// Bytes of the disk that segments take.
    pub used_bytes: u64,
    /// Records read behind the checkpoint.
    pub scanned_records: u64,
    /// Bytes between the checkpoint and the end of the log.
    pub scanned_bytes: u64,
    /// Why all segments were read instead of the checkpoint.
    pub checkpoint_fault: Option<String>,
    /// Why the identity had to be taken from the segments.
    pub identity_fault: Option<String>,
    /// Bytes cut off the active segment: writes that a crash left unfinished.
    pub torn_bytes: u64,
    /// Regions without a valid header, at most [`REPORT_ITEMS_MAX`] of them.
    pub skipped: Vec<SkippedRegion>,
    /// All such regions.
    pub skipped_count: u64,
    /// Blocks found damaged by this call, at most [`REPORT_ITEMS_MAX`] of them.
    pub quarantined: Vec<QuarantinedBlock>,
    /// All such blocks.
    pub quarantined_count: u64,
    /// Segments whose own header is damaged; their records were read.
    pub bad_segment_headers: Vec<u32>,
    /// Segments that the checkpoint knows and that are gone.
    pub missing_segments: Vec<u32>,
    /// Files among the segments that belong to another store or another place, left alone.
    pub foreign_files: Vec<String>,
}

impl OpenReport {
    /// True when something was lost or damaged that was durable once.
    pub fn is_damaged(&self) -> bool {
        self.checkpoint_fault.is_some()
            || self.identity_fault.is_some()
            || self.skipped.iter().any(|region| !region.torn)
            || self.quarantined.iter().any(|block| block.cause != Cause::Torn)
            || !self.bad_segment_headers.is_empty()
            || !self.missing_segments.is_empty()
            || !self.foreign_files.is_empty()
    }

    /// Logs what an operator should know.
    pub(crate) fn log(&self, store: StoreUuid) {
        tracing::info!(%store, blocks = self.blocks, used_bytes = self.used_bytes, scanned_records = self.scanned_records,
            torn_bytes = self.torn_bytes, created = self.created, "store opened");
        for block in &self.quarantined {
            tracing::warn!(%store, block = %block.key, pg = %block.pg, cause = %block.cause, "damaged block found at open");
        }
        if self.is_damaged() {
            tracing::warn!(%store, checkpoint = ?self.checkpoint_fault, identity = ?self.identity_fault,
                skipped = self.skipped_count, quarantined = self.quarantined_count,
                bad_segment_headers = ?self.bad_segment_headers, missing_segments = ?self.missing_segments,
                foreign_files = ?self.foreign_files, "store is damaged");
        }
    }
}
