//! How late tasks of this process get their turn: what a reader whose block is in memory waits for. Copies cost processor
//! time, too, and a store whose disk is calm does not notice.

use super::calm::Wait;
use super::state::Node;
use crate::limits::{LAG_LOOK, LAG_STEP};
use std::sync::Arc;
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

/// Runs until `stop`. Measures only while somebody reads or writes.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    loop {
        let busy: Vec<_> = node.stores.iter().filter(|slot| slot.is_asked()).collect();
        let due = cairn_net::now() + if busy.is_empty() { LAG_LOOK } else { LAG_STEP };
        // tidy: sleep-ok(the lateness of the timer is what is measured)
        if stop.run_until_cancelled(sleep_until(due)).await.is_none() {
            return;
        }
        for slot in busy {
            slot.waited(Wait::Turn, due);
        }
    }
}
