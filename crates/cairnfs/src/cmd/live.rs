//! A line on standard error that says how far something long is: rewritten in place on a terminal, now and then a new
//! line elsewhere.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::say;

const TICK: Duration = Duration::from_millis(120);
/// Where there is no terminal, a line is written when the last one is so old: a log of a long drain stays readable.
const LINES_EVERY: Duration = Duration::from_secs(10);

/// See the module.
pub struct Live {
    bar: ProgressBar,
    /// `None` on a terminal, or when nothing is to be said.
    last_line: Option<Instant>,
}

impl Live {
    /// A line, or an invisible one.
    pub fn new(wanted: bool) -> Self {
        let terminal = wanted && io::stderr().is_terminal();
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        if terminal {
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is well formed"));
            bar.enable_steady_tick(TICK);
        }
        Self { bar, last_line: (wanted && !terminal).then(Instant::now) }
    }

    /// So far it is.
    pub fn set(&mut self, text: impl Display) {
        match &mut self.last_line {
            Some(last) if last.elapsed() >= LINES_EVERY => {
                say(text);
                *last = Instant::now();
            }
            Some(_) => {}
            None => self.bar.set_message(text.to_string()),
        }
    }

    /// Says a line of its own.
    pub fn say(&self, line: impl Display) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the line away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_well_formed() {
        let mut live = Live::new(false);
        live.set("x");
        live.finish();
        assert!(ProgressStyle::with_template("{spinner} {msg}").is_ok());
    }
}
