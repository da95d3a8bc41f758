//! What a proxy does to the bytes of one direction, and to those who dial it.

use serde::Serialize;
use std::time::Duration;

/// Which way bytes travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// From the one who dialled to the server behind the proxy.
    ToServer,
    /// Back.
    ToClient,
}

/// How long bytes are held back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Latency {
    /// Always the same.
    Fixed(Duration),
    /// Evenly from the first to the second, drawn for each read of the socket; order is kept all the same.
    Uniform(Duration, Duration),
    /// Lognormal with this median and this sigma of the underlying normal, cut at 100 medians.
    Lognormal(Duration, f64),
}

/// Which bits of a frame may be flipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlipPlace {
    /// Of the raw body only: what a bad disk or a bad cable behind a network card would do to data.
    Body,
    /// Of any byte, the headers included.
    Any,
}

/// What happens to the bytes of one direction. Frame-aware modes work on whole frames of the protocol
/// (docs/formats/wire.md); bytes that are no frames pass them untouched.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Mode {
    /// Nothing.
    #[default]
    Pass,
    /// Held back; does not serialise: what follows is held back for as long, beside it.
    Delay(Latency),
    /// At most this many bytes a second on each connection.
    Throttle {
        /// More than 0.
        bytes_per_s: u64,
    },
    /// Read and dropped, the end of the stream too. Neither side notices by itself. A connection that lost bytes so is
    /// reset when the mode changes: its stream has a hole.
    BlackHole,
    /// Bytes pass, the end of the stream does not, until the mode changes.
    HalfOpen,
    /// Both sides are reset once this many bytes have passed on a connection since the mode was set.
    ResetAfter {
        /// Bytes that still pass.
        bytes: u64,
    },
    /// The stream ends in order once this many bytes have passed since the mode was set; the rest is dropped.
    Truncate {
        /// Bytes that still pass.
        bytes: u64,
    },
    /// Frame-aware: one random bit of every `one_in`-th message that has a body ([`FlipPlace::Body`]), or of every
    /// `one_in`-th frame. A message is a request or response with all its frames; at most one bit of it is flipped.
    FlipBit {
        /// Where.
        place: FlipPlace,
        /// 1 = every one.
        one_in: u32,
    },
    /// Frame-aware: one random bit of the first message that has a body ([`FlipPlace::Body`]), or of the first frame, that
    /// passes on a connection after the mode was set; what follows on that connection passes, and so does everything on one
    /// whose HELLO says that a server dialled.
    FlipOnce {
        /// Where.
        place: FlipPlace,
        /// Another number is another flip, even where the mode between the two was too short to be seen.
        shot: u64,
    },
    /// Frame-aware: every `one_in`-th frame arrives twice.
    Duplicate {
        /// 1 = every one.
        one_in: u32,
    },
    /// Frame-aware: every `one_in`-th frame arrives behind its successor. One without a successor is not held up for
    /// longer than 50 ms.
    Reorder {
        /// 1 = every second one, at most.
        one_in: u32,
    },
    /// One byte a second.
    Drip,
    /// Frame-aware: the next frame that has a body passes up to the body; what follows is dropped, as by a black hole.
    StopAfterHeader,
}

/// What happens to those who dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Dialing {
    /// They are connected to the server behind the proxy.
    #[default]
    Accept,
    /// Nobody listens: ECONNREFUSED. Connections that stand, stand; see [`super::FaultProxy::reset_connections`].
    Refuse,
    /// They are accepted, may say their HELLO, and are reset: a dead process behind a forwarder. Unlike refused ones,
    /// these dials are seen and counted.
    Reset,
    /// The backlog is full, so that Linux answers no SYN: dialling hangs.
    SynBlackHole,
}

/// The kinds of fault, to count how often each of them hit somebody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(usize)]
pub enum Family {
    /// Reads of a socket that were held back.
    Delay,
    /// Pieces that had to wait for their turn.
    Throttle,
    /// Reads of a socket whose bytes, and ends of streams that, were dropped.
    BlackHole,
    /// Ends of streams that were kept back.
    HalfOpen,
    /// Times the closed listener was seen to refuse.
    Refuse,
    /// Connections reset.
    Reset,
    /// Streams ended early.
    Truncate,
    /// Bits flipped.
    FlipBit,
    /// Frames sent twice.
    Duplicate,
    /// Frames sent behind their successor.
    Reorder,
    /// Bytes that dripped.
    Drip,
    /// Frames stopped behind their header.
    StopAfterHeader,
    /// Times the full backlog was seen to answer no SYN.
    SynBlackHole,
}

impl Family {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Delay,
        Self::Throttle,
        Self::BlackHole,
        Self::HalfOpen,
        Self::Refuse,
        Self::Reset,
        Self::Truncate,
        Self::FlipBit,
        Self::Duplicate,
        Self::Reorder,
        Self::Drip,
        Self::StopAfterHeader,
        Self::SynBlackHole,
    ];

    /// As reports name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Delay => "delay",
            Self::Throttle => "throttle",
            Self::BlackHole => "black_hole",
            Self::HalfOpen => "half_open",
            Self::Refuse => "refuse",
            Self::Reset => "reset",
            Self::Truncate => "truncate",
            Self::FlipBit => "flip_bit",
            Self::Duplicate => "duplicate",
            Self::Reorder => "reorder",
            Self::Drip => "drip",
            Self::StopAfterHeader => "stop_after_header",
            Self::SynBlackHole => "syn_black_hole",
        }
    }
}

impl Latency {
    /// One draw.
    pub(super) fn draw(self, random: &mut fastrand::Rng) -> Duration {
        match self {
            Self::Fixed(latency) => latency,
            Self::Uniform(min, max) => min + max.saturating_sub(min).mul_f64(random.f64()),
            Self::Lognormal(median, sigma) => {
                // Box-Muller (1958): two even draws make a normal one.
                let (u, v) = (1.0 - random.f64(), random.f64());
                let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
                median.mul_f64((sigma * normal).exp().min(100.0))
            }
        }
    }
}

impl Mode {
    /// Whether it needs whole frames.
    pub(super) const fn cuts_frames(self) -> bool {
        matches!(
            self,
            Self::FlipBit { .. }
                | Self::FlipOnce { .. }
                | Self::Duplicate { .. }
                | Self::Reorder { .. }
                | Self::StopAfterHeader
        )
    }

    /// Bytes a second that may pass, where they are limited.
    pub(super) const fn pace(self) -> Option<u64> {
        match self {
            Self::Throttle { bytes_per_s } => Some(if bytes_per_s == 0 { 1 } else { bytes_per_s }),
            Self::Drip => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_numbered_in_order() {
        assert!(Family::ALL.iter().enumerate().all(|(index, family)| *family as usize == index));
    }

    #[test]
    fn latencies_stay_in_their_range() {
        let mut random = fastrand::Rng::with_seed(1);
        let ms = Duration::from_millis;
        let mut sum = 0.0;
        for _ in 0..10_000 {
            assert_eq!(Latency::Fixed(ms(7)).draw(&mut random), ms(7));
            let even = Latency::Uniform(ms(2), ms(4)).draw(&mut random);
            assert!(ms(2) <= even && even <= ms(4));
            let skewed = Latency::Lognormal(ms(1), 0.8).draw(&mut random);
            assert!(skewed <= ms(100));
            sum += skewed.as_secs_f64();
        }
        // The mean of a lognormal is median * exp(sigma^2 / 2): 1.377 ms.
        assert!((1.3e-3..1.45e-3).contains(&(sum / 10_000.0)), "{}", sum / 10_000.0);
    }
}
