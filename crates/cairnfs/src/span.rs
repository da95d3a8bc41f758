//! Lengths of time as people write them: `500ms`, `10s`, `10m`, `2h`.

use std::{str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

/// A length of time, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(Duration);

impl Span {
    pub const fn get(self) -> Duration {
        self.0
    }

    /// For a command line; the same for [`FromStr`].
    pub fn text(self) -> String {
        format!("{}ms", self.0.as_millis())
    }
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str = "a time with its unit is allowed, as 500ms, 10s, 10m or 2h";
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return Err(ALLOWED),
        };
        let ms = number.parse().ok().and_then(|number: u64| number.checked_mul(unit_ms));
        // A century is more than anybody waits, and still fits every clock.
        let ms = ms.filter(|ms| *ms <= 100 * 366 * 24 * 3_600_000).ok_or(ALLOWED)?;
        Ok(Self(Duration::from_millis(ms)))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|complaint| de::Error::custom(format!("wrong value \"{text}\": {complaint}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        let ms = |text: &str| text.parse::<Span>().map(|span| span.get().as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("600s"), Ok(600_000));
        assert_eq!(ms("10m"), ms("600s"));
        assert_eq!(ms("2h"), Ok(7_200_000));
        for wrong in ["", "10", "s", "-1s", "1.5s", "10 s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(ms(wrong).is_err(), "{wrong}");
        }
        let span: Span = "3s".parse().expect("a time");
        assert_eq!(span.text().parse(), Ok(span));
    }
}
