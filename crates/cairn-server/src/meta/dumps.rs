//! Dumps that clients take through this server: a snapshot each, read piece by piece, for a bounded time.

use crate::entropy;
use crate::limits::{DUMP_CHECK_PERIOD, DUMP_IDLE_MAX, DUMP_LIFE_MAX, DUMPS_MAX};
use bytes::{Buf, Bytes, BytesMut};
use cairn_meta::Meta;
use cairn_meta::dump::Dump;
use cairn_proto::limits::PAGE_BYTES_MAX;
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Mutex as TurnLock;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// The dumps of one server.
#[derive(Default)]
pub(crate) struct Dumps {
    open: Mutex<BTreeMap<u64, Entry>>,
}

struct Entry {
    begun: Instant,
    used: Instant,
    dump: Arc<TurnLock<Open>>,
}

struct Open {
    /// `None` once its end was read: the snapshot is let go, the last pieces are still asked for.
    dump: Option<Dump>,
    /// Made and not given out.
    waiting: BytesMut,
    /// The piece that was given out last, for whoever lost the answer.
    last: Option<(u64, pb::DumpRowsReply)>,
    rows: u64,
    bytes: u64,
    newest_snapshot: u64,
}

impl Open {
    async fn piece(&mut self, id: u64, number: u64) -> Result<pb::DumpRowsReply, Status> {
        let next = match &self.last {
            Some((last, reply)) if *last == number => return Ok(reply.clone()),
            Some((last, _)) => last + 1,
            None => 0,
        };
        if number != next {
            return Err(Status::new(Code::Invalid, format!("piece {number} was asked for, piece {next} comes next")));
        }
        while self.waiting.len() < PAGE_BYTES_MAX
            && let Some(dump) = &mut self.dump
        {
            let made = dump.next().await.map_err(|error| Status::new(Code::Io, error.to_string()))?;
            (self.rows, self.bytes) = (dump.progress().rows, dump.progress().bytes);
            match made {
                Some(bytes) => self.waiting.extend_from_slice(&bytes),
                None => self.dump = None,
            }
        }
        let len = self.waiting.len().min(PAGE_BYTES_MAX);
        let data = Bytes::copy_from_slice(&self.waiting[..len]);
        self.waiting.advance(len);
        let end = self.dump.is_none() && self.waiting.is_empty();
        let bytes = self.bytes - self.waiting.len() as u64;
        let reply =
            pb::DumpRowsReply { dump: id, data, end, rows: self.rows, bytes, newest_snapshot: self.newest_snapshot };
        self.last = Some((number, reply.clone()));
        Ok(reply)
    }
}

impl Dumps {
    /// Serves a piece, or begins a dump.
    pub(crate) async fn serve(&self, meta: &Meta, ask: &pb::DumpRows) -> Result<pb::DumpRowsReply, Status> {
        if ask.cancel {
            self.open.lock().remove(&ask.dump);
            return Ok(pb::DumpRowsReply { dump: ask.dump, end: true, ..Default::default() });
        }
        let (id, dump) = match ask.dump {
            0 => self.begin(meta).await?,
            id => (id, self.find(id)?),
        };
        let reply = dump.lock().await.piece(id, ask.piece).await;
        if reply.is_err() {
            // The snapshot is of no use any more.
            self.open.lock().remove(&id);
        }
        reply
    }

    async fn begin(&self, meta: &Meta) -> Result<(u64, Arc<TurnLock<Open>>), Status> {
        let full = || {
            let message = format!("{DUMPS_MAX} dumps are being taken through this server");
            Err(Status::new(Code::Overloaded, message).retry_after_ms(5000))
        };
        if self.open.lock().len() >= DUMPS_MAX {
            return full();
        }
        let dump = meta.dump().await?;
        let newest_snapshot = dump.header().newest_snapshot;
        let waiting = BytesMut::new();
        let open = Open { dump: Some(dump), waiting, last: None, rows: 0, bytes: 0, newest_snapshot };
        let open = Arc::new(TurnLock::new(open));
        let now = cairn_net::now();
        let id = entropy::rng().u64(1..);
        let mut all = self.open.lock();
        if all.len() >= DUMPS_MAX {
            return full();
        }
        all.insert(id, Entry { begun: now, used: now, dump: open.clone() });
        Ok((id, open))
    }

    fn find(&self, id: u64) -> Result<Arc<TurnLock<Open>>, Status> {
        let mut open = self.open.lock();
        match open.get_mut(&id) {
            Some(entry) => {
                entry.used = cairn_net::now();
                Ok(entry.dump.clone())
            }
            // Another server may have it.
            None => Err(Status::new(Code::WrongPeer, "this server has no such dump: it was given up, or is another's")),
        }
    }

    /// Lets go of dumps that nobody reads on, and of those that take too long.
    pub(crate) async fn expire(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(DUMP_CHECK_PERIOD)).await.is_some() {
            let now = cairn_net::now();
            self.open.lock().retain(|_, entry| {
                now.saturating_duration_since(entry.used) < DUMP_IDLE_MAX
                    && now.saturating_duration_since(entry.begun) < DUMP_LIFE_MAX
            });
        }
        self.open.lock().clear();
    }
}
