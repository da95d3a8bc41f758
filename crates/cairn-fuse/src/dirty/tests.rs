use super::*;

/// The next of a sequence that looks random.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

/// What pieces say about each byte of a file of that length.
fn model(pieces: &[(u64, Bytes)], len: usize) -> Vec<Option<u8>> {
    let mut bytes = vec![None; len];
    for (offset, data) in pieces {
        for (index, byte) in data.iter().enumerate() {
            bytes[*offset as usize + index] = Some(*byte);
        }
    }
    bytes
}

#[test]
fn any_writes_and_truncations_read_as_the_last_of_them() {
    const LEN: usize = 200;
    let mut state = 7;
    for _ in 0..300 {
        let mut dirty = Dirty::new(32);
        let mut expected = vec![None; LEN];
        for step in 0..40_u8 {
            let offset = draw(&mut state, 150);
            if draw(&mut state, 8) == 0 {
                dirty.truncate(offset);
                expected[offset as usize..].fill(None);
            } else {
                let data = vec![step; 1 + draw(&mut state, 50) as usize];
                let (before, more) = (dirty.bytes(), dirty.write(offset, &data));
                assert_eq!(dirty.bytes(), before + more);
                expected[offset as usize..offset as usize + data.len()].fill(Some(step));
            }
            let (from, len) = (draw(&mut state, 100), draw(&mut state, 100));
            let seen = model(&dirty.overlay(from, len), LEN);
            let window = from as usize..(from + len) as usize;
            assert_eq!(seen[window.clone()], expected[window]);
            assert_eq!(dirty.bytes() as usize, expected.iter().flatten().count());
            assert_eq!(dirty.end() as usize, expected.iter().rposition(Option::is_some).map_or(0, |last| last + 1));
        }
        let pieces = dirty.take();
        assert!(dirty.is_empty() && dirty.bytes() == 0);
        assert_eq!(model(&pieces, LEN), expected);
        for (offset, data) in &pieces {
            assert_eq!(offset / 32, (offset + data.len() as u64 - 1) / 32, "a piece crosses blocks");
        }
        for pair in pieces.windows(2) {
            let end = pair[0].0 + pair[0].1.len() as u64;
            assert!(end < pair[1].0 || end == pair[1].0 && end.is_multiple_of(32), "neighbours were not joined");
        }
    }
}

#[test]
fn layers_hide_what_is_below_and_gaps_are_told() {
    let piece = |offset, text: &'static str| (offset, Bytes::from_static(text.as_bytes()));
    let below = vec![piece(2, "aaaa"), piece(8, "bb")];
    let above = vec![piece(3, "cc"), piece(7, "dddd")];
    let (laid, gaps) = lay(vec![below, above], 0, 12);
    assert_eq!(laid, [piece(2, "a"), piece(3, "cc"), piece(5, "a"), piece(7, "dddd")]);
    assert_eq!(gaps, [(0, 2), (6, 1), (11, 1)]);
    assert_eq!(lay(vec![], 5, 3), (vec![], vec![(5, 3)]));
}

#[test]
fn full_pieces_go_first() {
    let mut dirty = Dirty::new(4);
    dirty.write(0, b"abcdef");
    dirty.write(10, b"xy");
    assert_eq!(dirty.take_full(), [(0, Bytes::from_static(b"abcd")), (10, Bytes::from_static(b"xy"))]);
    assert_eq!(dirty.bytes(), 2);
    assert_eq!(dirty.take(), [(4, Bytes::from_static(b"ef"))]);
}
