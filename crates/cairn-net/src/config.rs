//! Bounds and timers of connections, in one place.

use crate::identity::SharedIdentity;
use crate::pool::ConnectionTotal;
use crate::server::ServerStats;
use cairn_proto::limits::{CONTROL_BODY_MAX, FRAME_BODY_MAX, RESPONSE_LEN_MAX};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Connections of one client to all peers together.
pub const CONNECTIONS_PER_CLIENT: usize = 256;
/// Bulk connections to one peer, unless there are fewer cores: more of them starve small requests.
pub const BULK_CONNECTIONS_MAX: usize = 4;
/// When a client closes a connection it does not use.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Requests of a link that are given to connections or wait for one.
pub const OPS_PER_LINK: usize = 64;
/// Body bytes (sent, or allowed to come) of the requests of a link.
pub const BYTES_PER_LINK: usize = 64 * 1024 * 1024;
/// Legs of a link that may wait for permits; more fail at once.
pub const LEGS_WAITING_MAX: usize = 4096;
/// How long a dial may wait for its place among the client's connections before its legs fail with `Overloaded`.
pub(crate) const PLACE_WAIT: Duration = Duration::from_secs(5);
/// When a dial takes this long, a second one begins beside it for legs that nobody else can answer.
pub(crate) const SPARE_DIAL_AFTER: Duration = Duration::from_millis(250);
/// First pause after a failed dial that nobody asked for (see [`LinkConfig::bulk_min`]), doubled up to
/// [`REFILL_PAUSE_MAX`].
pub(crate) const REFILL_PAUSE: Duration = Duration::from_secs(1);
/// Ceiling of that pause.
pub(crate) const REFILL_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How often a link looks after its connections: idle, aged, stalled.
pub(crate) const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds and timers of a [`crate::Link`]; shared by all links of a client.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Ceiling for TCP connect and HELLO together; [`crate::Link::set_connect_timeout`] lowers it per link.
    pub connect_timeout: Duration,
    /// A connection without requests for this long is closed; earlier where a server advertises that it closes early, so
    /// that the client closes first.
    pub idle_timeout: Duration,
    /// A connection older than this, ±20 %, is replaced.
    pub max_age: Duration,
    /// Control connections that idleness does not close, 0 or 1; once the peer was reached, one that ends otherwise is
    /// dialled again.
    pub control_min: usize,
    /// The same for bulk connections.
    pub bulk_min: usize,
    /// Bulk connections to one peer at most.
    pub bulk_max: usize,
    /// Requests in flight on a link.
    pub ops: usize,
    /// Body bytes in flight on a link.
    pub bytes: usize,
    /// Legs waiting for permits.
    pub waiting_max: usize,
    /// How long a cancelled request may take to leave its bulk connection before the connection is closed; up to four
    /// times as long while bytes still move and nobody waits for a connection.
    pub drain_timeout: Duration,
    /// A connection with a request and without a byte in either direction for this long is suspect: the peer is pinged.
    pub stall_timeout: Duration,
    /// Floor of the time a suspect peer has to answer; four smoothed round trips if that is longer.
    pub ping_timeout: Duration,
    /// Connections of all links together. When it is reached, an unused connection of another link makes room.
    pub total_connections: Arc<ConnectionTotal>,
}

impl Default for LinkConfig {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: IDLE_TIMEOUT,
            max_age: Duration::from_secs(600),
            control_min: 0,
            bulk_min: 0,
            bulk_max: BULK_CONNECTIONS_MAX.min(cores).max(1),
            ops: OPS_PER_LINK,
            bytes: BYTES_PER_LINK,
            waiting_max: LEGS_WAITING_MAX,
            drain_timeout: Duration::from_millis(50),
            stall_timeout: Duration::from_secs(30),
            ping_timeout: Duration::from_millis(200),
            total_connections: ConnectionTotal::new(CONNECTIONS_PER_CLIENT),
        }
    }
}

/// When a server closes a connection that is not used.
pub const SERVER_IDLE_TIMEOUT: Duration = Duration::from_secs(180);
/// Connections a server accepts at once.
pub const SERVER_CONNECTIONS_MAX: usize = 4096;
/// Requests of one connection a server works on at once; more are answered `Overloaded`.
pub const SERVER_INFLIGHT_PER_CONNECTION: usize = 256;
/// Requests of all connections a server works on at once; more are answered `Overloaded`.
pub const SERVER_REQUESTS_MAX: usize = 16 * 1024;
/// Body bytes of bulk requests a server holds at once.
pub const SERVER_BODY_BYTES: usize = 256 * 1024 * 1024;
/// Body bytes of control-lane requests a server holds at once.
pub const SERVER_CONTROL_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Bounds and timers of [`crate::serve`].
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What the server says of itself.
    pub identity: SharedIdentity,
    /// Connections at once; later ones are closed at once.
    pub max_connections: usize,
    /// Requests of one connection at once, cancelled ones that still run included.
    pub max_inflight_per_connection: usize,
    /// Requests of all connections at once.
    pub max_requests: usize,
    /// Bytes of bulk request bodies held at once; permits are taken before a body is read, so memory stays flat.
    pub body_bytes: Arc<Semaphore>,
    /// The same for the control lane, where nothing waits: a request without room is answered `Overloaded`.
    pub control_body_bytes: Arc<Semaphore>,
    /// HELLO must come within this.
    pub hello_timeout: Duration,
    /// A begun frame, the next frame of a begun body, and a write must make progress within this.
    pub frame_timeout: Duration,
    /// A connection without requests for this long is closed; advertised in HELLO_ACK.
    pub idle_timeout: Duration,
    /// How long requests in flight may still take at shutdown.
    pub drain_timeout: Duration,
    /// Counters, shared with whoever wants to look.
    pub stats: Arc<ServerStats>,
}

impl ServerConfig {
    /// The default bounds for a server of this identity.
    pub fn new(identity: SharedIdentity) -> Self {
        Self {
            identity,
            max_connections: SERVER_CONNECTIONS_MAX,
            max_inflight_per_connection: SERVER_INFLIGHT_PER_CONNECTION,
            max_requests: SERVER_REQUESTS_MAX,
            body_bytes: Arc::new(Semaphore::new(SERVER_BODY_BYTES)),
            control_body_bytes: Arc::new(Semaphore::new(SERVER_CONTROL_BODY_BYTES)),
            hello_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(30),
            idle_timeout: SERVER_IDLE_TIMEOUT,
            drain_timeout: Duration::from_secs(5),
            stats: Arc::new(ServerStats::default()),
        }
    }
}

const _: () = {
    // The largest request fits the server's budget, or it could never be read.
    assert!(SERVER_BODY_BYTES as u64 >= RESPONSE_LEN_MAX);
    // A link's control requests never meet the server's bound.
    assert!(OPS_PER_LINK < SERVER_INFLIGHT_PER_CONNECTION);
    assert!(OPS_PER_LINK * CONTROL_BODY_MAX as usize <= BYTES_PER_LINK);
    assert!(BYTES_PER_LINK >= FRAME_BODY_MAX as usize);
    // The client closes first, also when both look only now and then: no request meets a connection that is closing.
    assert!(SERVER_IDLE_TIMEOUT.as_secs() >= 120 && SERVER_IDLE_TIMEOUT.as_secs() >= 2 * IDLE_TIMEOUT.as_secs());
};
