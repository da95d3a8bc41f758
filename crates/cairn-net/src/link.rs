//! Everything to one peer address.

use crate::call::Call;
use crate::config::LinkConfig;
use crate::error::LegError;
use crate::identity::{PeerInfo, SharedIdentity};
use crate::leg::Leg;
use crate::seam::Net;
use crate::stats::LinkStats;
use cairn_proto::{NodeId, pb};
use std::sync::Arc;
use std::time::Duration;

/// Everything to one peer address: the control lane and the bulk lane. Cloning gives another handle to the same; when
/// the last handle and the last leg are gone, all connections close.
#[derive(Clone)]
pub struct Link {}

impl Link {
    /// A link without connections; they are dialled when needed. `expect_node` 0 accepts whoever answers. `seed` feeds
    /// the jitter of connection ages. Needs a tokio runtime from the first [`Link::start`] on.
    pub fn new(
        net: Arc<dyn Net>,
        addr: String,
        expect_node: NodeId,
        identity: SharedIdentity,
        config: Arc<LinkConfig>,
        seed: u64,
    ) -> Self {
        let _ = (net, addr, expect_node, identity, config, seed);
        Self {}
    }

    /// Begins a request. Never blocks and never fails by itself: every failure is the leg's outcome.
    pub fn start(&self, call: Call) -> Leg {
        let _ = call;
        Leg {}
    }

    /// Asks the peer for a sign of life on the control lane, dialling if needed.
    ///
    /// # Errors
    /// `Connect` and its relatives from dialling, `Deadline` when no answer came within `timeout`. Cancelling leaves
    /// nothing behind.
    pub async fn ping(&self, timeout: Duration) -> Result<pb::Pong, LegError> {
        let _ = timeout;
        Ok(pb::Pong::default())
    }

    /// The address it leads to.
    pub fn addr(&self) -> &str {
        ""
    }

    /// A snapshot of its connections and counters.
    pub fn stats(&self) -> LinkStats {
        LinkStats::default()
    }

    /// Lowers (or raises, up to the configured ceiling) the time a dial may take from now on.
    pub fn set_connect_timeout(&self, timeout: Duration) {
        let _ = timeout;
    }

    /// What the peer said of itself at the last handshake; `None` before the first.
    pub fn peer(&self) -> Option<PeerInfo> {
        None
    }

    /// Closes all connections; legs under way fail with `Cancelled`, and so do later ones.
    pub fn close(&self) {}
}
