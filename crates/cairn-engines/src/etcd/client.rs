//! Calls to an etcd cluster: several members, one used at a time, another when it fails.
//!
//! What may be repeated is repeated until it works or its time is over. What must not be is sent once, and of a failure
//! it is known whether anybody can have seen the request.

use super::pb::auth_client::AuthClient;
use super::pb::kv_client::KvClient;
use super::pb::maintenance_client::MaintenanceClient;
use super::pb::{self, alarm_request::AlarmAction};
use crate::limits::{
    CONNECT_TIMEOUT, ETCD_ANSWER_BYTES_MAX, ETCD_CALL_TIMEOUT, ETCD_COMMIT_TIMEOUT, ETCD_KEEPALIVE,
    ETCD_KEEPALIVE_TIMEOUT, ETCD_PAUSE, ETCD_TRY_TIMEOUT,
};
use crate::url::EtcdPlace;
use parking_lot::RwLock;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Why a call was not answered with what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum CallError {
    /// No member took the request: nothing happened.
    #[error("{cause}")]
    Away { cause: String },
    /// It was sent and not answered: it may happen still.
    #[error("{cause}")]
    Lost { cause: String },
    /// The revision that was asked for is not kept any more.
    #[error("the revision is no longer kept")]
    Compacted,
    /// The member does not have the revision yet.
    #[error("the revision is not here yet")]
    Future,
    /// The database has reached its quota.
    #[error("etcd has reached its quota: remove files, run `etcdctl defrag` and `etcdctl alarm disarm`")]
    NoSpace,
    /// User or password are wrong, or the user may not use these keys.
    #[error("etcd refuses the user: {cause}")]
    Denied { cause: String },
    /// The request was refused for another reason: nothing happened.
    #[error("etcd refuses the request: {cause}")]
    Refused { cause: String },
}

/// Whether a request may be sent again without asking what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Repeat {
    /// It reads, or what it writes is guarded by comparisons or the same each time.
    Allowed,
    /// It is a commit.
    Never,
}

/// What to do about a failed try.
enum Verdict {
    /// Nobody saw it.
    Elsewhere(String),
    /// Somebody may have seen it.
    Doubtful(String),
    /// Our proof of who we are is too old; nothing happened.
    LogInAgain(String),
    Final(CallError),
}

fn judge(status: &Status) -> Verdict {
    let cause = status.message().to_owned();
    let says = |words: &str| status.message().contains(words);
    match status.code() {
        Code::OutOfRange if says("compacted") => Verdict::Final(CallError::Compacted),
        Code::OutOfRange if says("future") => Verdict::Final(CallError::Future),
        Code::ResourceExhausted if says("space exceeded") => Verdict::Final(CallError::NoSpace),
        Code::ResourceExhausted if says("too many requests") => Verdict::Elsewhere(cause),
        Code::Unauthenticated => Verdict::LogInAgain(cause),
        Code::InvalidArgument if says("auth store is old") => Verdict::LogInAgain(cause),
        Code::InvalidArgument if says("invalid user ID or password") || says("user name is empty") => {
            Verdict::Final(CallError::Denied { cause })
        }
        Code::PermissionDenied => Verdict::Final(CallError::Denied { cause }),
        Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented => Verdict::Final(CallError::Refused { cause }),
        Code::Unavailable if says("no leader") || never_sent(status) => Verdict::Elsewhere(cause_of(status)),
        _ => Verdict::Doubtful(cause_of(status)),
    }
}

fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost words about a transport that failed, which say most.
fn cause_of(status: &Status) -> String {
    let mut words = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        words = error.to_string();
        cause = error.source();
    }
    words
}

struct Member {
    addr: String,
    channel: Channel,
}

/// An etcd cluster.
pub(super) struct Client {
    members: Vec<Member>,
    /// Index of the member that is asked first.
    current: AtomicUsize,
    login: Option<(String, String)>,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(ETCD_ANSWER_BYTES_MAX)
}

