//! What was written to a file and not committed: pieces that do not overlap and lie within one block each. Pure.

use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Bytes, each with where they belong, in order and without overlap.
pub type Pieces = Vec<(u64, Bytes)>;

/// See the module.
#[derive(Debug)]
pub struct Dirty {
    block_len: u64,
    pieces: BTreeMap<u64, BytesMut>,
    bytes: u64,
}

impl Dirty {
    /// Nothing yet, of a file of such blocks.
    pub fn new(block_len: u32) -> Self {
        Self { block_len: u64::from(block_len.max(1)), pieces: BTreeMap::new(), bytes: 0 }
    }

    /// Nothing is there.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Pieces.
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// Where the last piece ends; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.pieces.last_key_value().map_or(0, |(offset, data)| offset + data.len() as u64)
    }

    /// Lays `data` over what is there; tells how many bytes there are more than before.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> u64 {
        let before = self.bytes;
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let room = self.block_len - at % self.block_len;
            let (head, tail) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            self.write_in_block(at, head);
            at += head.len() as u64;
            rest = tail;
        }
        self.bytes - before
    }

    fn write_in_block(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let block = offset - offset % self.block_len;
        let block_end = block.saturating_add(self.block_len);
        // The piece that begins before, if it reaches here.
        let before = self.pieces.range_mut(block..=offset).next_back();
        let joined = before.filter(|(start, piece)| **start + piece.len() as u64 >= offset).map(|(start, _)| *start);
        let start = joined.unwrap_or(offset);
        let mut piece = self.pieces.remove(&start).unwrap_or_default();
        let old_len = piece.len() as u64;
        let at = (offset - start) as usize;
        let over = data.len().min(piece.len() - at);
        piece[at..at + over].copy_from_slice(&data[..over]);
        if over < data.len() {
            let more = data.len() - over;
            if piece.capacity() - piece.len() < more {
                // Small files stay small; a stream gets its whole block soon.
                let want = (piece.len() * 2).max(more).min((block_end - start) as usize - piece.len()).max(more);
                piece.reserve(want);
            }
            piece.extend_from_slice(&data[over..]);
        }
        self.bytes += piece.len() as u64 - old_len;
        // Pieces that begin inside, or right behind, become part of it.
        let mut piece_end = start + piece.len() as u64;
        while let Some((&next, _)) = self.pieces.range(start..=piece_end).next() {
            if next >= block_end {
                break;
            }
            let absorbed = self.pieces.remove(&next).unwrap_or_default();
            self.bytes -= absorbed.len() as u64;
            let known = (piece_end.max(end) - next) as usize;
            if let Some(tail) = absorbed.get(known..) {
                piece.extend_from_slice(tail);
                self.bytes += tail.len() as u64;
            }
            piece_end = start + piece.len() as u64;
        }
        self.pieces.insert(start, piece);
    }

    /// Forgets what lies behind `size`; tells how many bytes.
    pub fn truncate(&mut self, size: u64) -> u64 {
        let before = self.bytes;
        while let Some(mut last) = self.pieces.last_entry() {
            let (start, len) = (*last.key(), last.get().len() as u64);
            if start + len <= size {
                break;
            }
            if start >= size {
                last.remove();
                self.bytes -= len;
            } else {
                last.get_mut().truncate((size - start) as usize);
                self.bytes -= start + len - size;
            }
        }
        before - self.bytes
    }

    /// Takes everything out, in order of offset.
    pub fn take(&mut self) -> Vec<(u64, Bytes)> {
        self.bytes = 0;
        std::mem::take(&mut self.pieces).into_iter().map(|(offset, data)| (offset, data.freeze())).collect()
    }

    /// Takes out pieces that fill the rest of their block; the others are likely to grow.
    pub fn take_full(&mut self) -> Vec<(u64, Bytes)> {
        let block_len = self.block_len;
        let is_full = |offset: u64, len: usize| (offset + len as u64).is_multiple_of(block_len);
        let full: Vec<u64> = self
            .pieces
            .iter()
            .filter(|(offset, data)| is_full(**offset, data.len()))
            .map(|(offset, _)| *offset)
            .collect();
        full.into_iter()
            .filter_map(|offset| {
                let data = self.pieces.remove(&offset)?;
                self.bytes -= data.len() as u64;
                Some((offset, data.freeze()))
            })
            .collect()
    }

    /// What it holds of `[offset, offset + len)`, in order.
    pub fn overlay(&self, offset: u64, len: u64) -> Vec<(u64, Bytes)> {
        let end = offset.saturating_add(len);
        let first = self.pieces.range(..=offset).next_back().map_or(offset, |(start, _)| *start);
        let pieces = self.pieces.range(first..end.max(first)).map(|(start, data)| (*start, &data[..]));
        cut(pieces, offset, end).map(|(at, bytes)| (at, Bytes::copy_from_slice(bytes))).collect()
    }
}

/// The parts of pieces that lie in `[offset, end)`.
fn cut<'a>(
    pieces: impl Iterator<Item = (u64, &'a [u8])>,
    offset: u64,
    end: u64,
) -> impl Iterator<Item = (u64, &'a [u8])> {
    pieces.filter_map(move |(start, data)| {
        let (from, to) = (offset.max(start), end.min(start + data.len() as u64));
        (from < to).then(|| (from, &data[(from - start) as usize..(to - start) as usize]))
    })
}

/// As [`Dirty::overlay`], of pieces that were taken out.
pub fn overlay_of(pieces: &[(u64, Bytes)], offset: u64, len: u64) -> Vec<(u64, Bytes)> {
    let end = offset.saturating_add(len);
    let parts = pieces.iter().filter_map(|(start, data)| {
        let (from, to) = (offset.max(*start), end.min(start + data.len() as u64));
        (from < to).then(|| (from, data.slice((from - start) as usize..(to - start) as usize)))
    });
    parts.collect()
}

/// Lays layers over each other, later ones on top, and tells what of `[offset, offset + len)` none of them has.
pub fn lay(layers: Vec<Pieces>, offset: u64, len: u64) -> (Pieces, Vec<(u64, u64)>) {
    let mut layers = layers.into_iter();
    let mut laid = layers.next().unwrap_or_default();
    for layer in layers {
        for (at, data) in layer {
            let end = at + data.len() as u64;
            let mut next = Vec::with_capacity(laid.len() + 2);
            for (start, below) in laid {
                let below_end = start + below.len() as u64;
                if start < at.min(below_end) {
                    next.push((start, below.slice(..(at.min(below_end) - start) as usize)));
                }
                if below_end > end.max(start) {
                    next.push((end.max(start), below.slice((end.max(start) - start) as usize..)));
                }
            }
            next.push((at, data));
            next.sort_unstable_by_key(|(start, _)| *start);
            laid = next;
        }
    }
    let (mut gaps, mut at) = (Vec::new(), offset);
    for (start, data) in &laid {
        if *start > at {
            gaps.push((at, start - at));
        }
        at = start + data.len() as u64;
    }
    let end = offset.saturating_add(len);
    if at < end {
        gaps.push((at, end - at));
    }
    (laid, gaps)
}

#[cfg(test)]
mod tests;
