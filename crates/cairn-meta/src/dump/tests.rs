use super::*;
use proptest::prelude::*;

#[test]
fn frames_are_pinned() {
    let rows = [(bytes::Bytes::from_static(b"key"), bytes::Bytes::from_static(b"value"))];
    let mut out = prelude();
    put_frame(&mut out, ROWS, &rows_payload(7, &rows));
    let mut digest = RowDigest::default();
    digest.add(b"key", b"value");
    put_frame(&mut out, TRAILER, &trailer_payload(digest));
    let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = "434149524e444d500100000000000000021c00000007000000000000000100000003000000050000006b657976616c7565";
    assert_eq!(&hex[..expected.len()], expected);
    assert_eq!(hex.len(), 2 * (16 + 5 + 28 + 4 + 5 + 24 + 4));
    assert_eq!(format!("{:016x}", digest.sum), "dda6beebeb30c81b");
}

proptest! {
    #[test]
    fn rows_are_read_as_they_were_written(
        first in any::<u64>(),
        rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..40)), 0..9),
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let payload = rows_payload(first, &rows);
        let Some(Frame::Rows(found, parsed)) = parse(ROWS, &payload) else { panic!("it does not decode") };
        prop_assert_eq!(found, first);
        let parsed: Vec<(bytes::Bytes, bytes::Bytes)> =
            parsed.into_iter().map(|(key, value)| (key.to_vec().into(), value.to_vec().into())).collect();
        prop_assert_eq!(parsed, rows);
    }

    #[test]
    fn arbitrary_payloads_never_panic(kind in 0u8..5, payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = parse(kind, &payload);
    }

    #[test]
    fn a_digest_knows_every_row_and_no_order(
        rows in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..20), prop::collection::vec(any::<u8>(), 0..20), 1..9),
        at in any::<prop::sample::Index>(),
    ) {
        let digest = |rows: &[(Vec<u8>, Vec<u8>)]| {
            let mut digest = RowDigest::default();
            rows.iter().for_each(|(key, value)| digest.add(key, value));
            digest
        };
        let mut rows: Vec<_> = rows.into_iter().collect();
        let whole = digest(&rows);
        rows.reverse();
        prop_assert_eq!(digest(&rows), whole);
        let index = at.index(rows.len());
        let first = rows[index].0[0];
        rows[index].0[0] = first.wrapping_add(1);
        prop_assert_ne!(digest(&rows).sum, whole.sum);
    }
}
