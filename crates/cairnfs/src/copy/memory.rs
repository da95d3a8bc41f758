//! One budget of memory for all files in flight.

use tokio::sync::{Semaphore, SemaphorePermit};

use super::PIECE_LEN;

/// Bytes that files in flight may hold together.
const BUDGET: usize = 96 * 1024 * 1024;
/// What a streamed file may hold: the client's window of unsynced or read-ahead blocks.
const STREAM: usize = 64 * 1024 * 1024;
/// A file that is copied in one piece is held twice: as it was read, and as the blocks on their way.
const COPIES: usize = 2;
/// The budget is counted in pages of this many bytes.
const PAGE: usize = 64 * 1024;

const _: () = assert!(STREAM <= BUDGET && PIECE_LEN * COPIES <= STREAM && BUDGET / PAGE <= u32::MAX as usize);

/// See the module.
pub struct Memory(Semaphore);

impl Memory {
    pub fn new() -> Self {
        Self(Semaphore::new(BUDGET / PAGE))
    }

    /// Waits until a file of this length may be held. First come, first served, so that a big file gets its turn. The
    /// permit must be kept as long as the bytes.
    pub async fn hold(&self, len: u64) -> SemaphorePermit<'_> {
        let piece = usize::try_from(len).ok().filter(|len| *len <= PIECE_LEN);
        let bytes = piece.map_or(STREAM, |len| len * COPIES);
        self.0.acquire_many(bytes.div_ceil(PAGE).max(1) as u32).await.expect("the budget is never closed")
    }
}
