//! One accepted connection: the handshake, then requests until it ends.

use super::answer::{self, Answer, at_hand};
use super::pings::{PingAllowance, TOO_MANY_PROBES};
use super::respond::{self, Out};
use super::stats::ClientEntry;
use super::{Handler, RequestContext, Server, ServerStats, SessionView, WorkTime};
use crate::handshake;
use crate::identity::PeerInfo;
use crate::meter::Meter;
use crate::reader::{BULK_READ_LEN, CONTROL_READ_LEN, FrameReader, ReadError};
use crate::seam::{ReadHalf, Stream, now};
use crate::stats::smooth;
use crate::writer::FrameWriter;
use bytes::{Bytes, BytesMut};
use cairn_proto::frame::{FixedHeader, FrameType, flags};
use cairn_proto::limits::{CONTROL_BODY_MAX, FRAME_BODY_MAX, RESPONSE_LEN_MAX};
use cairn_proto::op;
use cairn_proto::pb;
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// How long a request may wait for its share of the body budget when it carries no earlier deadline.
const BUDGET_WAIT: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum Closed {
    /// The connection ended, by the peer or the network.
    Gone(ReadError),
    /// No HELLO in time.
    NoHello,
    /// The handshake was refused.
    Refused(String),
    /// The peer broke the protocol.
    Broken(String),
}

impl Closed {
    /// True when the peer did something that no correct peer does.
    pub fn is_breach(&self) -> bool {
        match self {
            Self::Broken(_) | Self::NoHello => true,
            Self::Gone(error) => matches!(error, ReadError::Frame(_) | ReadError::BodyCrc { .. }),
            Self::Refused(_) => false,
        }
    }
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(error) => error.fmt(f),
            Self::NoHello => f.write_str("no HELLO in time"),
            Self::Refused(why) => write!(f, "handshake refused: {why}"),
            Self::Broken(why) => write!(f, "protocol broken: {why}"),
        }
    }
}

impl From<ReadError> for Closed {
    fn from(error: ReadError) -> Self {
        Self::Gone(error)
    }
}

fn broken(why: impl Into<String>) -> Closed {
    Closed::Broken(why.into())
}

/// How far the answer to a request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The handler has it -> `Sending`, or `Ended` when it is cancelled.
    Running,
    /// The response is in the writer's queue or being written -> `Ended`.
    Sending,
    /// The last frame of the response is written or in the batch.
    Ended,
}

pub(super) struct ActiveState {
    pub phase: Phase,
    pub cancelled: bool,
}

/// A request whose response has not ended.
pub(super) struct Active {
    pub id: u64,
    pub op: u16,
    pub state: Mutex<ActiveState>,
    pub token: CancellationToken,
}

/// The shared part of a session.
pub(super) struct Session {
    pub peer: Arc<PeerInfo>,
    pub is_bulk: bool,
    meter: Arc<Meter>,
    /// Bounded by `max_inflight_per_connection` responses, one refusal or PONG per frame that was read (the reader
    /// waits while more than [`ASIDE_MAX`] of those are unwritten).
    pub queue: mpsc::UnboundedSender<Out>,
    pub active: Mutex<BTreeMap<u64, Arc<Active>>>,
    pub running: AtomicUsize,
    going_away: AtomicBool,
    writer: OnceLock<AbortHandle>,
    pub asides: Arc<tokio::sync::Semaphore>,
}

/// Refusals, cancellation notices and PONGs of one session that may wait to be written.
const ASIDE_MAX: usize = 1024;

impl Session {
    pub fn view(&self, now: Instant) -> SessionView {
        SessionView {
            has_requests: !self.active.lock().is_empty() || self.running.load(Ordering::Relaxed) > 0,
            silent_for: self.meter.silent_for(now),
            owed_for: self.meter.owed_for(now),
            blocked_for: self.meter.blocked_for(now),
        }
    }

    /// Tells the peer to go elsewhere; the session ends when its last response is written.
    pub fn go_away(&self, reason: &str) {
        self.going_away.store(true, Ordering::Relaxed);
        let _ = self.queue.send(Out::GoAway(reason.to_owned()));
    }

    pub fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    /// True when nothing is left to do after GOAWAY.
    pub fn is_finished(&self) -> bool {
        self.is_going_away() && self.active.lock().is_empty()
    }

