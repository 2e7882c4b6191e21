//! Times and sizes as people write and read them, the same in specs, in flags, in the schema and in all that is shown.

use bytesize::ByteSize;
use jiff::{Span, SpanRelativeTo, Timestamp, Unit};

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

/// A size for people: `1.4 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

/// Seconds in the unit a person would take: `84 ms`, `1.8 s`, `42 s`, `4 min 10 s`, `2 h 5 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1000.0);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// Seconds since 1970 as `2025-01-31 12:00 UTC`.
pub fn date(unix: u64) -> String {
    let stamp = i64::try_from(unix)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(
        || unix.to_string(),
        |stamp| stamp.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
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

    #[test]
    fn sizes_are_in_the_unit_a_person_would_take() {
        assert_eq!(
            [0, 1023, 1024, 1_572_864, 5_368_709_120].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB"]
        );
    }

    #[test]
    fn durations_are_in_the_unit_a_person_would_take() {
        assert_eq!(
            [0.04, 1.84, 42.4, 59.6, 250.0, 7500.0].map(duration),
            [
                "40 ms",
                "1.8 s",
                "42 s",
                "1 min 0 s",
                "4 min 10 s",
                "2 h 5 min"
            ]
        );
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
    }
}
