//! Places that are written again and again, each by one operation at a time, and what may stand there afterwards.

use crate::payload::{self, LINE, Mark};
use anyhow::{Context, Result};
use cairn_client::{CreateOptions, DfsClient, Error, File, OpenOptions};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes of a slot: one block of its file.
pub const SLOT_LEN: u32 = 256 * 1024;

struct Slot {
    file: usize,
    index: u64,
    /// The last write that was acknowledged; 0 = none.
    acked: u32,
    /// Writes since then whose outcome the client could not say.
    unknown: Vec<u32>,
}

/// Files of slots.
pub struct Slots {
    files: Vec<File>,
    /// Longest unused first; a slot that is being written is not in here.
    free: Mutex<VecDeque<Slot>>,
    seq: AtomicU32,
}

/// What a check of all slots found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Bytes that belong to no write that may stand there.
    pub wrong_bytes: u64,
    /// Slots that show an older write than the last acknowledged one.
    pub lost: u64,
    /// Slots that show a write which was reported as failed and not visible.
    pub visible: u64,
    /// Of these, slots that no write was ever acknowledged for.
    pub extents: u64,
    /// Slots that hold an acknowledged write.
    pub live: u64,
}

impl Slots {
    /// Makes `files` empty files of `per_file` slots each, named `/slots-0` and so on.
    ///
    /// # Errors
    /// A file could not be made.
    pub async fn create(client: &DfsClient, files: usize, per_file: u64) -> Result<Self> {
        let mut opened = Vec::new();
        for index in 0..files {
            let options = OpenOptions::new().create_new(true).attributes(CreateOptions::new().block_len(SLOT_LEN));
            let path = format!("/slots-{index}");
            opened.push(client.open_with(&path, options).await.with_context(|| format!("making {path}"))?);
        }
        let slot = |index, file| Slot { file, index, acked: 0, unknown: Vec::new() };
        let free = (0..per_file).flat_map(|index| (0..files).map(move |file| slot(index, file))).collect();
        Ok(Self { files: opened, free: Mutex::new(free), seq: AtomicU32::new(1) })
    }

    /// Its files.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Writes the slot that has rested longest; durable when it returns.
    ///
    /// # Errors
    /// Those of [`File::write_block`]; `None` when every slot is being written.
    pub async fn write(&self) -> Result<(), Option<Error>> {
        let mut slot = self.free.lock().pop_front().ok_or(None)?;
        let seq = self.seq.fetch_add(1, Ordering::Relaxed);
        let mark = Mark { file: slot.file as u32, seq };
        let bytes = payload::content(mark, slot.index * u64::from(SLOT_LEN), SLOT_LEN as usize);
        let result = self.files[slot.file].write_block(slot.index, bytes).await;
        match &result {
            Ok(_) => {
                slot.acked = seq;
                slot.unknown.clear();
            }
            Err(error) if error.kind() == cairn_client::ErrorKind::Indeterminate => slot.unknown.push(seq),
            Err(_) => {}
        }
        self.free.lock().push_back(slot);
        result.map(|_| ()).map_err(Some)
    }

    /// Reads every slot and holds it against what was acknowledged. No write may be under way.
    ///
    /// # Errors
    /// A slot cannot be read.
    pub async fn check(&self) -> Result<Findings, Error> {
        let slots = std::mem::take(&mut *self.free.lock());
        let mut findings = Findings::default();
        for slot in &slots {
            let found = self.files[slot.file].read_block(slot.index).await?;
            let offset = slot.index * u64::from(SLOT_LEN);
            findings.live += u64::from(slot.acked != 0);
            let nothing = found.iter().all(|byte| *byte == 0);
            let claimed = payload::claimed(&found).unwrap_or(Mark { file: 0, seq: 0 });
            if nothing {
                findings.lost += u64::from(slot.acked != 0);
            } else if claimed.seq == slot.acked || slot.unknown.contains(&claimed.seq) {
                findings.wrong_bytes +=
                    payload::wrong_bytes(Mark { file: slot.file as u32, ..claimed }, offset, &found);
            } else if claimed.seq > slot.acked {
                findings.visible += 1;
            } else {
                findings.lost += 1;
            }
            if !nothing && slot.acked == 0 && slot.unknown.is_empty() {
                findings.extents += 1;
            }
        }
        *self.free.lock() = slots;
        Ok(findings)
    }
}

const _: () = assert!((SLOT_LEN as usize).is_multiple_of(LINE));
