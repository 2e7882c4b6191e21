//! Times and amounts of memory as people write them.

/// Seconds in `90s`, `30m`, `2h`, `1d` or `1.5h`; see [`is_time`].
pub(crate) fn seconds(text: &str) -> Option<f64> {
    let unit = text.chars().last()?;
    let factor = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        'd' => 86_400.0,
        _ => return None,
    };
    let seconds = decimal(&text[..text.len() - 1])? * factor;
    is_time(seconds).then_some(seconds)
}

/// Whether so many seconds are a time that a clock can wait for: more than none, up to a hundred years.
pub(crate) fn is_time(seconds: f64) -> bool {
    seconds > 0.0 && seconds <= 100.0 * 365.0 * 86_400.0
}

/// Whether `text` is an amount such as `16GiB`, `500MB` or `16G`.
pub(crate) fn is_memory(text: &str) -> bool {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = unit
        .strip_suffix("iB")
        .or_else(|| unit.strip_suffix('B'))
        .unwrap_or(unit);
    decimal(number).is_some_and(|amount| amount > 0.0) && matches!(scale, "K" | "M" | "G" | "T")
}

fn decimal(text: &str) -> Option<f64> {
    let fits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if fits { text.parse().ok() } else { None }
}