impl Client {
    /// Connects when it is first used. Needs a runtime.
    ///
    /// # Errors
    /// [`CallError::Refused`] when an address is none.
    pub(super) fn new(place: &EtcdPlace) -> Result<Self, CallError> {
        let mut members = Vec::new();
        for addr in &place.members {
            let endpoint = Endpoint::from_shared(format!("http://{addr}"))
                .map_err(|_| CallError::Refused { cause: format!("\"{addr}\" is no address") })?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(ETCD_KEEPALIVE)
                .keep_alive_timeout(ETCD_KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            members.push(Member { addr: addr.clone(), channel: endpoint.connect_lazy() });
        }
        Ok(Self { members, current: AtomicUsize::new(0), login: place.login.clone(), token: RwLock::new(None) })
    }

    /// Rows of a range.
    ///
    /// # Errors
    /// See [`CallError`]; never [`CallError::Lost`].
    pub(super) async fn range(&self, ask: pb::RangeRequest) -> Result<pb::RangeResponse, CallError> {
        let call = |channel, request| async move { kv(channel).range(request).await };
        self.call(Repeat::Allowed, ask, call).await
    }

    /// Reads, compares and writes at once.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn txn(&self, repeat: Repeat, ask: pb::TxnRequest) -> Result<pb::TxnResponse, CallError> {
        let call = |channel, request| async move { kv(channel).txn(request).await };
        self.call(repeat, ask, call).await
    }

    /// Forgets history before `revision`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn compact(&self, revision: i64) -> Result<(), CallError> {
        let ask = pb::CompactionRequest { revision, physical: false };
        let call = |channel, request| async move { kv(channel).compact(request).await };
        self.call(Repeat::Allowed, ask, call).await.map(|_: pb::CompactionResponse| ())
    }

    /// Alarms that are raised.
    ///
    /// # Errors
    /// See [`CallError`].
    pub(super) async fn alarms(&self) -> Result<Vec<pb::AlarmMember>, CallError> {
        let ask = pb::AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
        let call = |channel, request| async move { MaintenanceClient::new(channel).alarm(request).await };
        self.call(Repeat::Allowed, ask, call).await.map(|answer: pb::AlarmResponse| answer.alarms)
    }

    /// What each member that answers says of itself.
    ///
    /// # Errors
    /// See [`CallError`]: when none answers.
    pub(super) async fn statuses(&self) -> Result<Vec<pb::StatusResponse>, CallError> {
        let asks = (0..self.members.len()).map(|index| {
            let call = |channel, request| async move { MaintenanceClient::new(channel).status(request).await };
            self.once(index, ETCD_TRY_TIMEOUT, pb::StatusRequest {}, call)
        });
        let answers = futures_util::future::join_all(asks).await;
        let mut last = CallError::Away { cause: "etcd has no members".into() };
        let mut found = Vec::new();
        for answer in answers {
            match answer {
                Ok(status) => found.push(status),
                Err(Verdict::Final(error)) => last = error,
                Err(Verdict::Elsewhere(cause) | Verdict::Doubtful(cause) | Verdict::LogInAgain(cause)) => {
                    last = CallError::Away { cause };
                }
            }
        }
        if found.is_empty() { Err(last) } else { Ok(found) }
    }

    /// Tells etcd who we are, where the URL says so.
    ///
    /// # Errors
    /// [`CallError::Denied`] when it does not believe it; others as every call.
    pub(super) async fn log_in(&self) -> Result<(), CallError> {
        let Some((name, password)) = &self.login else { return Ok(()) };
        let ask = pb::AuthenticateRequest { name: name.clone(), password: password.clone() };
        let call = |channel, request| async move { AuthClient::new(channel).authenticate(request).await };
        let deadline = Instant::now() + ETCD_CALL_TIMEOUT;
        let mut turns = Turns::new(self);
        loop {
            match self.once(turns.member, ETCD_TRY_TIMEOUT, ask.clone(), call).await {
                Ok(pb::AuthenticateResponse { token, .. }) => {
                    let token = token.parse().map_err(|_| CallError::Refused { cause: "a token is no text".into() })?;
                    *self.token.write() = Some(token);
                    return Ok(());
                }
                Err(Verdict::Final(error)) => return Err(error),
                Err(Verdict::LogInAgain(cause)) => return Err(CallError::Denied { cause }),
                Err(Verdict::Elsewhere(cause) | Verdict::Doubtful(cause)) => {
                    if !turns.next(deadline).await {
                        return Err(CallError::Away { cause: turns.said(cause) });
                    }
                }
            }
        }
    }

    async fn call<Q, A, F>(
        &self,
        repeat: Repeat,
        ask: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, CallError>
    where
        Q: Clone,
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let deadline = Instant::now() + ETCD_CALL_TIMEOUT;
        let patience = if repeat == Repeat::Allowed { ETCD_TRY_TIMEOUT } else { ETCD_COMMIT_TIMEOUT };
        let mut turns = Turns::new(self);
        let mut logged_in = false;
        loop {
            let cause = match self.once(turns.member, patience, ask.clone(), &call).await {
                Ok(answer) => return Ok(answer),
                Err(Verdict::Final(error)) => return Err(error),
                Err(Verdict::LogInAgain(cause)) => {
                    if self.login.is_none() || logged_in {
                        return Err(CallError::Denied { cause });
                    }
                    logged_in = true;
                    self.log_in().await?;
                    continue;
                }
                Err(Verdict::Doubtful(cause)) if repeat == Repeat::Never => {
                    turns.advance();
                    return Err(CallError::Lost { cause: turns.said(cause) });
                }
                Err(Verdict::Elsewhere(cause) | Verdict::Doubtful(cause)) => cause,
            };
            if !turns.next(deadline).await {
                return Err(CallError::Away { cause: turns.said(cause) });
            }
        }
    }

    async fn once<Q, A, F>(
        &self,
        member: usize,
        patience: Duration,
        ask: Q,
        call: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<A, Verdict>
    where
        F: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let mut request = Request::new(ask);
        let metadata = request.metadata_mut();
        // A member that is cut off from the others says so at once instead of waiting.
        metadata.insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = self.token.read().clone() {
            metadata.insert("token", token);
        }
        match timeout(patience, call(self.members[member].channel.clone(), request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(judge(&status)),
            Err(_) => Err(Verdict::Doubtful(format!("no answer within {patience:?}"))),
        }
    }
}

