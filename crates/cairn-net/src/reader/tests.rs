use super::{FrameReader, ReadError};
use crate::meter::{Meter, Totals};
use bytes::{Bytes, BytesMut};
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FixedHeader, FrameType};
use proptest::prelude::*;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

/// Delivers its bytes in pieces of the given lengths, over and over, with a pause before each.
struct Pieces {
    bytes: Bytes,
    lens: Vec<usize>,
    next: usize,
    pause: bool,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        self.pause = !self.pause;
        if self.pause {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let len = self.lens[self.next % self.lens.len()].min(buf.remaining()).min(self.bytes.len());
        self.next += 1;
        let piece = self.bytes.split_to(len);
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

fn reader(bytes: Vec<u8>, lens: Vec<usize>, read_len: usize) -> FrameReader<Pieces> {
    let source = Pieces { bytes: bytes.into(), lens, next: 0, pause: false };
    FrameReader::new(source, read_len, Arc::new(Meter::new(Arc::new(Totals::new()))))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn frame(id: u64, header: &[u8], body: &[u8]) -> Vec<u8> {
    let fixed =
        FixedHeader { body_len: body.len() as u32, body_crc: crc32c(body), ..FixedHeader::new(FrameType::Data, id, 0) };
    [&fixed.seal(header), header, body].concat()
}

/// What the test does with a frame's body.
#[derive(Clone, Copy, Debug)]
enum Use {
    Take,
    Skip,
}

proptest! {
    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_pieces(
        frames in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..200), 0usize..3_000, prop_oneof![Just(Use::Take), Just(Use::Skip)]),
            1..12,
        ),
        lens in prop::collection::vec(1usize..700, 1..6),
        read_len in 1usize..500,
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let body = |index: usize, len: usize| (0..len).map(|at| (at * 7 + index) as u8).collect::<Vec<u8>>();
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for (index, (header, len, _)) in frames.iter().enumerate() {
            bytes.extend(frame(index as u64, header, &body(index, *len)));
            ends.push(bytes.len());
        }
        let cut = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
        bytes.truncate(cut);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let is_clean = ends[whole] == cut;
        block_on(async {
            let mut reader = reader(bytes, lens, read_len);
            for (index, (header, len, use_)) in frames[..whole].iter().enumerate() {
                let fixed = reader.next().await.expect("a whole frame is there");
                assert_eq!(fixed.request_id, index as u64);
                assert_eq!(reader.header(), header.as_slice());
                match use_ {
                    Use::Take => {
                        let mut out = BytesMut::with_capacity(*len);
                        let at = out.as_ptr();
                        reader.take_body(&fixed, &mut out, true).await.expect("the body is right");
                        assert_eq!(out, body(index, *len));
                        assert_eq!(out.as_ptr(), at, "read in place");
                    }
                    Use::Skip => reader.skip_body(&fixed).await.expect("the body is there"),
                }
            }
            let rest = async {
                let fixed = reader.next().await?;
                reader.skip_body(&fixed).await
            };
            let error = rest.await.expect_err("the stream is over");
            match error {
                ReadError::Closed => assert!(is_clean),
                ReadError::Truncated => assert!(!is_clean),
                other => panic!("{other}"),
            }
        });
    }

    #[test]
    fn a_changed_byte_is_an_error_or_only_the_bodys(at in 0usize..75, bit in 0u8..8) {
        let mut bytes = frame(1, b"header", &[5; 29]);
        bytes[at] ^= 1 << bit;
        block_on(async {
            let mut reader = reader(bytes, vec![1000], 1000);
            let mut out = BytesMut::with_capacity(2 << 20);
            let outcome = async {
                let fixed = reader.next().await?;
                reader.take_body(&fixed, &mut out, true).await
            };
            assert!(outcome.await.is_err());
        });
    }

    #[test]
    fn random_bytes_end_in_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        block_on(async {
            let mut reader = reader(bytes, vec![50], 64);
            assert!(reader.next().await.is_err());
        });
    }
}

#[test]
fn lengths_out_of_bounds_allocate_nothing() {
    let mut bytes = FixedHeader::new(FrameType::Request, 1, 0).seal(b"").to_vec();
    bytes[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
    block_on(async {
        let mut reader = reader(bytes, vec![40], 100);
        assert!(matches!(reader.next().await, Err(ReadError::Frame(_))));
        assert!(reader.buffer.capacity() < 1_000);
    });
}

#[test]
fn the_buffer_does_not_grow_with_the_traffic() {
    let bytes: Vec<u8> = (0..2_000).flat_map(|id| frame(id, &[1; 50], &[2; 100])).collect();
    block_on(async {
        let mut reader = reader(bytes, vec![333], 512);
        for _ in 0..2_000 {
            let fixed = reader.next().await.unwrap();
            reader.skip_body(&fixed).await.unwrap();
            assert!(reader.buffer.capacity() <= 2_048, "{}", reader.buffer.capacity());
        }
    });
}

#[test]
fn a_header_that_seems_longer_than_it_is_does_not_wait_for_ever() {
    let mut bytes = FixedHeader::new(FrameType::Pong, 1, 0).seal(b"hd").to_vec();
    bytes.extend_from_slice(b"hd");
    // Bit 8 of the header's length: 256 bytes more.
    bytes[25] ^= 1;
    let paused = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    paused.block_on(async {
        let (near, mut far) = tokio::io::duplex(1024);
        let mut reader = FrameReader::new(near, 64, Arc::new(Meter::new(Arc::new(Totals::new()))));
        tokio::io::AsyncWriteExt::write_all(&mut far, &bytes).await.unwrap();
        assert!(matches!(reader.next().await, Err(ReadError::Overdue)));
        drop(far);
    });
}
