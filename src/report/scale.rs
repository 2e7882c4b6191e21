//! Axes: from values to pixels, with round tick values.

/// A linear axis.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// An axis from `low` to `high`, widened to round tick values, about `ticks` of them, drawn from pixel `from`
    /// to pixel `to`. An empty range is widened.
    pub(crate) fn nice(low: f64, high: f64, ticks: usize, from: f64, to: f64) -> Self {
        let high = if high - low < 1e-9 {
            low + 1e-2_f64.max(low.abs() * 0.1)
        } else {
            high
        };
        let step = round_step((high - low) / ticks.max(1) as f64);
        let low = (low / step + 1e-9).floor() * step;
        let high = (high / step - 1e-9).ceil() * step;
        Self {
            low,
            high,
            from,
            to,
            step,
        }
    }

    /// An axis exactly from `low` to `high`, with round ticks inside.
    pub(crate) fn exact(low: f64, high: f64, ticks: usize, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            low,
            high,
            from,
            to,
            step: round_step((high - low) / ticks.max(1) as f64),
        }
    }

    /// The pixel of a value.
    pub(crate) fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// The round values inside the axis.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|tick| tick as f64 * self.step).collect()
    }
}

/// 1, 2 or 5 times a power of ten, at least `raw`.
fn round_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    let lead = raw / power;
    let lead = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|&round| lead <= round + 1e-9)
        .unwrap_or(10.0);
    lead * power
}

/// A tick's label, without needless decimals.
pub(crate) fn tick_label(value: f64) -> String {
    if (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

/// A fraction in percent with one decimal.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1}", fraction * 100.0)
}

/// A difference of fractions in points, with its sign (a real minus).
pub(crate) fn points(difference: f64) -> String {
    let text = format!("{:.1}", (difference * 100.0).abs());
    match (text == "0.0", difference < 0.0) {
        (true, _) => "±0.0".to_owned(),
        (false, true) => format!("−{text}"),
        (false, false) => format!("+{text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        let scale = Scale::nice(0.0, 0.868, 5, 0.0, 100.0);
        let ticks = scale.ticks();
        assert_eq!(ticks.len(), 6);
        assert!((ticks[5] - 1.0).abs() < 1e-12, "{ticks:?}");
        assert!((scale.at(1.0) - 100.0).abs() < 1e-9);
        assert!((scale.at(0.0)).abs() < 1e-9);
    }

    #[test]
    fn an_empty_range_still_has_a_length() {
        let scale = Scale::nice(0.5, 0.5, 4, 0.0, 10.0);
        assert!(scale.at(0.5).is_finite());
        assert!(scale.ticks().len() >= 2);
    }

    #[test]
    fn differences_carry_their_sign() {
        assert_eq!(
            [0.0431, -0.2212, 0.0001].map(points),
            ["+4.3", "−22.1", "±0.0"]
        );
    }
}
