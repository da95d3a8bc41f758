//! The randomness seam of the servers: identities, and the seed of everything that need not be unpredictable.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this is the randomness seam")]

/// 16 bytes that nobody drew before: for the identity of a node or of a process's life.
pub(crate) fn unique() -> [u8; 16] {
    uuid::Uuid::new_v4().into_bytes()
}

/// A generator for jitter and choices.
pub(crate) fn rng() -> fastrand::Rng {
    let bytes = unique();
    let (seed, _) = bytes.split_first_chunk::<8>().expect("16 bytes begin with 8");
    fastrand::Rng::with_seed(u64::from_le_bytes(*seed))
}
