//! Times and sizes as people write them, the same in specs, in flags and in the schema.

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo, Unit};

/// What [`seconds`] takes, as a regular expression.
pub const TIME: &str = r"^([0-9]+(\.[0-9]+)?[smh]|[0-9]+[dw])$";
/// What [`is_memory`] takes, as a regular expression.
pub const SIZE: &str = r"^[0-9]+(\.[0-9]*)? *([kKmMgGtTpPeE][iI]?[bB]?|[bB])$";

/// Seconds in `90s`, `30m`, `1.5h`, `2d` or `1w`.
pub fn seconds(text: &str) -> Option<f64> {
    let number = text.strip_suffix(['s', 'm', 'h', 'd', 'w'])?;
    let plain = number
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let span: Span = text.parse().ok().filter(|_| plain)?;
    span.total((Unit::Second, SpanRelativeTo::days_are_24_hours()))
        .ok()
}

/// Whether so many seconds are a time that a clock can wait for: more than none, up to a hundred years.
pub fn is_time(seconds: f64) -> bool {
    seconds > 0.0 && seconds <= 100.0 * 365.0 * 86_400.0
}

/// Bytes in `16GiB`, `500MB`, `16G` (powers of ten, as with `GB`) or, without a unit, `1000000`.
pub fn bytes(text: &str) -> Option<u64> {
    text.parse::<ByteSize>().ok().map(|size| size.as_u64())
}

/// Whether `text` is an amount of memory, which has a unit: `16GiB`, `500MB`, `16G`.
pub fn is_memory(text: &str) -> bool {
    let has_unit = text.ends_with(|c: char| c.is_ascii_alphabetic());
    has_unit && bytes(text).is_some_and(|bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, expected) in [
            ("90s", 90.0),
            ("30m", 1800.0),
            ("1.5h", 5400.0),
            ("1d", 86_400.0),
            ("1w", 604_800.0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in [
            "", "s", "2 hours", "2 h", "-3h", "1y", "1mo", "1e3s", "100ms", "0.5d", "P1D",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_and_decimal_units() {
        for (text, expected) in [
            ("16G", 16_000_000_000),
            ("16GiB", 16 << 30),
            ("500MB", 500_000_000),
            ("20 GiB", 20 << 30),
            ("1.5TB", 1_500_000_000_000),
            ("1000000", 1_000_000),
        ] {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "G", "much", "-1G", "1e3"] {
            assert_eq!(bytes(text), None, "{text}");
        }
        assert!(is_memory("16G") && !is_memory("16") && !is_memory("0G"));
    }
}
