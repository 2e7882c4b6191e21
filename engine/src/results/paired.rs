//! Two models that answered the same samples, compared sample by sample.
//!
//! Only the samples on which they disagree tell the two apart: `better` are those that the first has right and the
//! second wrong, `worse` those the other way round.
//!
//! - *p* is that of the exact McNemar test: under equal accuracy each disagreement is a fair coin, so with
//!   `m = better + worse` it is twice the probability of at most `min(better, worse)` heads in `m` throws, at most 1
//!   (Q. McNemar, Psychometrika 12, 1947; the exact form: A. Agresti, Categorical Data Analysis, section 11.1).
//! - The *interval* is the 95% interval of A. Agresti and Y. Min, "Simple improved confidence intervals for comparing
//!   matched proportions", Statistics in Medicine 24 (2005): half a sample is added to each of the four cells, then
//!   `d = (b - c) / N`, `variance = (b + c - (b - c)^2 / N) / N^2` with the changed b, c and N, and `d +- z sqrt(variance)`,
//!   cut to `[-1, 1]`. Unlike the one of the counts as they are it does not shrink to nothing where nobody disagrees.

use std::collections::BTreeMap;

use serde::Serialize;

/// 97.5% quantile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// A comparison of two models on the samples that both answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Samples that both answered.
    pub n: u64,
    /// The first is right, the second wrong.
    pub better: u64,
    /// The second is right, the first wrong.
    pub worse: u64,
    /// Accuracy of the first minus accuracy of the second, as a fraction of `n`.
    pub difference: f64,
    /// The 95% interval of the difference.
    pub interval: [f64; 2],
    /// The variance of the difference that the interval is made of.
    #[serde(skip)]
    pub variance: f64,
    /// The middle of the interval, before it is cut.
    #[serde(skip)]
    pub centre: f64,
    /// Two-sided p of the exact McNemar test.
    pub p: f64,
}

impl Paired {
    /// From the counts; none for no samples.
    pub fn new(n: u64, better: u64, worse: u64) -> Option<Self> {
        if n == 0 {
            return None;
        }
        let (total, b, c) = (n as f64 + 2.0, better as f64 + 0.5, worse as f64 + 0.5);
        let centre = (b - c) / total;
        let variance = (b + c - (b - c).powi(2) / total) / total.powi(2);
        Some(Self {
            n,
            better,
            worse,
            difference: (better as f64 - worse as f64) / n as f64,
            interval: interval(centre, variance),
            variance,
            centre,
            p: mcnemar(better, worse),
        })
    }

    /// Joins two models' answers by sample; none where they share no sample.
    pub fn join<K: Ord>(first: &BTreeMap<K, bool>, second: &BTreeMap<K, bool>) -> Option<Self> {
        let (mut n, mut better, mut worse) = (0, 0, 0);
        for (sample, right) in first {
            let Some(other) = second.get(sample) else {
                continue;
            };
            n += 1;
            better += u64::from(*right && !other);
            worse += u64::from(!right && *other);
        }
        Self::new(n, better, worse)
    }

    /// The unweighted mean over independent sets: (difference, 95% interval). Variances add.
    pub fn mean(sets: &[Self]) -> Option<(f64, [f64; 2])> {
        if sets.is_empty() {
            return None;
        }
        let k = sets.len() as f64;
        let sum = |value: fn(&Self) -> f64| sets.iter().map(value).sum::<f64>();
        let variance = sum(|set| set.variance) / k.powi(2);
        let difference = sum(|set| set.difference) / k;
        Some((difference, interval(sum(|set| set.centre) / k, variance)))
    }
}

fn interval(centre: f64, variance: f64) -> [f64; 2] {
    let half = Z * variance.sqrt();
    [(centre - half).max(-1.0), (centre + half).min(1.0)]
}

/// Two-sided p of the exact McNemar test for these numbers of disagreements.
pub fn mcnemar(better: u64, worse: u64) -> f64 {
    let (m, fewer) = (better + worse, better.min(worse));
    // log of C(m, k) / 2^m, from one k to the next.
    let mut log = -(m as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=fewer {
        tail += log.exp();
        log += ((m - k) as f64).ln() - ((k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_is_that_of_the_binomial_test() {
        // 2 * (1 + 10 + 45) / 1024, 2 / 64, and what cannot be told apart.
        for (better, worse, p) in [
            (8, 2, 0.109_375),
            (0, 6, 0.031_25),
            (5, 5, 1.0),
            (0, 0, 1.0),
        ] {
            assert!(
                (mcnemar(better, worse) - p).abs() < 1e-12,
                "{better} {worse}"
            );
            assert_eq!(mcnemar(better, worse), mcnemar(worse, better));
        }
        // Agresti, table 11.1: 150 and 86 disagreements, z = 4.17 without correction.
        let p = mcnemar(150, 86);
        assert!((2e-5..5e-5).contains(&p), "{p}");
        assert!(mcnemar(4000, 1000) >= 0.0 && mcnemar(3000, 2990) < 1.0);
    }

    #[test]
    fn the_interval_is_that_of_agresti_and_min() {
        // By hand: N = 102, b = 12.5, c = 4.5, d = 8/102, variance = (17 - 64/102) / 102^2.
        let found = Paired::new(100, 12, 4).unwrap();
        let half = Z * ((17.0 - 64.0 / 102.0_f64) / (102.0 * 102.0)).sqrt();
        assert!((found.interval[0] - (8.0 / 102.0 - half)).abs() < 1e-12);
        assert!((found.interval[1] - (8.0 / 102.0 + half)).abs() < 1e-12);
        assert_eq!(found.difference, 0.08);
        let equal = Paired::new(20, 0, 0).unwrap();
        assert!(
            equal.interval[0] < 0.0 && equal.interval[1] > 0.0,
            "{equal:?}"
        );
        assert_eq!(Paired::new(0, 0, 0), None);
    }

    #[test]
    fn answers_are_joined_by_sample_and_not_by_position() {
        let answers = |list: &[(&'static str, bool)]| list.iter().copied().collect();
        let first = answers(&[("a", true), ("b", false), ("c", true), ("only", true)]);
        let second = answers(&[("c", true), ("a", false), ("b", true), ("other", false)]);
        let found = Paired::join(&first, &second).unwrap();
        assert_eq!((found.n, found.better, found.worse), (3, 1, 1));
        assert_eq!(Paired::join(&first, &answers(&[("x", true)])), None);
    }

    #[test]
    fn the_mean_over_sets_is_known_better_than_one_set() {
        let one = Paired::new(100, 12, 4).unwrap();
        let (difference, [low, high]) = Paired::mean(&[one, one]).unwrap();
        assert!((difference - 0.08).abs() < 1e-12);
        let width = one.interval[1] - one.interval[0];
        assert!((high - low - width / 2f64.sqrt()).abs() < 1e-12);
    }
}