    /// The connection is gone: nobody waits for any answer.
    pub fn end(&self) {
        if let Some(writer) = self.writer.get() {
            writer.abort();
        }
        for active in std::mem::take(&mut *self.active.lock()).into_values() {
            active.state.lock().phase = Phase::Ended;
            active.token.cancel();
        }
    }

    /// Queues a frame that answers what was just read.
    async fn push_aside(&self, make: impl FnOnce(OwnedSemaphorePermit) -> Out) {
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.asides).acquire_owned().await {
            let _ = self.queue.send(make(permit));
        }
    }

    /// Nobody waits for a request any more; unknown ids were answered already.
    async fn cancel(&self, id: u64, stats: &ServerStats) {
        let Some(active) = self.active.lock().get(&id).cloned() else {
            return;
        };
        active.token.cancel();
        let was_running = {
            let mut state = active.state.lock();
            state.cancelled = true;
            let was_running = state.phase == Phase::Running;
            if was_running {
                state.phase = Phase::Ended;
            }
            was_running
        };
        ServerStats::count(&stats.cancelled);
        if was_running {
            self.active.lock().remove(&id);
            self.push_aside(|permit| Out::Cancelled { id, op: active.op, _permit: permit }).await;
        }
    }
}

/// Runs a session to its end.
pub(super) async fn run(
    server: &Arc<Server>,
    mut stream: Box<dyn Stream>,
    addr: SocketAddr,
    cell: &OnceLock<Arc<Session>>,
) -> Closed {
    let hello_by = now() + server.config.hello_timeout;
    let certificate = match timeout_at(hello_by, stream.establish()).await {
        Ok(Ok(certificate)) => certificate,
        Ok(Err(error)) => return Closed::Refused(format!("no secure connection: {error}")),
        Err(_) => return Closed::NoHello,
    };
    let origin = handshake::Origin { addr: Some(addr), certificate };
    let (read, write) = stream.split();
    let meter = Arc::new(Meter::new(Arc::clone(&server.config.stats.totals)));
    let mut reader = FrameReader::new(read, CONTROL_READ_LEN, Arc::clone(&meter));
    let mut writer = FrameWriter::new(write, Arc::clone(&meter));
    let greeting = timeout_at(hello_by, greet(server, &mut reader, &mut writer, origin)).await;
    let (peer, is_bulk) = match greeting {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(closed)) => return closed,
        Err(_) => return Closed::NoHello,
    };
    if is_bulk {
        reader.set_read_len(BULK_READ_LEN);
    }
    let _client = (peer.role == pb::Role::Client).then(|| ClientEntry::new(&server.config.stats, peer.boot_id));
    let (queue, entries) = mpsc::unbounded_channel();
    let session = Arc::new(Session {
        peer: Arc::new(peer),
        is_bulk,
        meter,
        queue,
        active: Mutex::new(BTreeMap::new()),
        running: AtomicUsize::new(0),
        going_away: AtomicBool::new(false),
        writer: OnceLock::new(),
        asides: Arc::new(tokio::sync::Semaphore::new(ASIDE_MAX)),
    });
    let responder =
        server.tasks.spawn(respond::run(Arc::clone(&session), Arc::clone(&server.handler), writer, entries));
    let _ = session.writer.set(responder.abort_handle());
    let _ = cell.set(Arc::clone(&session));
    let pings = PingAllowance::new(now());
    let mut receiver = Receiver { server, session: &session, reader, last_id: 0, pings };
    tokio::select! {
        biased;
        // The writer ends when the peer is gone, or after GOAWAY.
        _ = responder => Closed::Gone(ReadError::Closed),
        closed = receiver.run() => closed,
    }
}

