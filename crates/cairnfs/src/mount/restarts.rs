//! How soon the process that serves a mount is started again when it died. Pure.

use std::time::Duration;

/// The pause after the second death in a row; it doubles from death to death.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Who served so long did not die of what the last one died of.
const LONG: Duration = Duration::from_secs(60);

/// Counts deaths in a row.
#[derive(Debug, Clone, Default)]
pub struct Restarts {
    deaths: u32,
}

impl Restarts {
    /// A server died that had served for so long; `None`: it had not begun to. Returns how long to wait.
    pub fn died(&mut self, served: Option<Duration>) -> Duration {
        if served.is_some_and(|served| served >= LONG) {
            self.deaths = 0;
        }
        self.deaths += 1;
        match self.deaths {
            1 => Duration::ZERO,
            deaths => (PAUSE_FIRST * 2_u32.pow((deaths - 2).min(16))).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_no_pause() {
        assert_eq!(Restarts::default().died(Some(Duration::from_secs(1))), Duration::ZERO);
    }

    #[test]
    fn pauses_grow_and_are_bounded_until_one_serves_long() {
        let mut restarts = Restarts::default();
        let mut last = Duration::ZERO;
        for death in 0..100 {
            let pause = restarts.died((death % 2 == 0).then_some(Duration::from_secs(1)));
            assert!(pause >= last && pause <= PAUSE_MAX);
            last = pause;
        }
        assert_eq!(last, PAUSE_MAX);
        assert_eq!(restarts.died(Some(LONG)), Duration::ZERO);
    }
}
