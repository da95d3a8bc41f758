//! Budgets: how many extra requests the client may send, measured by how many went well.

use super::primitives::{AtomicU64, Ordering};
use std::sync::Arc;

/// Most tokens for retries, and how many there are in the beginning.
pub(crate) const RETRY_CAP: f64 = 20.0;
/// What a success adds to the tokens for retries: at most one retry for ten successes in the long run.
pub(crate) const RETRY_PER_SUCCESS: f64 = 0.1;
/// Most tokens for hedges, and how many there are in the beginning.
pub(crate) const HEDGE_CAP: f64 = 32.0;
/// What a completed first leg adds to the tokens for hedges: at most one hedge for twenty reads in the long run.
pub(crate) const HEDGE_PER_FIRST_LEG: f64 = 0.05;
/// Hedges under way at the same time.
pub(crate) const HEDGES_MAX: u64 = 8;
/// Bytes asked for by the hedges under way. A longer read than this is never hedged; its timers still work.
pub(crate) const HEDGE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Tokens are counted in millionths.
const TOKEN: u64 = 1_000_000;

fn to_units(tokens: f64) -> u64 {
    (tokens * TOKEN as f64).round() as u64
}

/// A bucket of tokens. Starts full; each success adds a little, each extra request takes one.
///
/// All of it is lock-free and exact: there is no moment between looking and taking.
#[derive(Debug)]
pub(crate) struct Budget {
    units: AtomicU64,
    refused: AtomicU64,
    cap: u64,
    per_success: u64,
}

impl Budget {
    /// A full bucket of at most `cap` tokens; a success adds `per_success`.
    pub(crate) fn new(cap: f64, per_success: f64) -> Self {
        let cap = to_units(cap);
        Self { units: AtomicU64::new(cap), refused: AtomicU64::new(0), cap, per_success: to_units(per_success) }
    }

    /// Something went well.
    pub(crate) fn deposit(&self) {
        let add = |units: u64| (units < self.cap).then(|| (units + self.per_success).min(self.cap));
        let _ = self.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes a token, or counts a refusal.
    pub(crate) fn try_take(&self) -> bool {
        let taken =
            self.units.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |units| units.checked_sub(TOKEN)).is_ok();
        if !taken {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Tokens left.
    pub(crate) fn tokens(&self) -> f64 {
        self.units.load(Ordering::Relaxed) as f64 / TOKEN as f64
    }

    /// Tokens it can hold.
    pub(crate) fn cap(&self) -> f64 {
        self.cap as f64 / TOKEN as f64
    }

    /// How often there was no token.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Why a read that waited long enough was not hedged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum HedgeSkip {
    /// The budget was spent: at most one hedge for twenty reads in the long run.
    Tokens,
    /// Too many hedges were under way.
    Concurrency,
    /// The hedges under way asked for too many bytes.
    Bytes,
    /// No other healthy replica was left to ask.
    NoReplica,
}

impl HedgeSkip {
    /// Name for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Concurrency => "concurrency",
            Self::Bytes => "bytes",
            Self::NoReplica => "no_replica",
        }
    }
}

/// Bits of [`HedgeBudget::in_flight`] that hold bytes; the rest counts hedges.
const BYTES_BITS: u32 = 40;
const ONE_HEDGE: u64 = 1 << BYTES_BITS;
const BYTES_MASK: u64 = ONE_HEDGE - 1;
const _: () = assert!(HEDGE_BYTES_MAX < BYTES_MASK && HEDGES_MAX < 1 << (63 - BYTES_BITS));

/// What bounds hedges: tokens, their number, their bytes. One for a client.
#[derive(Debug)]
pub(crate) struct HedgeBudget {
    tokens: Budget,
    /// Hedges and bytes in one number, so that both are taken or neither.
    in_flight: AtomicU64,
    refused: AtomicU64,
}

impl HedgeBudget {
    /// Full.
    pub(crate) fn new() -> Self {
        Self {
            tokens: Budget::new(HEDGE_CAP, HEDGE_PER_FIRST_LEG),
            in_flight: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Permission for one hedge of `bytes`, held as long as the permit lives.
    ///
    /// # Errors
    /// Which bound stands against it; nothing was taken then.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: u64) -> Result<HedgePermit, HedgeSkip> {
        let result = self.take(bytes);
        if result.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn take(self: &Arc<Self>, bytes: u64) -> Result<HedgePermit, HedgeSkip> {
        if bytes > HEDGE_BYTES_MAX {
            return Err(HedgeSkip::Bytes);
        }
        let add = |now: u64| {
            let fits = now / ONE_HEDGE < HEDGES_MAX && (now & BYTES_MASK) + bytes <= HEDGE_BYTES_MAX;
            fits.then(|| now + ONE_HEDGE + bytes)
        };
        self.in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .map_err(|now| if now / ONE_HEDGE >= HEDGES_MAX { HedgeSkip::Concurrency } else { HedgeSkip::Bytes })?;
        // The permit exists before the step that can fail, so that a refusal gives the place back.
        let permit = HedgePermit { budget: self.clone(), bytes };
        if self.tokens.try_take() { Ok(permit) } else { Err(HedgeSkip::Tokens) }
    }

    /// A first leg was answered: by its own node, whoever won.
    pub(crate) fn on_first_leg_completed(&self) {
        self.tokens.deposit();
    }

    /// Tokens left.
    pub(crate) fn tokens(&self) -> f64 {
        self.tokens.tokens()
    }

    /// Hedges refused, for whatever reason.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Hedges under way.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed) / ONE_HEDGE
    }

    /// Bytes they ask for.
    #[cfg(test)]
    pub(crate) fn bytes_in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed) & BYTES_MASK
    }
}

/// One hedge under way; dropping it gives its place and its bytes back (the token is spent).
#[derive(Debug)]
pub(crate) struct HedgePermit {
    budget: Arc<HedgeBudget>,
    bytes: u64,
}

impl Drop for HedgePermit {
    fn drop(&mut self) {
        self.budget.in_flight.fetch_sub(ONE_HEDGE + self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