/// Introduces both sides to each other.
async fn greet(
    server: &Server,
    reader: &mut FrameReader<Box<dyn ReadHalf>>,
    writer: &mut FrameWriter,
    origin: handshake::Origin,
) -> Result<(PeerInfo, bool), Closed> {
    let fixed = reader.next().await?;
    if fixed.frame_type != FrameType::Hello || fixed.body_len != 0 {
        return Err(broken(format!("a {:?} frame came instead of HELLO", fixed.frame_type)));
    }
    let hello = pb::Hello::decode(reader.header()).map_err(|error| broken(format!("unreadable HELLO: {error}")))?;
    let identity = server.config.identity.load_full();
    let verdict = handshake::judge_hello(&identity, &hello, origin);
    // Who we are is said in any case: the dialler then knows whom it has found.
    let ack = handshake::ack(&identity, server.config.idle_timeout);
    writer.push_message(FixedHeader::new(FrameType::HelloAck, 0, 0), &ack);
    if let Err(refusal) = &verdict {
        let away = pb::GoAway { reason: refusal.to_string() };
        writer.push_message(FixedHeader::new(FrameType::GoAway, 0, 0), &away);
    }
    writer.flush().await.map_err(|error| Closed::Gone(error.into()))?;
    match verdict {
        Ok(peer) => Ok((peer, hello.bulk)),
        Err(refusal) => Err(Closed::Refused(refusal.to_string())),
    }
}

/// The reading side of a session.
struct Receiver<'a> {
    server: &'a Arc<Server>,
    session: &'a Arc<Session>,
    reader: FrameReader<Box<dyn ReadHalf>>,
    last_id: u64,
    pings: PingAllowance,
}

/// A request's first frame, judged.
enum Admission {
    /// Its body may be read; the permit pays for it, and was waited for.
    Admitted { permit: Option<OwnedSemaphorePermit>, waited: Duration },
    /// It is answered at once, its body read past.
    Refused(Status),
}

/// A request's body as it came.
enum Upload {
    Whole(Vec<Bytes>),
    /// The peer gave it up.
    Aborted,
}

