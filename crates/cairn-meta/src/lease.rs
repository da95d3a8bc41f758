//! The lease on the duties that one metadata server carries out for all: who may act, and when another takes over.
//!
//! Nobody compares clocks. The holder renews a row, and counts how old its last renewal is; everybody else watches that
//! row and counts, on its own monotonic clock, how long it has not changed. A holder that is late is no danger: each
//! transaction of a duty reads the [`rows::Duty`] row, so that nothing of it commits once somebody took over, and
//! commands to nodes carry the epoch. The times here only keep two servers from working at the same thing.

use crate::limits::{DUTY_SILENT_AFTER, DUTY_STOP_AFTER, WATCH_GAP_MAX};
use crate::rows;
use std::time::Duration;

/// The rows of the lease as they stand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Stand {
    /// The server that holds it; 0 = nobody.
    pub server: u32,
    pub epoch: u64,
    /// Renewals in that epoch.
    pub beats: u64,
}

impl Stand {
    pub(crate) fn of(duty: Option<&rows::Duty>, beat: Option<&rows::DutyBeat>) -> Self {
        let Some(duty) = duty else { return Self::default() };
        // A renewal of an epoch that is over says nothing.
        let beats = beat.filter(|beat| (beat.server, beat.epoch) == (duty.server, duty.epoch)).map_or(0, |b| b.beats);
        Self { server: duty.server, epoch: duty.epoch, beats }
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    epoch: u64,
    beats: u64,
    /// When the last renewal that is known to be committed was begun.
    confirmed: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    stand: Stand,
    since: Duration,
    looked: Duration,
}

/// What one server knows of the lease.
#[derive(Default, Debug)]
pub(crate) struct Lease {
    /// No other process can serve this engine, so nobody waits for anybody.
    alone: bool,
    held: Option<Held>,
    watched: Option<Watched>,
}

impl Lease {
    /// Not held yet.
    pub(crate) fn new(alone: bool) -> Self {
        Self { alone, ..Self::default() }
    }

    /// The epoch in which this server may act now.
    pub(crate) fn epoch(&self, now: Duration) -> Option<u64> {
        let held = self.held?;
        let fresh = self.alone || now.saturating_sub(held.confirmed) < DUTY_STOP_AFTER;
        fresh.then_some(held.epoch)
    }

    /// What the next renewal writes, if there is one to write.
    pub(crate) fn renewal(&self, now: Duration) -> Option<Stand> {
        let epoch = self.epoch(now)?;
        let beats = self.held.map_or(0, |held| held.beats) + 1;
        Some(Stand { server: 0, epoch, beats })
    }

    /// A renewal, or the taking over, that was begun at `asked` is committed.
    pub(crate) fn confirm(&mut self, epoch: u64, beats: u64, asked: Duration) {
        match &mut self.held {
            Some(held) if held.epoch == epoch => {
                held.beats = held.beats.max(beats);
                held.confirmed = held.confirmed.max(asked);
            }
            Some(held) if held.epoch > epoch => {}
            _ => self.held = Some(Held { epoch, beats, confirmed: asked }),
        }
    }

    /// Another server has taken over what was held in `epoch`.
    pub(crate) fn lose(&mut self, epoch: u64) {
        if self.held.is_some_and(|held| held.epoch <= epoch) {
            self.held = None;
        }
    }

    /// Notes how the lease stands, as read at `now` by server `me`. True when it is to be taken over: nobody holds it, or
    /// whoever does has renewed nothing for [`DUTY_SILENT_AFTER`] of this server's own time.
    pub(crate) fn look(&mut self, me: u32, stand: Stand, now: Duration) -> bool {
        if self.epoch(now).is_some() {
            self.watched = None;
            return false;
        }
        // Nobody, or this very server: in an epoch that it has let lapse, or whose beginning it never heard of.
        if stand.server == 0 || stand.server == me || self.alone {
            return true;
        }
        let known = self.watched.filter(|known| {
            // Who did not look for a while could not have renewed either: perhaps the engine was away for all.
            known.stand == stand && now.saturating_sub(known.looked) <= WATCH_GAP_MAX
        });
        let since = known.map_or(now, |known| known.since);
        self.watched = Some(Watched { stand, since, looked: now });
        now.saturating_sub(since) >= DUTY_SILENT_AFTER
    }
}

/// Whether silence may be counted: only over times in which this server reached its engine. A longer gap between two
/// contacts means that nobody could be heard, or could have written down what was.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Contact {
    last: Option<Duration>,
}

