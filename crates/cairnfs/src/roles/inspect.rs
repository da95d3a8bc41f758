//! `cairn node inspect`: the records of a segment file.

use cairn_server::inspect::{self, Inspected, InspectedPut, Inspection, PayloadCheck, SkipReason};
use serde::Serialize;

use super::start_failure;
use crate::{
    args,
    failure::Failure,
    output::{JsonArray, Out},
    text,
};

/// Deleted blocks of a tombstone that the text names; JSON has all.
const NAMED_MAX: usize = 4;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Item {
    Segment {
        store: String,
        generation: u64,
        len: u64,
        /// `intact`, or what is wrong with it.
        header: String,
    },
    Put {
        offset: u64,
        number: u64,
        block: String,
        shard: u64,
        pg: u64,
        pg_epoch: u64,
        codec: u64,
        k: u64,
        m: u64,
        stored_len: u64,
        logical_len: u64,
        file_offset_hint: u64,
        replaces_segment: u64,
        payload: String,
        bad: bool,
    },
    Tombstone {
        offset: u64,
        number: u64,
        deleted: Vec<Deleted>,
    },
    Skipped {
        offset: u64,
        len: u64,
        reason: String,
        /// A valid record follows, so that something was there.
        bad: bool,
    },
    Summary(Summary),
}

#[derive(Serialize)]
struct Deleted {
    block: String,
    shard: u64,
    segment: u64,
}

/// What was seen in the whole file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Summary {
    puts: u64,
    puts_bad: u64,
    puts_given_back: u64,
    tombstones: u64,
    payload_bytes: u64,
    regions_skipped: u64,
    regions_bad: u64,
    header_bad: bool,
}

impl Summary {
    fn is_damaged(&self) -> bool {
        self.puts_bad > 0 || self.regions_bad > 0 || self.header_bad
    }

    fn put(&mut self, put: &InspectedPut) {
        self.puts += 1;
        self.puts_bad += u64::from(is_bad(&put.payload));
        self.puts_given_back += u64::from(put.payload == PayloadCheck::GivenBack);
        self.payload_bytes += u64::from(put.stored_len);
    }
}

fn is_bad(payload: &PayloadCheck) -> bool {
    match payload {
        PayloadCheck::Intact | PayloadCheck::GivenBack | PayloadCheck::NotRead => false,
        PayloadCheck::Bad { .. } | PayloadCheck::Truncated | PayloadCheck::Unreadable { .. } => true,
    }
}

/// Whether bytes that are no record mean damage. Behind the last record anything may stand: segments are recycled.
fn is_hole(reason: &SkipReason, last: bool) -> bool {
    match reason {
        SkipReason::Unreadable(_) => true,
        SkipReason::Zeros => false,
        SkipReason::Fault(_) | SkipReason::OldNumber(_) => !last,
    }
}

/// Runs the command.
pub fn run(args: &args::Inspect, out: &mut Out) -> Result<(), Failure> {
    let found = inspect::segment(&args.segment).map_err(|error| start_failure(&error))?;
    let found = if args.no_payload { found.without_payloads() } else { found };
    let mut summary = Summary { header_bad: found.header.is_err(), ..Summary::default() };
    let mut json = if args.json { Some(JsonArray::begin(out)?) } else { None };
    tell(&head(&found), &mut json, out)?;
    let mut found = found.peekable();
    while let Some(item) = found.next() {
        let item = match item {
            Inspected::Put(put) => {
                summary.put(&put);
                of_put(&put)
            }
            Inspected::Tombstone { stamp, entries } => {
                summary.tombstones += 1;
                let deleted = entries.iter().map(|entry| Deleted {
                    block: entry.key.block.to_string(),
                    shard: entry.key.shard.0.into(),
                    segment: entry.put_segment.into(),
                });
                Item::Tombstone { offset: stamp.place.offset, number: stamp.number, deleted: deleted.collect() }
            }
            Inspected::Skipped { from, to, reason } => {
                let bad = is_hole(&reason, found.peek().is_none());
                summary.regions_skipped += 1;
                summary.regions_bad += u64::from(bad);
                Item::Skipped { offset: from, len: to - from, reason: reason.to_string(), bad }
            }
        };
        tell(&item, &mut json, out)?;
    }
    tell(&Item::Summary(summary), &mut json, out)?;
    if let Some(json) = json {
        json.end(out)?;
    }
    if !summary.is_damaged() {
        return Ok(());
    }
    out.flush()?;
    Err(Failure::at(text::path(&args.segment), "is damaged"))
}

