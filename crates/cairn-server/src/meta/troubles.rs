//! What goes wrong with the duties of a metadata server: counted, and told when it begins, once a minute while it goes
//! on, and when it is over. All duties meet an engine that is away, so that is one trouble and not one of each.

use crate::limits::{TROUBLE_QUIET, TROUBLE_TOLD_EVERY};
use cairn_proto::status::{Code, Status};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Something that a metadata server does by itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Duty {
    Beats,
    Cluster,
    Feed,
    Garbage,
    Maps,
    Sessions,
    Snapshots,
    Trees,
}

impl Duty {
    const ALL: [Self; 8] = [
        Self::Beats,
        Self::Cluster,
        Self::Feed,
        Self::Garbage,
        Self::Maps,
        Self::Sessions,
        Self::Snapshots,
        Self::Trees,
    ];

    /// For metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Beats => "beats",
            Self::Cluster => "cluster",
            Self::Feed => "feed",
            Self::Garbage => "garbage",
            Self::Maps => "maps",
            Self::Sessions => "sessions",
            Self::Snapshots => "snapshots",
            Self::Trees => "trees",
        }
    }

    /// For logs.
    fn words(self) -> &'static str {
        match self {
            Self::Beats => "write down heartbeats",
            Self::Cluster => "look after nodes and groups",
            Self::Feed => "look after change logs",
            Self::Garbage => "collect garbage",
            Self::Maps => "drop maps",
            Self::Sessions => "expire sessions",
            Self::Snapshots => "let go of what snapshots held",
            Self::Trees => "look after trash and quotas",
        }
    }
}

/// What a failure is counted as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Subject {
    Engine,
    Of(Duty),
}

/// What there is to say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tell {
    Nothing,
    /// It begins, or is another one than before.
    Begins,
    GoesOn {
        lasted: Duration,
        failures: u64,
    },
    Over {
        lasted: Duration,
        failures: u64,
    },
}

#[derive(Clone, Copy, Debug)]
struct Trouble {
    code: Code,
    since: Instant,
    told: Instant,
    last: Instant,
    failures: u64,
}

#[derive(Default, Debug)]
struct Book {
    open: BTreeMap<Subject, Trouble>,
    failures: BTreeMap<Duty, u64>,
}

/// Whether it is the engine that did not do its work.
fn is_of_engine(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Io | Code::NoSpace | Code::OutcomeUnknown)
}

impl Book {
    fn failed(&mut self, duty: Duty, code: Code, now: Instant) -> (Subject, Tell) {
        *self.failures.entry(duty).or_default() += 1;
        let subject = if is_of_engine(code) { Subject::Engine } else { Subject::Of(duty) };
        let fresh = Trouble { code, since: now, told: now, last: now, failures: 1 };
        let Some(open) = self.open.get_mut(&subject) else {
            self.open.insert(subject, fresh);
            return (subject, Tell::Begins);
        };
        open.last = now;
        open.failures += 1;
        // A restart of an engine shows several codes in a row; they are one trouble.
        if open.code != code && subject != Subject::Engine {
            *open = fresh;
            return (subject, Tell::Begins);
        }
        if now.saturating_duration_since(open.told) < TROUBLE_TOLD_EVERY {
            return (subject, Tell::Nothing);
        }
        open.told = now;
        let lasted = now.saturating_duration_since(open.since);
        (subject, Tell::GoesOn { lasted, failures: open.failures })
    }

    fn worked(&mut self, subject: Subject, now: Instant) -> Tell {
        let quiet = |open: &Trouble| {
            // One duty that works is no proof while another one failed a moment ago.
            subject != Subject::Engine || now.saturating_duration_since(open.last) >= TROUBLE_QUIET
        };
        if !self.open.get(&subject).is_some_and(quiet) {
            return Tell::Nothing;
        }
        let over = self.open.remove(&subject);
        over.map_or(Tell::Nothing, |over| Tell::Over {
            lasted: now.saturating_duration_since(over.since),
            failures: over.failures,
        })
    }
}

/// See the module.
#[derive(Default, Debug)]
pub(crate) struct Troubles {
    book: Mutex<Book>,
}