impl Receiver<'_> {
    async fn run(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.one_message().await {
                return closed;
            }
        }
    }

    async fn one_message(&mut self) -> Result<(), Closed> {
        let fixed = self.reader.next().await?;
        if fixed.frame_type != FrameType::Request {
            return self.aside(fixed).await;
        }
        let request = pb::Request::decode(self.reader.header())
            .map_err(|error| broken(format!("unreadable request header: {error}")))?;
        self.check_request(&fixed, &request)?;
        self.last_id = fixed.request_id;
        let deadline = (fixed.deadline_ms > 0).then(|| now() + Duration::from_millis(fixed.deadline_ms.into()));
        match self.admit(&request, deadline).await {
            Admission::Refused(status) => self.refuse(&fixed, request.total_len, status).await,
            Admission::Admitted { permit, waited } => self.accept(fixed, request, deadline, permit, waited).await,
        }
    }

    /// What no correct peer sends.
    fn check_request(&self, fixed: &FixedHeader, request: &pb::Request) -> Result<(), Closed> {
        if fixed.request_id <= self.last_id {
            return Err(broken(format!("request id {} after {}", fixed.request_id, self.last_id)));
        }
        if let Some(kind) = &request.kind
            && op::of(kind) != fixed.op
        {
            return Err(broken(format!("op {} with a request of op {}", fixed.op, op::of(kind))));
        }
        let max = if self.session.is_bulk { RESPONSE_LEN_MAX } else { u64::from(CONTROL_BODY_MAX) };
        if request.total_len > max {
            return Err(broken(format!("a request of {} bytes, allowed are {max}", request.total_len)));
        }
        if self.session.is_bulk && !self.session.active.lock().is_empty() {
            return Err(broken("a second request on a bulk connection"));
        }
        Ok(())
    }

    async fn admit(&self, request: &pb::Request, deadline: Option<Instant>) -> Admission {
        let config = &self.server.config;
        if request.kind.is_none() {
            return Admission::Refused(Status::new(Code::Unsupported, "this server does not know the operation"));
        }
        if self.session.running.load(Ordering::Relaxed) >= config.max_inflight_per_connection {
            return self.overloaded("too many requests on this connection");
        }
        if config.stats.running.load(Ordering::Relaxed) >= config.max_requests {
            return self.overloaded("too many requests");
        }
        if request.total_len == 0 {
            return Admission::Admitted { permit: None, waited: Duration::ZERO };
        }
        let cost = request.total_len as u32;
        let budget = if self.session.is_bulk { &config.body_bytes } else { &config.control_body_bytes };
        if let Ok(permit) = Arc::clone(budget).try_acquire_many_owned(cost) {
            return Admission::Admitted { permit: Some(permit), waited: Duration::ZERO };
        }
        if !self.session.is_bulk {
            // Waiting here would keep the pings and cancellations behind it from being read.
            return self.overloaded("no memory for the body of this request");
        }
        // The peer is not to blame for this wait.
        self.session.meter.settle();
        let began = now();
        let latest = began + BUDGET_WAIT;
        let until = deadline.map_or(latest, |deadline| deadline.min(latest));
        let permit = timeout_at(until, Arc::clone(budget).acquire_many_owned(cost)).await;
        self.session.meter.owe();
        match permit {
            Ok(Ok(permit)) => Admission::Admitted { permit: Some(permit), waited: now() - began },
            _ if deadline.is_some_and(|deadline| deadline <= now()) => Admission::Refused(self.expired()),
            _ => self.overloaded("no memory for the body of this request"),
        }
    }

    fn overloaded(&self, why: &str) -> Admission {
        let stats = &self.server.config.stats;
        ServerStats::count(&stats.overloaded);
        Admission::Refused(Status::new(Code::Overloaded, why).retry_after_ms(stats.retry_after_ms()))
    }

    fn expired(&self) -> Status {
        ServerStats::count(&self.server.config.stats.expired);
        answer::expired()
    }

    /// Answers without reading the body into memory.
    async fn refuse(&mut self, fixed: &FixedHeader, total_len: u64, status: Status) -> Result<(), Closed> {
        ServerStats::count(&self.server.config.stats.refused);
        let (id, op) = (fixed.request_id, fixed.op);
        self.session.push_aside(|permit| Out::Refused { id, op, status, _permit: permit }).await;
        let mut rest = total_len;
        let mut fixed = *fixed;
        loop {
            rest = check_frame(&fixed, rest)?;
            self.reader.skip_body(&fixed).await?;
            if fixed.has(flags::END) {
                return Ok(());
            }
            fixed = self.next_data(id).await?;
        }
    }

    async fn accept(
        &mut self,
        fixed: FixedHeader,
        request: pb::Request,
        deadline: Option<Instant>,
        permit: Option<OwnedSemaphorePermit>,
        waited: Duration,
    ) -> Result<(), Closed> {
        let (id, op) = (fixed.request_id, fixed.op);
        let body = match self.receive_body(fixed, request.total_len).await? {
            Upload::Whole(body) => body,
            Upload::Aborted => {
                ServerStats::count(&self.server.config.stats.cancelled);
                self.session.push_aside(|permit| Out::Cancelled { id, op, _permit: permit }).await;
                return Ok(());
            }
        };
        let received = now();
        if deadline.is_some_and(|deadline| deadline <= received) {
            ServerStats::count(&self.server.config.stats.refused);
            let status = self.expired();
            self.session.push_aside(|permit| Out::Refused { id, op, status, _permit: permit }).await;
            return Ok(());
        }
        let work = Arc::new(WorkTime::default());
        work.add_queue(waited);
        let context = RequestContext {
            deadline,
            peer: Arc::clone(&self.session.peer),
            op,
            attempt: fixed.attempt,
            hedge: fixed.has(flags::HEDGE),
            retry: fixed.has(flags::RETRY),
            received,
            cancelled: CancellationToken::new(),
            work,
        };
        self.start(id, context, request, body, permit);
        Ok(())
    }

    /// Reads the body frame by frame; each lies in a buffer of its own.
    async fn receive_body(&mut self, first: FixedHeader, total_len: u64) -> Result<Upload, Closed> {
        let frames = total_len.div_ceil(u64::from(FRAME_BODY_MAX)) as usize;
        let mut body = Vec::with_capacity(frames);
        let mut rest = total_len;
        let mut fixed = first;
        // A block's content carries end-to-end checksums, which the store verifies before it counts it as stored.
        let verify = first.op != op::PUT;
        loop {
            rest = check_frame(&fixed, rest)?;
            if fixed.body_len > 0 {
                let mut frame = BytesMut::with_capacity(fixed.body_len as usize);
                self.reader.take_body(&fixed, &mut frame, verify).await?;
                body.push(frame.freeze());
            }
            if fixed.has(flags::ABORT) {
                return Ok(Upload::Aborted);
            }
            if fixed.has(flags::END) {
                return Ok(Upload::Whole(body));
            }
            fixed = self.next_data(first.request_id).await?;
        }
    }

    /// The next DATA frame of a begun body.
    async fn next_data(&mut self, id: u64) -> Result<FixedHeader, Closed> {
        loop {
            self.session.meter.owe();
            let fixed = self.reader.next().await?;
            if fixed.frame_type == FrameType::Data {
                if fixed.request_id != id {
                    return Err(broken(format!("body of request {} inside that of {id}", fixed.request_id)));
                }
                return Ok(fixed);
            }
            self.aside(fixed).await?;
        }
    }

    /// Frames that may come at any time.
    async fn aside(&mut self, fixed: FixedHeader) -> Result<(), Closed> {
        if fixed.body_len != 0 {
            return Err(broken(format!("a {:?} frame with a body", fixed.frame_type)));
        }
        let id = fixed.request_id;
        match fixed.frame_type {
            FrameType::Cancel => self.session.cancel(id, &self.server.config.stats).await,
            FrameType::Ping => {
                let stats = &self.server.config.stats;
                ServerStats::count(&stats.pings);
                self.session.push_aside(|permit| Out::Pong { id, _permit: permit }).await;
                if !self.pings.admit(now()) && !self.session.is_going_away() {
                    ServerStats::count(&stats.pinged_out);
                    self.session.go_away(TOO_MANY_PROBES);
                }
            }
            // The peer will not ask again; it closes when it has its answers.
            FrameType::GoAway => {}
            other => return Err(broken(format!("unexpected {other:?} frame"))),
        }
        Ok(())
    }

    /// Gives the request to the handler, in a task of its own.
    fn start(
        &self,
        id: u64,
        context: RequestContext,
        request: pb::Request,
        body: Vec<Bytes>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let active = Arc::new(Active {
            id,
            op: context.op,
            state: Mutex::new(ActiveState { phase: Phase::Running, cancelled: false }),
            token: context.cancelled.clone(),
        });
        self.session.active.lock().insert(id, Arc::clone(&active));
        let answer = Answer::new(
            Arc::clone(self.server),
            Arc::clone(self.session),
            active,
            Arc::clone(&context.work),
            request.op_id.is_some(),
        );
        let handler: Arc<dyn Handler> = Arc::clone(&self.server.handler);
        let hard_stop = self.server.hard_stop.clone();
        // What was cut off in the middle of a mutation may have happened.
        let cut_off = if request.op_id.is_some() { Code::OutcomeUnknown } else { Code::Unavailable };
        let is_bulk = self.session.is_bulk;
        self.server.tasks.spawn(async move {
            let began = now();
            context.work.add_queue(began - context.received);
            // It may have waited long for its turn on a busy runtime.
            if context.deadline.is_some_and(|deadline| deadline <= began) {
                drop(permit);
                answer.expire();
                return;
            }
            let outcome = tokio::select! {
                biased;
                outcome = handler.handle(&context, request, body) => outcome,
                () = hard_stop.cancelled() => Err(Status::new(cut_off, "the server was stopped")),
            };
            let outcome = match outcome {
                Ok((kind, body)) if !is_bulk => at_hand(body, &context.work).await.map(|body| (kind, body)),
                outcome => outcome,
            };
            drop(permit);
            smooth(&answer.stats().service_us, context.elapsed().as_micros() as u64);
            answer.give(outcome);
        });
    }
}

/// Holds a frame of a body against what was announced; returns what is still to come.
fn check_frame(fixed: &FixedHeader, rest: u64) -> Result<u64, Closed> {
    let len = u64::from(fixed.body_len);
    if len > rest {
        return Err(broken("a request is longer than it announced"));
    }
    let rest = rest - len;
    let (is_end, is_abort) = (fixed.has(flags::END), fixed.has(flags::ABORT));
    if is_abort && !is_end {
        return Err(broken("ABORT without END"));
    }
    if is_end && rest > 0 && !is_abort {
        return Err(broken(format!("a request ended {rest} bytes short")));
    }
    if !is_end && (rest == 0 || len == 0) {
        return Err(broken("a request frame that neither carries nor ends anything"));
    }
    Ok(rest)
}
