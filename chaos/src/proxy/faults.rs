//! Faults that work on whole frames: pure, so that they can be tested without a socket.

use super::frames::{Step, ends_message};
use super::mode::{Family, FlipPlace, Mode};
use bytes::{Bytes, BytesMut};
use cairn_proto::frame::{FIXED_LEN, FixedHeader};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long a frame waits for a successor that may overtake it.
const HELD_MAX: Duration = Duration::from_millis(50);

/// What becomes of a piece.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What goes on, in this order.
    pub out: Vec<Bytes>,
    /// What was done to it.
    pub fired: Option<Family>,
    /// Everything behind it is to be dropped.
    pub stop: bool,
}

/// Gathers frames and does to them what the mode says.
#[derive(Debug)]
pub struct FrameFaults {
    random: fastrand::Rng,
    /// The frame that is being gathered.
    partial: BytesMut,
    /// `partial` holds the frame from its first byte on.
    whole: bool,
    /// Frames (or messages) since the last one that was hit.
    since: u32,
    /// The one flip of the mode was made.
    once: bool,
    held: Option<(Bytes, Instant)>,
    /// Messages that are under way and had their bit flipped.
    flipped: HashSet<u64>,
}

impl FrameFaults {
    /// Nothing gathered; `at_boundary` says whether the next byte begins a frame.
    pub fn new(seed: u64, at_boundary: bool) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            partial: BytesMut::new(),
            whole: at_boundary,
            since: 0,
            once: false,
            held: None,
            flipped: HashSet::new(),
        }
    }

    /// Another mode begins, or the stream ends: gives back what was gathered and held, in order.
    pub fn restart(&mut self, at_boundary: bool) -> Vec<Bytes> {
        self.whole = at_boundary;
        self.since = 0;
        self.once = false;
        let held = self.held.take().map(|(frame, _)| frame);
        let partial = Some(self.partial.split().freeze()).filter(|bytes| !bytes.is_empty());
        held.into_iter().chain(partial).collect()
    }

    /// Until when a frame is held.
    pub fn held_until(&self) -> Option<Instant> {
        self.held.as_ref().map(|(_, until)| *until)
    }

    /// The held frame, once it has waited long enough.
    pub fn release(&mut self, now: Instant) -> Option<Bytes> {
        self.held.take_if(|(_, until)| *until <= now).map(|(frame, _)| frame)
    }

    /// Takes a piece of the stream that ends in a [`Step`].
    pub fn take(&mut self, mode: Mode, piece: Bytes, step: Step) -> Outcome {
        if !self.whole {
            // The frame began before the mode did, or this is no stream of frames.
            self.whole = matches!(step, Step::End(_));
            return Outcome { out: vec![piece], ..Outcome::default() };
        }
        self.partial.extend_from_slice(&piece);
        match step {
            Step::Inside | Step::Header(_) => Outcome::default(),
            Step::Lost => {
                self.whole = false;
                Outcome { out: vec![self.partial.split().freeze()], ..Outcome::default() }
            }
            Step::End(header) => {
                let frame = self.partial.split();
                self.on_frame(mode, header, frame)
            }
        }
    }

    fn on_frame(&mut self, mode: Mode, header: FixedHeader, mut frame: BytesMut) -> Outcome {
        match mode {
            Mode::FlipBit { place, one_in } => {
                let flipped = self.flip(place, one_in, &header, &mut frame);
                Outcome { out: vec![frame.freeze()], fired: flipped.then_some(Family::FlipBit), stop: false }
            }
            Mode::FlipOnce { place, .. } => {
                let flipped = !self.once && self.flip(place, 1, &header, &mut frame);
                self.once |= flipped;
                Outcome { out: vec![frame.freeze()], fired: flipped.then_some(Family::FlipBit), stop: false }
            }
            Mode::Duplicate { one_in } => {
                let frame = frame.freeze();
                let hit = self.hits(one_in);
                let out = if hit { vec![frame.clone(), frame] } else { vec![frame] };
                Outcome { out, fired: hit.then_some(Family::Duplicate), stop: false }
            }
            Mode::Reorder { one_in } => self.reorder(one_in, frame.freeze()),
            Mode::StopAfterHeader if header.body_len > 0 => {
                frame.truncate(FIXED_LEN + header.header_len as usize);
                Outcome { out: vec![frame.freeze()], fired: Some(Family::StopAfterHeader), stop: true }
            }
            _ => Outcome { out: vec![frame.freeze()], ..Outcome::default() },
        }
    }

    fn hits(&mut self, one_in: u32) -> bool {
        self.since += 1;
        let hit = self.since >= one_in.max(1);
        if hit {
            self.since = 0;
        }
        hit
    }

    fn flip(&mut self, place: FlipPlace, one_in: u32, header: &FixedHeader, frame: &mut BytesMut) -> bool {
        let first = match place {
            FlipPlace::Body => FIXED_LEN + header.header_len as usize,
            FlipPlace::Any => 0,
        };
        let done = self.flipped.contains(&header.request_id);
        if ends_message(header) {
            self.flipped.remove(&header.request_id);
        }
        if done || first >= frame.len() || !self.hits(one_in) {
            return false;
        }
        let at = self.random.usize(first..frame.len());
        frame[at] ^= 1 << self.random.u8(..8);
        if !ends_message(header) {
            self.flipped.insert(header.request_id);
        }
        true
    }

    fn reorder(&mut self, one_in: u32, frame: Bytes) -> Outcome {
        match self.held.take() {
            Some((held, _)) => Outcome { out: vec![frame, held], fired: Some(Family::Reorder), stop: false },
            None if self.hits(one_in) => {
                self.held = Some((frame, Instant::now() + HELD_MAX));
                Outcome::default()
            }
            None => Outcome { out: vec![frame], ..Outcome::default() },
        }
    }
}