impl Contact {
    /// The engine did what was asked at `asked`. True when that is more than `gap_max` after the contact before: silence
    /// has to be counted anew.
    pub(crate) fn note(&mut self, asked: Duration, gap_max: Duration) -> bool {
        let last = self.last.unwrap_or(asked);
        self.last = Some(last.max(asked));
        asked.saturating_sub(last) > gap_max
    }

    /// True when there was a contact within `age` before `now`.
    pub(crate) fn is_recent(&self, now: Duration, age: Duration) -> bool {
        self.last.is_some_and(|last| now.saturating_sub(last) <= age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn stand(server: u32, epoch: u64, beats: u64) -> Stand {
        Stand { server, epoch, beats }
    }

    #[test]
    fn a_holder_stops_before_anybody_takes_over() {
        let mut holder = Lease::default();
        assert!(holder.look(1, stand(0, 3, 0), at(0)), "it was given back");
        holder.confirm(4, 0, at(0));
        let mut watcher = Lease::default();
        let mut acting = None;
        let mut taken = None;
        for second in 0..30 {
            if holder.epoch(at(second)).is_some() {
                acting = Some(second);
            }
            if watcher.look(2, stand(1, 4, 0), at(second)) && taken.is_none() {
                taken = Some(second);
            }
        }
        assert_eq!((acting, taken), (Some(6), Some(10)));
    }

    #[test]
    fn every_renewal_is_a_sign_of_life() {
        let mut watcher = Lease::default();
        for second in 0..100 {
            assert!(!watcher.look(2, stand(1, 4, second / 5), at(second)), "at {second}");
        }
    }

    #[test]
    fn who_could_not_look_watches_from_the_start() {
        let mut watcher = Lease::default();
        assert!(!watcher.look(2, stand(1, 4, 0), at(0)));
        // The engine was away for everybody, the holder included.
        assert!(!watcher.look(2, stand(1, 4, 0), at(60)));
        let taken = (61..).find(|second| watcher.look(2, stand(1, 4, 0), at(*second)));
        assert_eq!(taken, Some(70));
    }

    #[test]
    fn what_was_let_lapse_is_taken_anew_and_not_gone_on_with() {
        let mut lease = Lease::default();
        lease.confirm(4, 0, at(0));
        assert_eq!(lease.renewal(at(6)), Some(stand(0, 4, 1)));
        assert_eq!((lease.epoch(at(7)), lease.renewal(at(7))), (None, None));
        assert!(lease.look(1, stand(1, 4, 0), at(8)));
        lease.confirm(5, 0, at(8));
        lease.lose(4);
        assert_eq!(lease.epoch(at(9)), Some(5));
        lease.lose(5);
        assert_eq!(lease.epoch(at(9)), None);
    }

    #[test]
    fn an_old_renewal_that_is_confirmed_late_keeps_nobody_in_office() {
        let mut lease = Lease::default();
        lease.confirm(4, 0, at(0));
        // Sent at second 1, answered at second 20.
        lease.confirm(4, 1, at(1));
        assert_eq!(lease.epoch(at(20)), None);
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut lease = Lease { alone: true, ..Lease::default() };
        assert!(lease.look(2, stand(1, 4, 9), at(0)));
        lease.confirm(5, 0, at(0));
        assert_eq!(lease.epoch(at(1000)), Some(5));
    }

    #[test]
    fn a_gap_in_contact_is_noticed_once() {
        let mut contact = Contact::default();
        assert!(!contact.note(at(5), at(7)) && !contact.note(at(12), at(7)));
        assert!(contact.note(at(20), at(7)) && !contact.note(at(21), at(7)));
        assert!(contact.is_recent(at(22), at(1)) && !contact.is_recent(at(23), at(1)));
    }

    #[test]
    fn a_renewal_of_another_epoch_is_none() {
        let duty = rows::Duty { server: 1, epoch: 4 };
        let beat = |epoch| rows::DutyBeat { server: 1, epoch, beats: 7 };
        assert_eq!(Stand::of(Some(&duty), Some(&beat(4))), stand(1, 4, 7));
        assert_eq!(Stand::of(Some(&duty), Some(&beat(3))), stand(1, 4, 0));
        assert_eq!(Stand::of(None, Some(&beat(3))), Stand::default());
    }
}
