//! What a proxy has seen and done.

use super::frames::Peer;
use super::mode::{Direction, Family};
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::op;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

/// Live counters of one proxy; they only grow.
#[derive(Debug, Default)]
pub struct Counters {
    accepts: AtomicU64,
    client_dials: AtomicU64,
    to_server: Flow,
    to_client: Flow,
    client_gets: AtomicU64,
    client_puts: AtomicU64,
    client_pings: AtomicU64,
    client_hedges: AtomicU64,
    fired: [AtomicU64; Family::ALL.len()],
}

#[derive(Debug, Default)]
struct Flow {
    bytes: AtomicU64,
    frames: AtomicU64,
    requests: AtomicU64,
    pings: AtomicU64,
    messages: AtomicU64,
}

/// What one direction has carried up to the proxy, whatever became of it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FlowCounts {
    /// Bytes read.
    pub bytes: u64,
    /// Whole frames.
    pub frames: u64,
    /// Whole REQUEST frames.
    pub requests: u64,
    /// Whole PING frames.
    pub pings: u64,
    /// Whole requests and responses: their last frame has arrived.
    pub messages: u64,
}

/// The counters at a moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counts {
    /// Connections accepted, whoever dialled.
    pub accepts: u64,
    /// Connections whose HELLO said that a client dialled.
    pub client_dials: u64,
    /// From the diallers.
    pub to_server: FlowCounts,
    /// From the server.
    pub to_client: FlowCounts,
    /// GET requests of clients.
    pub client_gets: u64,
    /// PUT requests of clients.
    pub client_puts: u64,
    /// PING frames of clients.
    pub client_pings: u64,
    /// Requests of clients that carry the HEDGE flag.
    pub client_hedges: u64,
    /// How often each family of faults hit somebody; families that never did are left out.
    pub fired: BTreeMap<&'static str, u64>,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn accepted(&self) {
        add(&self.accepts, 1);
    }

    pub(super) fn fired(&self, family: Family, times: u64) {
        add(&self.fired[family as usize], times);
    }

    fn flow(&self, direction: Direction) -> &Flow {
        match direction {
            Direction::ToServer => &self.to_server,
            Direction::ToClient => &self.to_client,
        }
    }

    pub(super) fn bytes(&self, direction: Direction, n: u64) {
        add(&self.flow(direction).bytes, n);
    }

    pub(super) fn frame(&self, direction: Direction, peer: Peer, header: &FixedHeader) {
        let flow = self.flow(direction);
        add(&flow.frames, 1);
        let of_a_client = direction == Direction::ToServer && peer == Peer::Client;
        match header.frame_type {
            FrameType::Hello if of_a_client => add(&self.client_dials, 1),
            FrameType::Request => {
                add(&flow.requests, 1);
                if of_a_client {
                    self.client_request(header);
                }
            }
            FrameType::Ping => {
                add(&flow.pings, 1);
                add(&self.client_pings, u64::from(of_a_client));
            }
            _ => {}
        }
        let carries = matches!(header.frame_type, FrameType::Request | FrameType::Response | FrameType::Data);
        add(&flow.messages, u64::from(carries && super::frames::ends_message(header)));
    }

    fn client_request(&self, header: &FixedHeader) {
        match header.op {
            op::GET => add(&self.client_gets, 1),
            op::PUT => add(&self.client_puts, 1),
            _ => {}
        }
        add(&self.client_hedges, u64::from(header.has(flags::HEDGE)));
    }

    /// The counters now. Not one moment for all of them, but none runs backwards.
    pub fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let flow = |flow: &Flow| FlowCounts {
            bytes: get(&flow.bytes),
            frames: get(&flow.frames),
            requests: get(&flow.requests),
            pings: get(&flow.pings),
            messages: get(&flow.messages),
        };
        let fired = Family::ALL.iter().map(|family| (family.name(), get(&self.fired[*family as usize])));
        Counts {
            accepts: get(&self.accepts),
            client_dials: get(&self.client_dials),
            to_server: flow(&self.to_server),
            to_client: flow(&self.to_client),
            client_gets: get(&self.client_gets),
            client_puts: get(&self.client_puts),
            client_pings: get(&self.client_pings),
            client_hedges: get(&self.client_hedges),
            fired: fired.filter(|(_, times)| *times > 0).collect(),
        }
    }
}

impl Sub for FlowCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes - earlier.bytes,
            frames: self.frames - earlier.frames,
            requests: self.requests - earlier.requests,
            pings: self.pings - earlier.pings,
            messages: self.messages - earlier.messages,
        }
    }
}

impl Sub<&Counts> for &Counts {
    type Output = Counts;

    /// What happened since an earlier moment.
    fn sub(self, earlier: &Counts) -> Counts {
        let before = |name: &str| earlier.fired.get(name).copied().unwrap_or(0);
        let fired = self.fired.iter().map(|(name, times)| (*name, times - before(name)));
        Counts {
            accepts: self.accepts - earlier.accepts,
            client_dials: self.client_dials - earlier.client_dials,
            to_server: self.to_server - earlier.to_server,
            to_client: self.to_client - earlier.to_client,
            client_gets: self.client_gets - earlier.client_gets,
            client_puts: self.client_puts - earlier.client_puts,
            client_pings: self.client_pings - earlier.client_pings,
            client_hedges: self.client_hedges - earlier.client_hedges,
            fired: fired.filter(|(_, times)| *times > 0).collect(),
        }
    }
}
