//! The silence of sessions, judged by whoever holds the duties. What it heard itself it knows; what other servers heard
//! they write down once a second, and it looks whether that changed. Both are counted on its own monotonic clock, and
//! only over times in which it reached the engine.

use crate::error::Op;
use crate::keys::{self, Key};
use crate::kv::{Durability, Order};
use crate::limits::{BEATS_EVERY, SESSION_BEAT_LAG, SESSIONS_MAX, SESSIONS_PER_LOOK};
use crate::meta::{Meta, transact};
use crate::rows;
use crate::state::{SessionLive, was_paused};
use crate::tx::Tx;
use crate::{holder, keys::Session};
use cairn_proto::status::{Code, Status};
use futures_util::future::BoxFuture;
use std::time::Duration;

/// How a session looks to who is about to end it.
enum Ending {
    /// It is fenced, or was before.
    Ended,
    /// Another server has heard of it meanwhile.
    Alive(rows::SessionBeat),
}

impl Meta {
    /// How long a session may be silent here. What other servers heard takes its time to be seen.
    fn patience(&self) -> Duration {
        let lag = if self.inner.options.alone { Duration::ZERO } else { SESSION_BEAT_LAG };
        self.inner.options.lease + lag
    }

    /// Refuses to renew a session where nobody might come to know of it.
    pub(crate) fn check_beats_get_through(&self) -> Result<(), Status> {
        let options = &self.inner.options;
        let told = options.alone || self.duty_epoch().is_some();
        if told || self.inner.contact.lock().is_recent(self.now(), options.lease / 3 + SESSION_BEAT_LAG) {
            return Ok(());
        }
        let message = "this metadata server cannot write down who it heard of: ask another one";
        Err(Status::new(Code::Unavailable, message))
    }

