//! The bytes that are written, sent and compared.

use bytes::Bytes;

/// Much more than a processor's nearest caches hold, so that senders read memory as a real one would.
pub const POOL_LEN: usize = 64 * 1024 * 1024;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Bytes that do not compress, the same in every process. A file of any length is this pool, repeated.
pub fn pool() -> Bytes {
    let mut state = SEED;
    let mut bytes = Vec::with_capacity(POOL_LEN);
    while bytes.len() < POOL_LEN {
        // xorshift64* (Marsaglia 2003, Vigna 2016).
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    Bytes::from(bytes)
}

/// The `len` bytes at `offset` of the repeated pool; `len` must divide [`POOL_LEN`] and `offset`.
pub fn at(pool: &Bytes, offset: u64, len: usize) -> Bytes {
    let begin = (offset % POOL_LEN as u64) as usize;
    pool.slice(begin..begin + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_and_does_not_compress() {
        let pool = pool();
        assert_eq!(pool.len(), POOL_LEN);
        assert_eq!(at(&pool, 4096, 4096), at(&pool, POOL_LEN as u64 + 4096, 4096));
        assert_ne!(at(&pool, 0, 4096), at(&pool, 4096, 4096));
        let ones: u64 = pool[..1 << 20].iter().map(|byte| u64::from(byte.count_ones())).sum();
        assert!((4_100_000..4_300_000).contains(&ones), "{ones}");
    }
}
