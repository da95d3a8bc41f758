//! Sets of blocks as spans of consecutive numbers: a file that was written in one go is one span, however long. Pure.

use cairn_client::{BlockId, BlockRun};

/// Consecutive blocks of one inode and writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub inode: u64,
    pub writer: u64,
    pub seq: u32,
    /// Never 0; `seq + count` does not exceed 2^32.
    pub count: u32,
}

impl From<BlockRun> for Span {
    fn from(run: BlockRun) -> Self {
        let BlockId { inode, writer, seq } = run.first;
        Self { inode: inode.0, writer: writer.0, seq: seq.0, count: run.count }
    }
}

impl From<Span> for BlockRun {
    fn from(span: Span) -> Self {
        Self { first: BlockId::new(span.inode, span.writer, span.seq), count: span.count }
    }
}

impl Span {
    fn family(&self) -> (u64, u64) {
        (self.inode, self.writer)
    }

    fn begin(&self) -> u64 {
        self.seq.into()
    }

    /// First number behind.
    fn end(&self) -> u64 {
        u64::from(self.seq) + u64::from(self.count)
    }

    /// The part from `begin` to `end` (exclusive) of the same inode and writer; `None` when there is none.
    fn part(&self, begin: u64, end: u64) -> Option<Self> {
        let (begin, end) = (begin.max(self.begin()), end.min(self.end()));
        let seq = u32::try_from(begin).ok()?;
        let count = u32::try_from(end.checked_sub(begin)?).ok().filter(|count| *count > 0)?;
        Some(Self { seq, count, ..*self })
    }
}

/// Blocks in ascending order, each once, neighbours joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spans(Vec<Span>);

impl FromIterator<Span> for Spans {
    /// In any order, overlapping or not.
    fn from_iter<I: IntoIterator<Item = Span>>(spans: I) -> Self {
        let mut sorted: Vec<Span> = spans.into_iter().collect();
        sorted.sort_unstable();
        let mut set = Self::default();
        sorted.into_iter().for_each(|span| set.push(span));
        set
    }
}

impl Spans {
    /// Adds a span that begins at or behind the beginning of the last one.
    fn push(&mut self, span: Span) {
        if let Some(last) = self.0.last_mut()
            && last.family() == span.family()
            && span.begin() <= last.end()
        {
            let end = last.end().max(span.end());
            // A span of all 2^32 numbers would not fit: it stays two.
            if let Ok(count) = u32::try_from(end - last.begin()) {
                last.count = count;
                return;
            }
        }
        self.0.push(span);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of spans.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.0.iter().map(|span| u64::from(span.count)).sum()
    }

    /// Lowest and highest inode.
    pub fn inodes(&self) -> Option<(u64, u64)> {
        Some((self.0.first()?.inode, self.0.last()?.inode))
    }

    /// Blocks of this that are not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Self::default();
        let mut others = other.0.as_slice();
        for span in &self.0 {
            others = behind(others, span);
            let mut begin = span.begin();
            for cut in others.iter().take_while(|cut| touches(cut, span)) {
                if let Some(part) = span.part(begin, cut.begin()) {
                    left.push(part);
                }
                begin = begin.max(cut.end());
            }
            if let Some(part) = span.part(begin, span.end()) {
                left.push(part);
            }
        }
        left
    }

    /// Blocks of this that are in `other`, too.
    pub fn and(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let mut others = other.0.as_slice();
        for span in &self.0 {
            others = behind(others, span);
            for cut in others.iter().take_while(|cut| touches(cut, span)) {
                if let Some(part) = span.part(cut.begin(), cut.end()) {
                    both.push(part);
                }
            }
        }
        both
    }

    /// Blocks of either.
    pub fn or(&self, other: &Self) -> Self {
        self.0.iter().chain(&other.0).copied().collect()
    }
}

/// What is left of `spans` once those that end before `span` are dropped.
fn behind<'a>(spans: &'a [Span], span: &Span) -> &'a [Span] {
    // Both sides are walked in order, so what is dropped is dropped once.
    let gone = |other: &&Span| (other.family(), other.end()) <= (span.family(), span.begin());
    let count = spans.iter().take_while(gone).count();
    &spans[count..]
}

/// Whether `cut`, which does not end before `span`, begins before its end.
fn touches(cut: &Span, span: &Span) -> bool {
    cut.family() == span.family() && cut.begin() < span.end()
}

