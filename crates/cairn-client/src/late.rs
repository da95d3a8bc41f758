//! Acks that come after their write was good enough: part of the commit if they are in time, else told to metadata, so
//! that no repair is begun for a replica that has the block.

use crate::client::Inner;
use crate::stats::bump;
use crate::write::Stored;
use cairn_proto::pb::{self, request};
use cairn_proto::{BlockId, PgId, StoreId};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Notify;

/// Rows told to metadata with one request.
const ROWS_PER_REQUEST: usize = 64;
/// Rows that may wait to be told; what is beyond, the nodes find out by themselves.
const ROWS_MAX: usize = 4096;
/// Rows are gathered for this long.
const GATHER: Duration = Duration::from_millis(20);

/// Acks of one block that nobody waits for any more.
#[derive(Debug, Default)]
pub(crate) struct LateBoard(Mutex<Board>);

/// What a late ack means. Next states beside each.
#[derive(Debug, Default)]
enum Board {
    /// The commit has not been sent: stores that may still be named in it -> `Sent`.
    #[default]
    Open,
    /// Stores that acked while it was not.
    Acked(Vec<StoreId>),
    /// The commit is under way, without these -> `Committed`, `Over`.
    Sent(Vec<StoreId>),
    /// It is done: its degraded rows name this group and run. The blocks were sent in this epoch of the group.
    Committed(PgId, u64, pb::Run),
    /// The block will not be committed, or all is said.
    Over,
}

impl LateBoard {
    /// `store` has the block durably.
    pub(crate) fn ack(&self, inner: &Inner, store: StoreId) {
        let mut board = self.0.lock();
        match &mut *board {
            Board::Open => *board = Board::Acked(vec![store]),
            Board::Acked(stores) | Board::Sent(stores) => stores.push(store),
            Board::Committed(pg, pg_epoch, run) => {
                let row = pb::DegradedRow { pg: pg.0, store: store.0, run: Some(*run), pg_epoch: *pg_epoch };
                drop(board);
                inner.late_acks.push(inner, row);
            }
            Board::Over => {}
        }
    }

    /// The commit is about to be built: stores that have acked since.
    fn send(&self) -> Vec<StoreId> {
        let mut board = self.0.lock();
        match std::mem::replace(&mut *board, Board::Sent(Vec::new())) {
            Board::Acked(stores) => stores,
            Board::Sent(stores) => {
                // A second try of the commit.
                stores
            }
            Board::Open => Vec::new(),
            over => {
                *board = over;
                Vec::new()
            }
        }
    }

    /// The commit is done, with the block as a run of its own.
    fn committed(&self, inner: &Inner, pg: PgId, pg_epoch: u64, run: pb::Run) {
        let before = std::mem::replace(&mut *self.0.lock(), Board::Committed(pg, pg_epoch, run));
        if let Board::Acked(stores) | Board::Sent(stores) = before {
            for store in stores {
                inner.late_acks.push(inner, pb::DegradedRow { pg: pg.0, store: store.0, run: Some(run), pg_epoch });
            }
        }
    }

    fn over(&self) {
        *self.0.lock() = Board::Over;
    }
}

/// Adds to each block the acks that came since it was good enough.
pub(crate) fn join_commit(inner: &Inner, blocks: &mut [Stored]) {
    for block in blocks {
        let Some(board) = &block.board else { continue };
        for store in board.send() {
            if let Some(index) = block.late.iter().position(|late| *late == store) {
                block.late.swap_remove(index);
                block.acked.push(store);
                bump(&inner.counters.late_in_commit);
            }
        }
    }
}

/// The blocks were committed as these pieces. Only a piece of one block is watched further: for longer runs a node that
/// is late with one block is usually late with all, and catches up by itself.
pub(crate) fn commit_done(inner: &Inner, blocks: &[Stored], pieces: &[pb::Piece], id: impl Fn(u32) -> BlockId) {
    let single: BTreeSet<u32> =
        pieces.iter().filter(|piece| piece.len <= u64::from(piece.block_len)).map(|piece| piece.first_seq).collect();
    for block in blocks {
        let Some(board) = &block.board else { continue };
        if single.contains(&block.seq) {
            let run = pb::Run { first: Some(crate::read::to_pb(id(block.seq))), count: 1 };
            board.committed(inner, block.pg, block.pg_epoch, run);
        } else {
            board.over();
        }
    }
}

/// Rows to be told to metadata.
#[derive(Default)]
pub(crate) struct LateAcks {
    rows: Mutex<Vec<pb::DegradedRow>>,
    more: Notify,
}

impl LateAcks {
    fn push(&self, inner: &Inner, row: pb::DegradedRow) {
        let mut rows = self.rows.lock();
        if rows.len() >= ROWS_MAX {
            bump(&inner.counters.late_dropped);
            return;
        }
        rows.push(row);
        drop(rows);
        self.more.notify_one();
    }
}

/// Tells metadata of late acks until shutdown.
pub(crate) async fn run(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            biased;
            () = inner.shutdown.cancelled() => return,
            () = inner.late_acks.more.notified() => {}
        }
        tokio::time::sleep(GATHER).await;
        loop {
            let rows: Vec<pb::DegradedRow> = {
                let mut waiting = inner.late_acks.rows.lock();
                let count = waiting.len().min(ROWS_PER_REQUEST);
                waiting.drain(..count).collect()
            };
            if rows.is_empty() {
                break;
            }
            let count = rows.len() as u64;
            let kind = request::Kind::ClearDegraded(pb::ClearDegraded { rows });
            // A row that was dropped or overwritten meanwhile is ignored there; one that stays, the node clears.
            let told = inner.meta_read(kind, inner.deadline(inner.config.meta_timeout)).await;
            let counter = if told.is_ok() { &inner.counters.late_cleared } else { &inner.counters.late_dropped };
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }
}
