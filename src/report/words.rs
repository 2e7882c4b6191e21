//! Numbers with their uncertainty, as tables and the page write them.

use dcsft_engine::results::statistics::Estimate;

use super::scale::{percent, points};

/// One side is longer than the other by more than this factor: half the width would mislead.
const LOPSIDED: f64 = 1.25;

/// Whether the two sides of the interval differ by so much that each is written.
pub(crate) fn is_lopsided(estimate: &Estimate) -> bool {
    let (below, above) = sides(estimate);
    below.max(above) > LOPSIDED * below.min(above) + 0.0005
}

fn sides(estimate: &Estimate) -> (f64, f64) {
    (
        (estimate.value - estimate.low).max(0.0),
        (estimate.high - estimate.value).max(0.0),
    )
}

/// `73.6 ± 0.8`; `0.0 ± -0.0/+19.4` where the interval is lopsided. Among means over seeds (`most` of them in the table)
/// a single run is `73.6 [70.1, 77.2]`, and a mean over fewer seeds than the arm has is `73.6 ± 0.8 (2)`.
pub(crate) fn estimate(estimate: &Estimate, seeds: Option<usize>, most: usize) -> String {
    format!(
        "{} {}",
        percent(estimate.value),
        uncertainty(estimate, seeds, most)
    )
}

/// What follows the value.
pub(crate) fn uncertainty(estimate: &Estimate, seeds: Option<usize>, most: usize) -> String {
    if most > 1 && estimate.runs == 1 {
        return format!("[{}, {}]", percent(estimate.low), percent(estimate.high));
    }
    let (below, above) = sides(estimate);
    let mut text = if is_lopsided(estimate) {
        format!("± -{}/+{}", percent(below), percent(above))
    } else {
        format!("± {}", percent(estimate.half_width()))
    };
    if seeds.is_some_and(|seeds| estimate.runs < seeds) {
        text += &format!(" ({})", estimate.runs);
    }
    text
}

/// `3`, `1 of 3`; a dash where the seeds do not touch the arm.
pub(crate) fn seeds_of(seeds: Option<usize>, most: usize) -> String {
    match seeds {
        None => "-".to_owned(),
        Some(seeds) if seeds < most => format!("{seeds} of {most}"),
        Some(seeds) => seeds.to_string(),
    }
}

/// A difference in points with its interval: `+3.9 ± 1.3`, `0.0 ± 2.1`; where the interval is lopsided,
/// `−75.0 [−100.0, +1.6]`.
pub(crate) fn difference(value: f64, [low, high]: [f64; 2]) -> String {
    let whole = Estimate {
        value,
        low,
        high,
        runs: 1,
    };
    let text = points(value);
    let text = text.strip_prefix('±').unwrap_or(&text);
    if is_lopsided(&whole) {
        format!("{text} [{}, {}]", points(low), points(high))
    } else {
        format!("{text} ± {}", percent(whole.half_width()))
    }
}

/// `0.031`, `<0.001`.
pub(crate) fn p_value(p: f64) -> String {
    if p < 0.001 {
        "<0.001".to_owned()
    } else {
        format!("{p:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: f64, low: f64, high: f64, runs: usize) -> Estimate {
        Estimate {
            value,
            low,
            high,
            runs,
        }
    }

    #[test]
    fn an_interval_is_written_as_what_it_is() {
        let text = |one: Estimate, seeds, most| estimate(&one, seeds, most);
        assert_eq!(text(of(0.736, 0.71, 0.76, 1), None, 1), "73.6 ± 2.5");
        assert_eq!(text(of(0.0, 0.0, 0.194, 1), None, 1), "0.0 ± -0.0/+19.4");
        assert_eq!(text(of(1.0, 0.51, 1.0, 1), None, 1), "100.0 ± -49.0/+0.0");
        assert_eq!(text(of(0.5, 0.49, 0.51, 3), Some(3), 3), "50.0 ± 1.0");
        assert_eq!(text(of(0.5, 0.4, 0.6, 1), Some(1), 3), "50.0 [40.0, 60.0]");
        assert_eq!(text(of(0.5, 0.49, 0.51, 2), Some(3), 3), "50.0 ± 1.0 (2)");
        assert_eq!(text(of(0.5, 0.5, 0.5, 2), Some(2), 2), "50.0 ± 0.0");
    }

    #[test]
    fn a_difference_has_its_interval_beside_it() {
        assert_eq!(difference(0.039, [0.026, 0.052]), "+3.9 ± 1.3");
        assert_eq!(difference(0.0, [-0.02, 0.02]), "0.0 ± 2.0");
        assert_eq!(difference(-0.75, [-1.0, 0.016]), "−75.0 [−100.0, +1.6]");
    }

    #[test]
    fn arms_that_lack_seeds_say_so() {
        let texts = [None, Some(1), Some(3)].map(|seeds| seeds_of(seeds, 3));
        assert_eq!(texts, ["-", "1 of 3", "3"]);
    }
}
