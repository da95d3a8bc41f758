use super::{COPY_LEN_MAX, FrameWriter, SendOutcome};
use crate::body::{Body, BodyPart};
use crate::meter::{Meter, Totals};
use crate::seam::WriteHalf;
use bytes::Bytes;
use cairn_proto::checksum::crc32c;
use cairn_proto::frame::{FIXED_LEN, FixedHeader, FrameType, flags};
use cairn_proto::limits::FRAME_BODY_MAX;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// Keeps what is written and flushed, as a stream that encrypts; takes at most `limit` bytes at a time.
#[derive(Clone)]
struct Sink {
    bytes: Arc<Mutex<Vec<u8>>>,
    held: Arc<Mutex<Vec<u8>>>,
    calls: Arc<Mutex<usize>>,
    limit: usize,
}

impl WriteHalf for Sink {}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let len = buf.len().min(self.limit);
        self.held.lock().extend_from_slice(&buf[..len]);
        *self.calls.lock() += 1;
        Poll::Ready(Ok(len))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all = bufs.iter().flat_map(|buf| buf.iter().copied()).take(self.limit);
        let mut held = self.held.lock();
        let before = held.len();
        held.extend(all);
        *self.calls.lock() += 1;
        Poll::Ready(Ok(held.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes.lock().append(&mut self.held.lock());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn writer(limit: usize) -> (FrameWriter, Sink) {
    let sink = Sink { bytes: Arc::default(), held: Arc::default(), calls: Arc::default(), limit };
    let meter = Arc::new(Meter::new(Arc::new(Totals::new())));
    (FrameWriter::new(Box::new(sink.clone()), meter), sink)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Cuts what was written into frames and checks each.
fn frames(mut bytes: &[u8]) -> Vec<(FixedHeader, Vec<u8>, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() {
        let fixed = FixedHeader::decode(fixed).unwrap();
        let (header, rest) = rest.split_at(fixed.header_len as usize);
        fixed.check(header).unwrap();
        let (body, rest) = rest.split_at(fixed.body_len as usize);
        assert_eq!(crc32c(body), fixed.body_crc);
        out.push((fixed, header.to_vec(), body.to_vec()));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    out
}

fn request(id: u64) -> FixedHeader {
    FixedHeader { flags: flags::RETRY, deadline_ms: 7, attempt: 2, ..FixedHeader::new(FrameType::Request, id, 257) }
}

#[test]
fn small_messages_share_a_system_call() {
    let (mut writer, sink) = writer(usize::MAX);
    block_on(async {
        for id in 1..=5 {
            let body = Body::from_bytes(Bytes::from(vec![id as u8; if id == 3 { 50_000 } else { 10 }]));
            writer.send(request(id), b"hd", &body, 0, |_| true).await.unwrap();
        }
        writer.flush().await.unwrap();
    });
    assert_eq!(*sink.calls.lock(), 1);
    let ids: Vec<u64> = frames(&sink.bytes.lock()).iter().map(|(fixed, ..)| fixed.request_id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[test]
fn a_message_given_up_between_frames_says_so() {
    let (mut writer, sink) = writer(usize::MAX);
    let body = Body::from_bytes(Bytes::from(vec![1; 3 * FRAME_BODY_MAX as usize]));
    block_on(async {
        let mut left = 2;
        let step = |_| {
            left -= 1;
            left >= 0
        };
        let outcome = writer.send(request(1), b"hd", &body, flags::CANCELLED, step).await.unwrap();
        assert_eq!(outcome, SendOutcome::Aborted);
        let outcome = writer.send(request(2), b"hd", &body, 0, |_| false).await.unwrap();
        assert_eq!(outcome, SendOutcome::NotBegun);
        writer.flush().await.unwrap();
    });
    let frames = frames(&sink.bytes.lock());
    let seen: Vec<_> = frames.iter().map(|(fixed, _, body)| (fixed.frame_type, fixed.flags, body.len())).collect();
    let len = FRAME_BODY_MAX as usize;
    assert_eq!(
        seen,
        [
            (FrameType::Request, flags::RETRY, len),
            (FrameType::Data, 0, len),
            (FrameType::Data, flags::ABORT | flags::END | flags::CANCELLED, 0),
        ]
    );
}

#[test]
fn files_and_bytes_mix() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[3; 10_000]).unwrap();
    let part = BodyPart::File { file: Arc::new(file), offset: 1_000, len: 5_000, crc: crc32c(&[3; 5_000]) };
    let bytes = BodyPart::Bytes { data: Bytes::from_static(b"tail"), crc: crc32c(b"tail") };
    let (mut writer, sink) = writer(999);
    block_on(async {
        writer.push(request(1), b"before", None);
        let body = Body::from_parts(vec![part.clone(), bytes]);
        writer.send(request(2), b"hd", &body, 0, |_| true).await.unwrap();
        writer.send(request(3), b"hd", &Body::from_parts(vec![part]), 0, |_| true).await.unwrap();
        writer.flush().await.unwrap();
    });
    let lens: Vec<_> =
        frames(&sink.bytes.lock()).iter().map(|(fixed, _, body)| (fixed.request_id, body.len())).collect();
    assert_eq!(lens, [(1, 0), (2, 5_000), (2, 4), (3, 5_000)]);
}

proptest! {
    #[test]
    fn what_is_sent_is_what_was_meant(
        messages in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..100), 0usize..COPY_LEN_MAX * 3, any::<bool>()),
            1..10,
        ),
        limit in 1usize..5_000,
    ) {
        let (mut writer, sink) = writer(limit);
        block_on(async {
            for (id, (header, len, flush)) in messages.iter().enumerate() {
                let body = Body::from_bytes(Bytes::from(vec![id as u8; *len]));
                writer.send(request(id as u64), header, &body, 0, |_| true).await.unwrap();
                if *flush {
                    writer.flush().await.unwrap();
                }
            }
            writer.flush().await.unwrap();
        });
        let frames = frames(&sink.bytes.lock());
        prop_assert_eq!(frames.len(), messages.len());
        for (id, ((fixed, header, body), (meant, len, _))) in frames.iter().zip(&messages).enumerate() {
            prop_assert_eq!(fixed.flags, flags::END | flags::RETRY);
            prop_assert_eq!((fixed.request_id, fixed.deadline_ms, fixed.attempt), (id as u64, 7, 2));
            prop_assert_eq!(header, meant);
            prop_assert_eq!(body, &vec![id as u8; *len]);
        }
    }
}