/// Where which of the sets have blocks: spans in ascending order, each with the indexes of the sets that have all of it,
/// as bits. Blocks that no set has are left out.
///
/// # Panics
/// With more than 64 sets.
pub fn overlay(sets: &[&Spans]) -> Vec<(Span, u64)> {
    assert!(sets.len() <= 64, "a group has a handful of members");
    let mut edges: Vec<((u64, u64), u64, u64)> = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        for span in &set.0 {
            edges.push((span.family(), span.begin(), 1 << index));
            edges.push((span.family(), span.end(), 1 << index));
        }
    }
    edges.sort_unstable();
    let mut pieces = Vec::new();
    let mut inside = 0;
    for pair in edges.windows(2) {
        let [(family, begin, bit), (next_family, end, _)] = pair else { continue };
        // Spans of one set do not touch, so each edge of a set toggles it.
        inside ^= bit;
        let (inode, writer) = *family;
        let whole = Span { inode, writer, seq: 0, count: u32::MAX };
        if inside != 0 && family == next_family && begin < end {
            let tail = Span { seq: u32::MAX, count: 1, ..whole };
            pieces.extend([whole, tail].iter().filter_map(|range| range.part(*begin, *end)).map(|part| (part, inside)));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    type Model = BTreeSet<(u64, u64, u32)>;

    fn model(set: &Spans) -> Model {
        set.iter().flat_map(|s| (s.seq..s.seq + s.count).map(|seq| (s.inode, s.writer, seq))).collect()
    }

    fn spans() -> impl Strategy<Value = Vec<Span>> {
        let span = (1_u64..3, 1_u64..3, 0_u32..30, 1_u32..9);
        prop::collection::vec(span.prop_map(|(inode, writer, seq, count)| Span { inode, writer, seq, count }), 0..12)
    }

    fn whole(set: &Spans) {
        for pair in set.0.windows(2) {
            let apart = pair[0].family() < pair[1].family() || pair[0].end() < pair[1].begin();
            assert!(apart, "{pair:?} are in order, apart and not joined");
        }
    }

    proptest! {
        #[test]
        fn sets_of_spans_are_sets(a in spans(), b in spans()) {
            let naive = |spans: &[Span]| -> Model {
                spans.iter().flat_map(|s| (s.seq..s.seq + s.count).map(|seq| (s.inode, s.writer, seq))).collect()
            };
            let (ma, mb) = (naive(&a), naive(&b));
            let (a, b): (Spans, Spans) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(model(&a), ma.clone());
            prop_assert_eq!(a.blocks(), ma.len() as u64);
            prop_assert_eq!(model(&a.minus(&b)), ma.difference(&mb).copied().collect::<Model>());
            prop_assert_eq!(model(&a.and(&b)), ma.intersection(&mb).copied().collect::<Model>());
            prop_assert_eq!(model(&a.or(&b)), ma.union(&mb).copied().collect::<Model>());
            [&a, &b, &a.minus(&b), &a.and(&b), &a.or(&b)].into_iter().for_each(whole);
        }

        #[test]
        fn an_overlay_tells_who_has_what(sets in prop::collection::vec(spans(), 0..4)) {
            let sets: Vec<Spans> = sets.into_iter().map(|spans| spans.into_iter().collect()).collect();
            let models: Vec<Model> = sets.iter().map(model).collect();
            let mut seen = Model::new();
            for (span, bits) in overlay(&sets.iter().collect::<Vec<_>>()) {
                for seq in span.seq..span.seq + span.count {
                    let block = (span.inode, span.writer, seq);
                    prop_assert!(seen.insert(block), "{:?} twice", block);
                    for (index, model) in models.iter().enumerate() {
                        prop_assert_eq!(bits >> index & 1 == 1, model.contains(&block));
                    }
                }
            }
            prop_assert_eq!(seen, models.iter().flatten().copied().collect::<Model>());
        }
    }

    #[test]
    fn the_last_numbers_of_a_writer_are_blocks_like_any() {
        let last = Span { inode: 1, writer: 1, seq: u32::MAX, count: 1 };
        let before = Span { inode: 1, writer: 1, seq: 0, count: u32::MAX };
        let both: Spans = [last, before].into_iter().collect();
        assert_eq!(both.blocks(), 1 << 32);
        let only_last: Spans = [last].into_iter().collect();
        assert_eq!(both.minus(&only_last), [before].into_iter().collect());
        assert_eq!(both.and(&only_last), only_last);
        let pieces = overlay(&[&only_last]);
        assert_eq!(pieces, [(last, 1)]);
    }
}
