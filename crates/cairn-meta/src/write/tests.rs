use super::*;
use crate::rows::Extent;

const BLOCK: u32 = 64 * 1024;

fn piece(offset: u64, len: u64, first_seq: u32) -> pb::Piece {
    pb::Piece { offset, len, first_seq, block_len: BLOCK, pg: 1, acked: vec![1], pg_epoch: 1 }
}

#[test]
fn pieces_are_sorted_and_shifted() {
    let sorted = sorted_pieces(&[piece(100, 10, 2), piece(0, 100, 1)], 1000).expect("sound pieces");
    assert_eq!(sorted, [piece(1000, 100, 1), piece(1100, 10, 2)]);
}

#[test]
fn contradictory_pieces_are_refused() {
    let bad = [
        vec![piece(0, 0, 1)],
        vec![piece(0, 100, 1), piece(99, 1, 2)],
        vec![piece(0, u64::from(BLOCK) + 1, 1), piece(u64::from(BLOCK) * 2, 1, 2)],
        vec![piece(u64::MAX, 1, 1)],
        vec![piece(FILE_LEN_MAX, 1, 1)],
        vec![piece(0, u64::MAX, 1)],
        vec![piece(0, u64::from(BLOCK) * 2, u32::MAX - 1)],
        vec![pb::Piece { block_len: 0, ..piece(0, 1, 1) }],
        vec![pb::Piece { block_len: BLOCK + 1, ..piece(0, 1, 1) }],
        (0..=COMMIT_PIECES_MAX as u32).map(|index| piece(u64::from(index), 1, index)).collect(),
    ];
    for pieces in bad {
        assert!(sorted_pieces(&pieces, 0).is_err(), "{pieces:?}");
    }
    assert!(sorted_pieces(&[piece(1, 1, 1)], u64::MAX).is_err());
}

#[test]
fn inline_content_is_laid_over_with_zeros_between() {
    let row = |offset: u64, text: &'static [u8]| Placed {
        offset,
        extent: Extent { len: text.len() as u64, content: Content::Inline(text.into()), birth: 0, born: 0 },
    };
    assert_eq!(overlay(&[], 2, b"ab"), b"\0\0ab");
    assert_eq!(overlay(&[row(0, b"hello")], 1, b"EY"), b"hEYlo");
    assert_eq!(overlay(&[row(1, b"a"), row(4, b"b")], 2, b"-"), b"\0a-\0b");
}
