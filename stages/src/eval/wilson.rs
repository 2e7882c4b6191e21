//! The Wilson score interval of a proportion.

/// 97.5% quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// The 95% confidence interval of a rate of `right` out of `n`, both ends in `[0, 1]`; `[0, 1]` for `n = 0`.
///
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927),
/// without continuity correction: with `p = right / n`,
/// `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`. Unlike the normal approximation it has the
/// right coverage near 0 and 1, and never leaves `[0, 1]`.
pub fn wilson(right: u64, n: u64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let total = n as f64;
    let p = right as f64 / total;
    let square = Z * Z / total;
    let centre = p + square / 2.0;
    let half = Z * libm::sqrt(p * (1.0 - p) / total + square / (4.0 * total));
    let end = |value: f64| (value / (1.0 + square)).clamp(0.0, 1.0);
    // The ends at 0 and 1 are exact in the formula, which rounding would blur.
    let low = if right == 0 { 0.0 } else { end(centre - half) };
    let high = if right == n { 1.0 } else { end(centre + half) };
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::wilson;

    /// R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17
    /// (1998), table I, method 3.
    #[test]
    fn it_equals_published_values() {
        for (right, n, [low, high]) in [
            (81, 263, [0.2553, 0.3662]),
            (15, 148, [0.0624, 0.1605]),
            (0, 20, [0.0, 0.1611]),
            (1, 29, [0.0061, 0.1718]),
        ] {
            let [a, b] = wilson(right, n);
            assert!(
                (a - low).abs() < 5e-5 && (b - high).abs() < 5e-5,
                "{right}/{n}: {a} {b}"
            );
        }
    }

    #[test]
    fn the_interval_holds_the_rate_mirrors_and_narrows_with_n() {
        for n in [1u64, 2, 7, 50, 2000] {
            for right in 0..=n.min(50) {
                let [low, high] = wilson(right, n);
                let rate = right as f64 / n as f64;
                assert!(
                    0.0 <= low && low <= rate && rate <= high && high <= 1.0,
                    "{right}/{n}"
                );
                let [mirror_low, mirror_high] = wilson(n - right, n);
                assert!(
                    (low - (1.0 - mirror_high)).abs() < 1e-12
                        && (high - (1.0 - mirror_low)).abs() < 1e-12
                );
            }
        }
        let width = |n| wilson(n / 2, n)[1] - wilson(n / 2, n)[0];
        assert!(width(100) > width(1000));
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }
}
