//! What a mean over repeats is, and how sure it is.

use serde::Serialize;

/// Mean and standard error of the mean.
pub fn mean_and_error(values: &[f64]) -> (f64, Option<f64>) {
    #[expect(clippy::cast_precision_loss, reason = "counts of repeats are small")]
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, None);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, Some((squares / (n - 1.0) / n).sqrt()))
}

/// What an [`Estimate`]'s interval means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Spread {
    /// 95% Wilson interval over the samples of a set.
    #[default]
    Wilson95,
    /// One standard error of the mean over seeds.
    StandardError {
        /// How many seeds.
        seeds: usize,
    },
}

impl Spread {
    /// In words, for captions.
    pub fn words(self) -> String {
        match self {
            Self::Wilson95 => "95% Wilson interval".to_owned(),
            Self::StandardError { seeds } => format!("mean ± standard error over {seeds} seeds"),
        }
    }
}

/// A measured fraction with its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Runs that it is the mean of: of one, the interval is Wilson's; of several, it is one standard error to each side.
    pub runs: usize,
}

impl Estimate {
    /// Half the interval's width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }

    /// `{"kind": "wilson95"}` or `{"kind": "standard_error", "seeds": 3}`.
    pub fn spread(&self) -> Spread {
        match self.runs {
            0 | 1 => Spread::Wilson95,
            seeds => Spread::StandardError { seeds },
        }
    }
}

/// How far two arms are apart, over the seeds that both have.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Gap {
    /// Mean of arm - versus, as a fraction.
    pub mean: f64,
    /// Standard error of that mean; none with one pair.
    pub se: Option<f64>,
    /// Seeds that both have.
    pub pairs: usize,
    /// Seeds on which the arm is better.
    pub wins: usize,
}

impl Gap {
    /// From arm - versus of each pair; none without pairs.
    pub fn of(differences: &[f64]) -> Option<Self> {
        if differences.is_empty() {
            return None;
        }
        let (mean, se) = mean_and_error(differences);
        Some(Self {
            mean,
            se,
            pairs: differences.len(),
            wins: differences.iter().filter(|one| **one > 0.0).count(),
        })
    }
}