impl Troubles {
    /// A duty did, or did not do, what it had to.
    pub(crate) fn note(&self, duty: Duty, outcome: Result<(), &Status>) {
        let now = cairn_net::now();
        match outcome {
            Ok(()) => {
                let (own, engine) = {
                    let mut book = self.book.lock();
                    // Others have nothing to ask the engine while they have nothing to do; this one asks every time.
                    let engine = if duty == Duty::Beats { book.worked(Subject::Engine, now) } else { Tell::Nothing };
                    (book.worked(Subject::Of(duty), now), engine)
                };
                if let Tell::Over { lasted, failures } = own {
                    tracing::info!(?lasted, failures, "it works again to {}", duty.words());
                }
                if let Tell::Over { lasted, failures } = engine {
                    tracing::info!(?lasted, failures, "the metadata engine serves again");
                }
            }
            Err(status) => {
                let (subject, tell) = self.book.lock().failed(duty, status.code, now);
                match (subject, tell) {
                    (Subject::Engine, Tell::Begins) => {
                        tracing::warn!(%status, "the metadata engine does not serve: duties are tried again until it does");
                    }
                    (Subject::Engine, Tell::GoesOn { lasted, failures }) => {
                        tracing::warn!(%status, ?lasted, failures, "the metadata engine still does not serve");
                    }
                    (Subject::Of(_), Tell::Begins) => tracing::warn!(%status, "failed to {}", duty.words()),
                    (Subject::Of(_), Tell::GoesOn { lasted, failures }) => {
                        tracing::warn!(%status, ?lasted, failures, "still failed to {}", duty.words());
                    }
                    (_, Tell::Nothing | Tell::Over { .. }) => {}
                }
            }
        }
    }

    /// For how long the engine has not served the duties; zero when it does.
    pub(crate) fn engine_away_for(&self) -> Duration {
        let since = self.book.lock().open.get(&Subject::Engine).map(|open| open.since);
        since.map_or(Duration::ZERO, |since| cairn_net::now().saturating_duration_since(since))
    }

    /// Failures of each duty.
    pub(crate) fn failures(&self) -> Vec<(Duty, u64)> {
        let book = self.book.lock();
        Duty::ALL.into_iter().map(|duty| (duty, book.failures.get(&duty).copied().unwrap_or(0))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_outage_is_told_once_and_then_once_a_minute() {
        let (mut book, begun) = (Book::default(), cairn_net::now());
        let mut told = Vec::new();
        for second in 0..150u32 {
            for (duty, code) in [(Duty::Beats, Code::Unavailable), (Duty::Maps, Code::OutcomeUnknown)] {
                let (subject, tell) = book.failed(duty, code, begun + SECOND * second);
                assert_eq!(subject, Subject::Engine);
                if tell != Tell::Nothing {
                    told.push((second, tell));
                }
            }
        }
        let goes_on = |seconds: u32, failures| (seconds, Tell::GoesOn { lasted: SECOND * seconds, failures });
        assert_eq!(told, [(0, Tell::Begins), goes_on(60, 121), goes_on(120, 241)]);
        assert_eq!(book.failures[&Duty::Maps], 150);
        // Over when it is quiet, and told once.
        let end = begun + SECOND * 149;
        assert_eq!(book.worked(Subject::Engine, end + SECOND), Tell::Nothing);
        let over = Tell::Over { lasted: SECOND * 159, failures: 300 };
        assert_eq!(book.worked(Subject::Engine, end + SECOND * 10), over);
        assert_eq!(book.worked(Subject::Engine, end + SECOND * 11), Tell::Nothing);
        assert_eq!(book.failed(Duty::Feed, Code::Unavailable, end + SECOND * 20).1, Tell::Begins);
    }

    #[test]
    fn what_is_not_the_engine_is_told_of_each_duty() {
        let (mut book, now) = (Book::default(), cairn_net::now());
        assert_eq!(book.failed(Duty::Maps, Code::Internal, now), (Subject::Of(Duty::Maps), Tell::Begins));
        assert_eq!(book.failed(Duty::Feed, Code::Internal, now).1, Tell::Begins);
        assert_eq!(book.failed(Duty::Maps, Code::Internal, now).1, Tell::Nothing);
        assert_eq!(book.failed(Duty::Maps, Code::Corrupt, now).1, Tell::Begins, "it is another one now");
        assert_eq!(book.worked(Subject::Of(Duty::Maps), now), Tell::Over { lasted: Duration::ZERO, failures: 1 });
        assert_eq!(book.worked(Subject::Of(Duty::Trees), now), Tell::Nothing);
    }
}