/// Which member is asked, one after the other.
struct Turns<'a> {
    client: &'a Client,
    member: usize,
    failed: usize,
    pause: Duration,
}

impl<'a> Turns<'a> {
    fn new(client: &'a Client) -> Self {
        let member = client.current.load(Ordering::Relaxed) % client.members.len();
        Self { client, member, failed: 0, pause: ETCD_PAUSE.0 }
    }

    /// Everybody turns to the next member, unless somebody has done so already.
    fn advance(&mut self) {
        let next = (self.member + 1) % self.client.members.len();
        let _ = self.client.current.compare_exchange(self.member, next, Ordering::Relaxed, Ordering::Relaxed);
        self.member = next;
    }

    /// Turns to the next member, with a pause after each round; false when the time is over.
    async fn next(&mut self, deadline: Instant) -> bool {
        self.advance();
        self.failed += 1;
        if self.failed.is_multiple_of(self.client.members.len()) {
            if Instant::now() + self.pause >= deadline {
                return false;
            }
            sleep(self.pause).await; // tidy: sleep-ok(backoff between rounds)
            self.pause = (self.pause * 2).min(ETCD_PAUSE.1);
        }
        Instant::now() < deadline
    }

    fn said(&self, cause: String) -> String {
        let members: Vec<&str> = self.client.members.iter().map(|member| member.addr.as_str()).collect();
        format!("etcd at {}: {cause}", members.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_understood() {
        let last = |code, words: &str| match judge(&Status::new(code, words)) {
            Verdict::Final(error) => error,
            _ => panic!("{words} is final"),
        };
        let compacted = "etcdserver: mvcc: required revision has been compacted";
        assert_eq!(last(Code::OutOfRange, compacted), CallError::Compacted);
        let future = "etcdserver: mvcc: required revision is a future revision";
        assert_eq!(last(Code::OutOfRange, future), CallError::Future);
        let full = "etcdserver: mvcc: database space exceeded";
        assert_eq!(last(Code::ResourceExhausted, full), CallError::NoSpace);
        let wrong = "etcdserver: authentication failed, invalid user ID or password";
        assert!(matches!(last(Code::InvalidArgument, wrong), CallError::Denied { .. }));
        let large = "etcdserver: request is too large";
        assert!(matches!(last(Code::InvalidArgument, large), CallError::Refused { .. }));
    }

    #[test]
    fn only_what_nobody_saw_is_known_not_to_have_happened() {
        let judged = |code, words: &str| judge(&Status::new(code, words));
        assert!(matches!(judged(Code::Unavailable, "etcdserver: no leader"), Verdict::Elsewhere(_)));
        assert!(matches!(judged(Code::ResourceExhausted, "etcdserver: too many requests"), Verdict::Elsewhere(_)));
        for (code, words) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unknown, "transport error"),
            (Code::DeadlineExceeded, ""),
            (Code::Cancelled, ""),
            (Code::Internal, "h2 protocol error"),
        ] {
            assert!(matches!(judged(code, words), Verdict::Doubtful(_)), "{words}");
        }
    }
}