    /// Ends sessions that were silent for longer than their lease, and clears what they leave: a bounded step. True
    /// while there is more to do. Only the holder of the duties does it.
    ///
    /// Silence is counted from when this server took the duties over, and anew after a time in which it, or the engine,
    /// stood still: nobody could be heard then. Call it every second.
    ///
    /// # Errors
    /// As [`Meta::execute`]; call again.
    pub fn expire_sessions(&self) -> BoxFuture<'_, Result<bool, Status>> {
        Box::pin(async move {
            let judged = self.as_holder(self.expire_step()).await?;
            if judged.is_none() {
                self.forget_sessions_elsewhere();
            }
            Ok(judged.unwrap_or(false))
        })
    }

    async fn expire_step(&self) -> Result<bool, Status> {
        let now = self.now();
        {
            let mut sessions = self.inner.sessions.lock();
            if was_paused(sessions.judged.replace(now), now) {
                sessions.restart(now);
            }
        }
        self.reach_engine().await?;
        if !self.inner.options.alone {
            let walked_at = self.inner.sessions.lock().walked_at;
            if walked_at.is_none_or(|at| now.saturating_sub(at) >= BEATS_EVERY) {
                self.walk_sessions(false).await?;
            }
            if self.look_for_signs().await? {
                return Ok(true);
            }
        }
        let patience = self.patience();
        let silent = {
            let sessions = self.inner.sessions.lock();
            let mut silent = sessions.live.iter().filter(|(_, live)| now.saturating_sub(live.last_seen) > patience);
            silent.next().map(|(session, live)| (*session, live.elsewhere.clone()))
        };
        let Some((session, elsewhere)) = silent else { return Ok(false) };
        match self.end_silent(session, elsewhere).await? {
            Ending::Ended => {
                tracing::info!(session, "session expired");
                self.clear_session(session).await?;
            }
            Ending::Alive(beat) => self.note_sign(session, beat, now),
        }
        Ok(true)
    }

    /// Makes sure that the engine does what this server asks, unless it did lately.
    async fn reach_engine(&self) -> Result<(), Status> {
        let asked = self.now();
        let lately = BEATS_EVERY.min(self.inner.options.lease / 8);
        if self.inner.sessions.lock().contact.is_recent(asked, lately) {
            return Ok(());
        }
        let renewal = self.inner.lease.lock().renewal(asked).filter(|_| !self.inner.options.alone);
        let me = self.server();
        transact!(self, Durability::Relaxed, async |tx: &mut Tx| match renewal {
            // Beside its lease it shows that it can write.
            Some(renewal) => holder::renew(tx, me, renewal).await.map(|_| ()),
            None => holder::duty_epoch(tx).await.map(|_| ()),
        })?;
        if let Some(renewal) = renewal {
            self.inner.lease.lock().confirm(renewal.epoch, renewal.beats, asked);
        }
        self.note_contact(asked);
        Ok(())
    }

    /// Every session there is, with the signs of life that are known of it at this moment.
    pub(crate) async fn load_sessions(&self) -> Result<(), Status> {
        self.inner.sessions.lock().walked = 0;
        while self.walk_sessions(true).await? {}
        Ok(())
    }

    /// Takes a page of the sessions there are: those that others opened are not known here. True while there are more;
    /// else the next call begins anew. With `anew`, what was written down of them counts for nothing from here on.
    async fn walk_sessions(&self, anew: bool) -> Result<bool, Status> {
        let after = self.inner.sessions.lock().walked;
        let (page, beats) = transact!(self, Durability::Relaxed, async |tx: &mut Tx| {
            let mut range = Session::all();
            range.start = Session { session: after.saturating_add(1) }.encode();
            let page = tx.scan::<Session>(&range, SESSIONS_PER_LOOK, Order::Forward).await?;
            let keys: Vec<_> = page.iter().map(|(key, _)| keys::SessionBeat { session: key.session }).collect();
            let beats = tx.get_many(&keys).await?;
            Ok((page, beats))
        })?;
        let now = self.now();
        let mut sessions = self.inner.sessions.lock();
        let full = page.len() == SESSIONS_PER_LOOK;
        sessions.walked = page.last().filter(|_| full).map_or(0, |(key, _)| key.session);
        sessions.walked_at = Some(now);
        for ((key, _), beat) in page.iter().zip(beats) {
            let known = sessions.live.contains_key(&key.session);
            if known && !anew {
                continue;
            }
            if !known && sessions.live.len() >= SESSIONS_MAX {
                // Those that are known have to end first.
                break;
            }
            let live = sessions.live.entry(key.session).or_insert_with(|| SessionLive::new(now));
            live.elsewhere = beat;
            live.looked = now;
        }
        Ok(full)
    }

    /// Looks what other servers heard of sessions that have been silent here for a while. True while there are more.
    async fn look_for_signs(&self) -> Result<bool, Status> {
        let (now, lease) = (self.now(), self.inner.options.lease);
        let asked: Vec<u64> = {
            let sessions = self.inner.sessions.lock();
            let due = sessions.live.iter().filter(|(_, live)| {
                now.saturating_sub(live.last_seen) > lease / 4 && now.saturating_sub(live.looked) > lease / 8
            });
            due.map(|(session, _)| *session).take(SESSIONS_PER_LOOK).collect()
        };
        if asked.is_empty() {
            return Ok(false);
        }
        let keys: Vec<_> = asked.iter().map(|session| keys::SessionBeat { session: *session }).collect();
        let beats = transact!(self, Durability::Relaxed, async |tx: &mut Tx| tx.get_many(&keys).await)?;
        for (session, beat) in asked.iter().zip(beats) {
            match beat {
                Some(beat) => self.note_sign(*session, beat, now),
                None => {
                    if let Some(live) = self.inner.sessions.lock().live.get_mut(session) {
                        live.looked = now;
                    }
                }
            }
        }
        Ok(asked.len() == SESSIONS_PER_LOOK)
    }

    /// Notes what is written down of a session: a sign of life if it is not what was known before.
    fn note_sign(&self, session: u64, beat: rows::SessionBeat, now: Duration) {
        let me = self.server();
        if let Some(live) = self.inner.sessions.lock().live.get_mut(&session) {
            live.looked = now;
            // What this server wrote, it knew when it heard it.
            if beat.server != me && live.elsewhere.as_ref() != Some(&beat) {
                live.last_seen = now;
                live.elsewhere = Some(beat);
            }
        }
    }

    /// Fences a session, unless another server has heard of it meanwhile.
    async fn end_silent(&self, session: u64, known: Option<rows::SessionBeat>) -> Result<Ending, Status> {
        let me = self.server();
        transact!(self, Durability::Durable, async |tx: &mut Tx| {
            let beat = tx.get(&keys::SessionBeat { session }).await?;
            if let Some(beat) = beat.filter(|beat| beat.server != me && Some(beat) != known.as_ref())
                && !self.inner.options.alone
            {
                return Ok(Ending::Alive(beat));
            }
            end(tx, session, None).await?;
            Ok(Ending::Ended)
        })
    }

    /// Drops what this server, which does not judge, heard of sessions long ago: they are elsewhere, or ended.
    fn forget_sessions_elsewhere(&self) {
        let (now, keep) = (self.now(), self.inner.options.lease * 2);
        self.inner.sessions.lock().live.retain(|_, live| now.saturating_sub(live.last_seen) <= keep);
    }
}

/// Ends a session, if it is open and, where that matters, in that epoch.
pub(crate) async fn end(tx: &mut Tx, session: u64, epoch: Option<u64>) -> Op<()> {
    let key = Session { session };
    let Some(row) = tx.get(&key).await? else { return Ok(()) };
    if row.open && epoch.is_none_or(|epoch| epoch == row.epoch) {
        tx.put(&key, &rows::Session { epoch: row.epoch + 1, open: false, ..row });
    }
    Ok(())
}
