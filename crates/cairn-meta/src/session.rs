//! Sessions and writers: opened, renewed, closed, expired.

use crate::error::{Op, fail};
use crate::holds;
use crate::keys::{self, counter};
use crate::kv::{Durability, Order};
use crate::limits::{INODES_PER_REQUEST_MAX, LABEL_LEN_MAX, SESSIONS_MAX};
use crate::locks::release_step;
use crate::meta::{Meta, transact};
use crate::rows;
use crate::silence;
use crate::slot::check_session;
use crate::state::SessionLive;
use crate::tx::Tx;
use crate::writers;
use cairn_proto::pb;
use cairn_proto::pb::response::Kind as Reply;
use cairn_proto::status::{Code, Status};
/// What there is of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// It goes on.
    Open,
    /// It has ended; rows of it are left.
    More,
    /// Nothing.
    Nothing,
}

impl Meta {
    pub(crate) async fn open_session(&self, ask: &pb::OpenSession) -> Result<Reply, Status> {
        if ask.name.len() > LABEL_LEN_MAX || ask.boot_id.len() > LABEL_LEN_MAX {
            return Err(Status::new(Code::Invalid, format!("a session name has at most {LABEL_LEN_MAX} bytes")));
        }
        if self.inner.sessions.lock().live.len() >= SESSIONS_MAX {
            let message = format!("{SESSIONS_MAX} sessions are open");
            return Err(Status::new(Code::Overloaded, message).retry_after_ms(1000));
        }
        let session = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let session = self.inner.counters.take(&*self.inner.engine, counter::SESSION, 1).await?;
            let row = rows::Session { epoch: 1, open: true, name: ask.name.clone(), boot_id: ask.boot_id.clone() };
            tx.put(&keys::Session { session }, &row);
            // Before the commit: when the caller gives up then, the session still runs out. One that never was runs out too.
            self.inner.sessions.lock().live.insert(session, SessionLive::new(self.now()));
            Ok(session)
        })?;
        Ok(Reply::OpenSession(pb::OpenSessionReply { session, epoch: 1, lease_ms: self.lease_ms() }))
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.inner.options.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// Notes a sign of life.
    pub(crate) fn heard_session(&self, session: u64) {
        let now = self.now();
        let mut sessions = self.inner.sessions.lock();
        if !sessions.live.contains_key(&session) && sessions.live.len() >= SESSIONS_MAX {
            // Another server opened it. It renews there, or here when there are fewer.
            return;
        }
        let live = sessions.live.entry(session).or_insert_with(|| SessionLive::new(now));
        live.last_seen = now;
        live.beats += 1;
        live.dirty = true;
    }

    pub(crate) async fn renew_session(&self, ask: &pb::RenewSession) -> Result<Reply, Status> {
        self.check_beats_get_through()?;
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| check_session(tx, ask.session, ask.epoch).await)?;
        self.heard_session(ask.session);
        Ok(Reply::Empty(pb::Empty::default()))
    }

    pub(crate) async fn close_session(&self, ask: &pb::CloseSession) -> Result<Reply, Status> {
        // One that ended before is closed: the answer to an earlier request may have been lost.
        self.end_session(ask.session, ask.epoch).await?;
        while self.clear_session(ask.session).await? {}
        Ok(Reply::Empty(pb::Empty::default()))
    }

    /// Fences the session: from here on nothing of it commits.
    async fn end_session(&self, session: u64, epoch: u64) -> Result<(), Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| silence::end(tx, session, Some(epoch)).await)
    }

    /// Clears a part of what an ended session leaves. True while there is more; the row itself goes last.
    pub(crate) async fn clear_session(&self, session: u64) -> Result<bool, Status> {
        let left = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let key = keys::Session { session };
            match tx.get(&key).await? {
                Some(row) if row.open => return Ok(Left::Open),
                Some(_) => {}
                None => return Ok(Left::Nothing),
            }
            if clear_step(tx, session).await? {
                return Ok(Left::More);
            }
            tx.delete(&keys::SessionBeat { session });
            tx.delete(&key);
            Ok(Left::Nothing)
        })?;
        if left == Left::Nothing {
            self.inner.sessions.lock().live.remove(&session);
        }
        Ok(left == Left::More)
    }

    pub(crate) async fn open_writer(&self, ask: &pb::OpenWriter) -> Result<Reply, Status> {
        let writer = transact!(self, Durability::Durable, async |tx: &mut Tx| {
            check_session(tx, ask.session, ask.epoch).await?;
            let writer = self.inner.counters.take(&*self.inner.engine, counter::WRITER, 1).await?;
            // An operator may accept a rollback, which closes every number up to then, between these two lines.
            if writers::state_of(tx, writer).await? == pb::WriterState::Closed {
                return fail(Code::Overloaded, format!("writer {writer} was closed before it was opened; ask again"));
            }
            tx.put(&keys::Writer { writer }, &rows::Writer { session: ask.session });
            tx.put(&keys::SessionWriter { session: ask.session, writer }, &rows::Unit {});
            Ok(writer)
        })?;
        self.heard_session(ask.session);
        Ok(Reply::OpenWriter(pb::OpenWriterReply { writer }))
    }

    pub(crate) async fn close_writer(&self, ask: &pb::CloseWriter) -> Result<Reply, Status> {
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            check_session(tx, ask.session, ask.epoch).await?;
            let key = keys::Writer { writer: ask.writer };
            match tx.get(&key).await? {
                Some(row) if row.session != ask.session => {
                    fail(Code::Fenced, format!("writer {} is not of session {}", ask.writer, ask.session))
                }
                Some(_) => writers::close(tx, ask.session, ask.writer).await,
                // Closed before: the answer may have been lost.
                None => Ok(()),
            }
        })?;
        self.heard_session(ask.session);
        Ok(Reply::Empty(pb::Empty::default()))
    }

    pub(crate) async fn alloc_inodes(&self, ask: &pb::AllocInodes) -> Result<Reply, Status> {
        if ask.count == 0 || ask.count > INODES_PER_REQUEST_MAX {
            let message = format!("{} inode numbers asked for; 1 to {INODES_PER_REQUEST_MAX} at a time", ask.count);
            return Err(Status::new(Code::Invalid, message));
        }
        let first = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            self.inner.counters.take(&*self.inner.engine, counter::INODE, ask.count.into()).await
        })?;
        Ok(Reply::AllocInodes(pb::AllocInodesReply { first, count: ask.count }))
    }
}

/// Removes some of a session's rows: locks, holds, writers, slots. True while there are more.
async fn clear_step(tx: &mut Tx, session: u64) -> Op<bool> {
    let mut room = tx.session_rows_per_step();
    let field = session.to_be_bytes();
    // Others wait for these.
    room = room.saturating_sub(release_step(tx, session, room).await?);
    if room == 0 {
        return Ok(true);
    }
    let range = keys::with_fields::<keys::Sustained>(&[&field]);
    for (key, _) in tx.scan::<keys::Sustained>(&range, room, Order::Forward).await? {
        holds::end(tx, session, key.inode).await?;
        room -= 1;
    }
    let range = keys::with_fields::<keys::SessionWriter>(&[&field]);
    for (key, _) in tx.scan::<keys::SessionWriter>(&range, room, Order::Forward).await? {
        writers::close(tx, session, key.writer).await?;
        room -= 1;
    }
    let range = keys::with_fields::<keys::Slot>(&[&field]);
    for (key, _) in tx.scan::<keys::Slot>(&range, room, Order::Forward).await? {
        tx.delete(&key);
        room -= 1;
    }
    Ok(room == 0)
}
