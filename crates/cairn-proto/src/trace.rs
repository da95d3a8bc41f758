//! Which operation of which caller a request belongs to: the `traceparent` of W3C Trace Context, level 1
//! (<https://www.w3.org/TR/trace-context/#traceparent-header>), as it travels in a request.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// Length of a `traceparent` of version 00, in bytes.
pub const TRACE_PARENT_LEN: usize = 55;

/// The caller's trace and span.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceParent {
    /// One number for everything that an operation causes, on whatever machine.
    pub trace: NonZeroU128,
    /// The span of the caller that the request belongs to.
    pub span: NonZeroU64,
    /// The caller records its spans.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent`: `00-<32 hex digits>-<16 hex digits>-<2 hex digits>`, lower case. Versions that are not
    /// known yet are read as far as they begin like version 00; anything else is `None`, as is a trace or span of zero.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let version = hex(bytes.get(0..2)?)?;
        let fits = match version {
            0 => bytes.len() == TRACE_PARENT_LEN,
            0xff => false,
            _ => bytes.len() == TRACE_PARENT_LEN || bytes.get(TRACE_PARENT_LEN) == Some(&b'-'),
        };
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        if !fits || !dashes {
            return None;
        }
        let trace = NonZeroU128::new(hex(&bytes[3..35])?)?;
        let span = NonZeroU64::new(u64::try_from(hex(&bytes[36..52])?).ok()?)?;
        let flags = hex(&bytes[53..55])?;
        Some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

/// Hexadecimal digits in lower case, at most 32 of them.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| match digit {
        b'0'..=b'9' => Some(number << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(number << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// As it travels: 55 characters.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_example_of_the_standard() {
        let parent = TraceParent::parse(EXAMPLE).expect("it is valid");
        assert_eq!(parent.trace.get(), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(parent.span.get(), 0xb7ad_6b71_6920_3331);
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), EXAMPLE);
        assert_eq!(EXAMPLE.len(), TRACE_PARENT_LEN);
    }

    #[test]
    fn what_is_not_one_is_ignored() {
        let zero_trace = format!("00-{}-b7ad6b7169203331-01", "0".repeat(32));
        let zero_span = format!("00-0af7651916cd43dd8448eb211c80319c-{}-01", "0".repeat(16));
        let upper = EXAMPLE.to_uppercase();
        let longer = format!("{EXAMPLE}-more");
        let unknown = EXAMPLE.replacen("00", "ff", 1);
        let cut = &EXAMPLE[..54];
        for text in ["", "00", "é", cut, &zero_trace, &zero_span, &upper, &longer, &unknown, "x".repeat(55).as_str()] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
        assert_eq!(TraceParent::parse(&longer.replacen("00", "01", 1)), TraceParent::parse(EXAMPLE));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_harm(text in "\\PC{0,80}") {
            let _ = TraceParent::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let trace = NonZeroU128::new(trace).expect("above 0");
            let span = NonZeroU64::new(span).expect("above 0");
            let parent = TraceParent { trace, span, sampled };
            prop_assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
        }
    }
}
