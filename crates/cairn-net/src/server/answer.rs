//! The end of a request: its answer is owed from the moment the handler gets it.

use super::respond::{self, Out};
use super::session::{Active, Phase, Session};
use super::{Server, ServerStats, WorkTime};
use crate::body::{Body, BodyPart};
use crate::seam::{self, now};
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a request hears whose deadline passed before work on it began.
pub(super) fn expired() -> Status {
    Status::new(Code::Deadline, "the deadline passed before the server could begin")
}

/// Reads what of a control-lane response would have to come from a disk: the writing task, which also answers pings,
/// must not wait for one.
pub(super) async fn at_hand(body: Body, work: &WorkTime) -> Result<Body, Status> {
    if body.parts().iter().all(|part| matches!(part, BodyPart::Bytes { .. })) {
        return Ok(body);
    }
    let began = now();
    let body = seam::warm(body).await.map_err(|error| Status::new(Code::Io, format!("reading the answer: {error}")));
    work.add_disk(now() - began);
    body
}

/// The duty to answer a request: kept even when the handler panics.
pub(super) struct Answer {
    server: Arc<Server>,
    session: Arc<Session>,
    active: Option<Arc<Active>>,
    work: Arc<WorkTime>,
    /// What an unfinished request is answered with.
    unfinished: Code,
}

impl Answer {
    /// `mutates`: it has an operation id, and whatever ends it in the middle leaves its outcome unknown.
    pub fn new(
        server: Arc<Server>,
        session: Arc<Session>,
        active: Arc<Active>,
        work: Arc<WorkTime>,
        mutates: bool,
    ) -> Self {
        let stats = &server.config.stats;
        ServerStats::count(&stats.requests);
        stats.running.fetch_add(1, Ordering::Relaxed);
        session.running.fetch_add(1, Ordering::Relaxed);
        let unfinished = if mutates { Code::OutcomeUnknown } else { Code::Internal };
        Self { server, session, active: Some(active), work, unfinished }
    }

    pub fn stats(&self) -> &ServerStats {
        &self.server.config.stats
    }

    /// Its deadline passed before work on it began.
    pub fn expire(mut self) {
        let stats = &self.server.config.stats;
        ServerStats::count(&stats.refused);
        ServerStats::count(&stats.expired);
        self.push(Err(expired()));
    }

    pub fn give(mut self, outcome: Result<(pb::response::Kind, Body), Status>) {
        self.push(outcome);
    }

    fn push(&mut self, outcome: Result<(pb::response::Kind, Body), Status>) {
        let Some(active) = self.active.take() else {
            return;
        };
        {
            let mut state = active.state.lock();
            if state.phase == Phase::Ended {
                return;
            }
            state.phase = Phase::Sending;
        }
        let response = respond::encode(outcome, self.session.is_bulk, self.work.timing());
        let _ = self.session.queue.send(Out::Response { active, response });
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.push(Err(Status::new(self.unfinished, "the server failed while working on this request")));
        self.session.running.fetch_sub(1, Ordering::Relaxed);
        self.server.config.stats.running.fetch_sub(1, Ordering::Relaxed);
    }
}
