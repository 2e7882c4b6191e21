//! Numeric answers: the last number of a text counts, as in chain-of-thought scoring.

use std::sync::LazyLock;

use regex::Regex;

use super::{RewardError, Tolerance};

/// A decimal number, perhaps with thousands separators or an exponent.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    let whole = r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+";
    Regex::new(&format!(r"-?(?:{whole})(?:[eE][+-]?[0-9]+)?")).expect("a constant pattern")
});

pub(super) fn right(completion: &str, answer: &str, tolerance: &Tolerance) -> bool {
    let (Some(found), Some(right)) = (last(completion), last(answer)) else {
        return false;
    };
    (found - right).abs() <= f64::max(tolerance.tolerance, tolerance.relative * right.abs())
}

pub(super) fn check(answer: &str) -> Result<(), RewardError> {
    last(answer)
        .map(drop)
        .ok_or_else(|| RewardError::NoNumber(answer.to_owned()))
}

/// The last number in `text`. A minus sign right after a letter, digit or bracket is a dash, not a sign.
fn last(text: &str) -> Option<f64> {
    let found = NUMBER.find_iter(text).last()?;
    let before = text[..found.start()].chars().next_back();
    let dash = before.is_some_and(|c| c.is_alphanumeric() || c == ')' || c == ']');
    let digits: String = found.as_str().chars().filter(|&c| c != ',').collect();
    let digits = if dash {
        digits.trim_start_matches('-')
    } else {
        &digits
    };
    digits
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
}