fn head(found: &Inspection) -> Item {
    Item::Segment {
        store: text::hex(&found.store.0),
        generation: found.generation.into(),
        len: found.len,
        header: found.header.as_ref().err().map_or_else(|| "intact".to_owned(), ToString::to_string),
    }
}

fn of_put(put: &InspectedPut) -> Item {
    let (codec, k, m) = put.coding;
    Item::Put {
        offset: put.stamp.place.offset,
        number: put.stamp.number,
        block: put.key.block.to_string(),
        shard: put.key.shard.0.into(),
        pg: put.pg.0.into(),
        pg_epoch: put.pg_epoch.0,
        codec: codec.into(),
        k: k.into(),
        m: m.into(),
        stored_len: put.stored_len.into(),
        logical_len: put.logical_len,
        file_offset_hint: put.file_offset_hint,
        replaces_segment: put.replaces.into(),
        payload: put.payload.to_string(),
        bad: is_bad(&put.payload),
    }
}

fn tell(item: &Item, json: &mut Option<JsonArray>, out: &mut Out) -> Result<(), Failure> {
    match json {
        Some(json) => json.element(out, item),
        None => out.line(line(item)),
    }
}

fn line(item: &Item) -> String {
    let bad = |bad: &bool| if *bad { "  BAD" } else { "" };
    match item {
        Item::Segment { store, generation, len, header } => {
            format!("segment {generation} of store {store}, {len} bytes, header {header}")
        }
        Item::Put {
            offset,
            number,
            block,
            shard,
            pg,
            pg_epoch,
            stored_len,
            file_offset_hint,
            payload,
            bad: is,
            ..
        } => {
            let of = if *shard == 0 { String::new() } else { format!(" shard {shard}") };
            format!(
                "{offset:>12} #{number:<8} put {block}{of}, group {pg} epoch {pg_epoch}, {stored_len} bytes for file offset \
                 {file_offset_hint}: {payload}{}",
                bad(is)
            )
        }
        Item::Tombstone { offset, number, deleted } => {
            let name = |deleted: &Deleted| format!("{} in segment {}", deleted.block, deleted.segment);
            let names: Vec<String> = deleted.iter().take(NAMED_MAX).map(name).collect();
            let more = if deleted.len() > NAMED_MAX { ", ..." } else { "" };
            let count = text::count(deleted.len() as u64, "block");
            format!("{offset:>12} #{number:<8} delete {count}: {}{more}", names.join(", "))
        }
        Item::Skipped { offset, len, reason, bad: is } => {
            format!("{offset:>12} {:<9} no record in {len} bytes: {reason}{}", "", bad(is))
        }
        Item::Summary(summary) => format!(
            "{} ({} bad, {} given back), {}, {} of payload, {} without records ({} bad)",
            text::count(summary.puts, "put"),
            summary.puts_bad,
            summary.puts_given_back,
            text::count(summary.tombstones, "tombstone"),
            text::human(summary.payload_bytes),
            text::count(summary.regions_skipped, "region"),
            summary.regions_bad
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_records_is_damage() {
        assert!(is_hole(&SkipReason::OldNumber(3), false) && !is_hole(&SkipReason::OldNumber(3), true));
        assert!(!is_hole(&SkipReason::Zeros, false) && !is_hole(&SkipReason::Zeros, true));
        assert!(is_hole(&SkipReason::Unreadable(String::new()), true));
    }
}
