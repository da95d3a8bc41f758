//! How long a store takes to open, and the memory of its process, against the number of its blocks.
//!
//! The store is made of sparse segments: headers and a checkpoint are written as docs/formats/disk.md describes them, the
//! blocks themselves are holes. A process of its own opens it, so that its memory is that of the store.

use anyhow::{Context, Result, ensure};
use cairn_proto::StoreUuid;
use cairn_proto::checksum::{crc32c, crc32c_combine};
use cairn_store::format::checkpoint::{self, CheckpointHeader, SegmentRow};
use cairn_store::format::segment::{self, SegmentHeader};
use cairn_store::format::{identity, record};
use cairn_store::{RealDisk, Store, StoreOptions};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

const STORE: StoreUuid = StoreUuid([0xb5; 16]);
const PAGE: u64 = 4096;
const SEGMENT_LEN: u64 = 1 << 30;
/// The default length.
const BLOCK_LEN: u32 = 4 << 20;
/// Blocks of one writer, one inode.
const BLOCKS_PER_WRITER: u64 = 1000;

/// A store of so many blocks.
#[derive(Serialize)]
pub struct Row {
    blocks: u64,
    segments: u64,
    checkpoint_bytes: u64,
    #[serde(flatten)]
    opened: Opened,
    bytes_per_block: f64,
}

/// What the opening process says.
#[derive(Serialize, Deserialize)]
pub struct Opened {
    blocks_found: u64,
    open_seconds: f64,
    resident_bytes_before: u64,
    resident_bytes: u64,
}

/// Makes and opens a store of each size.
///
/// # Errors
/// The files could not be made, or the store did not open with what was put into it.
pub fn run(parent: &Path, blocks: &[u64]) -> Result<Vec<Row>> {
    blocks.iter().map(|blocks| one(parent, *blocks)).collect()
}

fn one(parent: &Path, blocks: u64) -> Result<Row> {
    let dir = tempfile::Builder::new().prefix("cairn-bench-start-").tempdir_in(parent)?;
    let segments = generate(dir.path(), blocks)?;
    crate::limits::disk::settle(parent)?;
    let output = Command::new(std::env::current_exe()?).arg("open-store").arg(dir.path()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let opened: Opened = serde_json::from_slice(&output.stdout).context("what the opening process says")?;
    ensure!(opened.blocks_found == blocks, "{} blocks were found, not {blocks}", opened.blocks_found);
    let bytes_per_block = (opened.resident_bytes - opened.resident_bytes_before) as f64 / blocks as f64;
    let seconds = opened.open_seconds;
    eprintln!("{blocks} blocks in {segments} segments: open in {seconds:.2} s, {bytes_per_block:.1} bytes a block");
    let checkpoint_bytes = fs::metadata(dir.path().join(checkpoint::NAME))?.len();
    Ok(Row { blocks, segments, checkpoint_bytes, opened, bytes_per_block })
}

/// Opens a store and says how long that took: the child's part.
///
/// # Errors
/// It does not open.
pub fn open_and_report(dir: &Path) -> Result<Opened> {
    let resident_bytes_before = resident()?;
    let begin = Instant::now();
    let (store, report) = Store::open(Arc::new(RealDisk::open(dir)?), StoreOptions::default())?;
    let open_seconds = begin.elapsed().as_secs_f64();
    ensure!(!report.is_damaged(), "{report:?}");
    let resident_bytes = resident()?;
    let blocks_found = store.usage().blocks;
    drop(store);
    Ok(Opened { blocks_found, open_seconds, resident_bytes_before, resident_bytes })
}

/// VmRSS of this process (proc(5)).
fn resident() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("/proc/self/status has VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// Writes a store as it stands after a clean close. Returns how many segments it has.
fn generate(dir: &Path, blocks: u64) -> Result<u64> {
    fs::write(dir.join(identity::NAME), identity::encode(STORE))?;
    fs::create_dir(dir.join(segment::DIR))?;
    let record = record::put_len(BLOCK_LEN);
    let per_segment = (SEGMENT_LEN - PAGE) / record;
    let segments = blocks.div_ceil(per_segment);
    for index in 0..segments {
        let held = per_segment.min(blocks - index * per_segment);
        let header = SegmentHeader {
            store: STORE,
            generation: index as u32 + 1,
            first_number: index * per_segment + 1,
            reused_len: 0,
        };
        let mut file = File::create(dir.join(segment::path(header.generation)))?;
        file.write_all(&header.encode())?;
        file.set_len(PAGE + held * record)?;
    }
    write_checkpoint(dir, blocks, per_segment)?;
    Ok(segments)
}

fn write_checkpoint(dir: &Path, blocks: u64, per_segment: u64) -> Result<()> {
    let record = record::put_len(BLOCK_LEN);
    let segments = blocks.div_ceil(per_segment);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(dir.join(checkpoint::NAME))?);
    out.write_all(&[0; checkpoint::HEADER_LEN])?;
    let (mut body_len, mut body_crc) = (0, 0);
    let mut write = |bytes: &[u8]| {
        body_crc = crc32c_combine(body_crc, crc32c(bytes), bytes.len() as u64);
        body_len += bytes.len() as u64;
        out.write_all(bytes)
    };
    let end = |index: u64| PAGE + per_segment.min(blocks - index * per_segment) * record;
    let mut rows = Vec::new();
    for index in 0..segments {
        let row = SegmentRow { generation: index as u32 + 1, len: end(index), punched: 0, needs: Vec::new() };
        checkpoint::encode_segment(&row, &mut rows);
    }
    write(&rows)?;
    // Entries are in the order of their keys, and so are the records of a store that was filled file by file.
    let mut entries = Vec::with_capacity(40 * 10_000);
    for n in 0..blocks {
        let (writer, seq) = (n / BLOCKS_PER_WRITER + 1, (n % BLOCKS_PER_WRITER) as u32);
        let page = (PAGE + n % per_segment * record) / PAGE;
        entries.extend_from_slice(&writer.to_le_bytes());
        entries.extend_from_slice(&writer.to_le_bytes());
        for word in [seq, 0, (n / per_segment) as u32 + 1, page as u32, BLOCK_LEN, 1] {
            entries.extend_from_slice(&word.to_le_bytes());
        }
        if entries.len() == entries.capacity() || n + 1 == blocks {
            write(&entries)?;
            entries.clear();
        }
    }
    let header = CheckpointHeader {
        store: STORE,
        segment: segments as u32,
        offset: end(segments - 1),
        next_number: blocks + 1,
        highest_writer: blocks / BLOCKS_PER_WRITER + 1,
        entries: blocks,
        segments: segments as u32,
        body_len,
        body_crc,
    };
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header.encode())?;
    Ok(out.flush()?)
}
