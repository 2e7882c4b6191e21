//! What the report shows, as plain data: figures and pages are pure functions of these types.
//!
//! Accuracies and shares are fractions in 0..=1, times are seconds.

use serde::Serialize;

/// Everything one report shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReportData {
    /// `name:` of the spec.
    pub study: String,
    /// File name and text of the spec and of those it extends.
    pub sources: Vec<(String, String)>,
    /// `--set` overrides, as given.
    pub overrides: Vec<String>,
    /// Facts of the last run.
    pub facts: Vec<Fact>,
    /// Arm that every other arm is compared with.
    pub baseline: Option<String>,
    /// How intervals in tables and figures are to be read.
    pub spread: Spread,
    /// Accuracy of each arm at its last step.
    pub table: ResultTable,
    /// Paired differences over seeds.
    pub differences: Vec<Difference>,
    /// Accuracy over training steps.
    pub curves: Vec<Curve>,
    /// Training time of arms.
    pub times: Vec<ArmTime>,
    /// How many samples were answered right how often.
    pub histogram: Option<PassRates>,
    /// Which difficulty the policy gradient came from.
    pub filter: Option<ImplicitFilter>,
    /// Samples of each bin, easiest bin first.
    pub gallery: Vec<GalleryBin>,
    /// The stages of the spec.
    pub stages: Vec<StageBox>,
    /// Every concrete stage.
    pub nodes: Vec<NodeRow>,
}

/// A line of the run facts.
#[derive(Clone, Debug, Serialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// Its value, as text.
    pub value: String,
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
}

impl Estimate {
    /// Half the interval's width.
    pub fn half_width(&self) -> f64 {
        (self.high - self.low) / 2.0
    }
}

/// Arms by evaluation sets.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ResultTable {
    /// The sets, in-distribution ones first: (name, is out of distribution).
    pub sets: Vec<(String, bool)>,
    /// The arms, in the order of the spec.
    pub rows: Vec<ArmRow>,
}

/// One arm's accuracies.
#[derive(Clone, Debug, Serialize)]
pub struct ArmRow {
    /// The arm, with the axes in which its rows differ.
    pub arm: String,
    /// The training step, where the arm was evaluated at several.
    pub step: Option<u64>,
    /// One cell per set of the table; none where it was not evaluated.
    pub cells: Vec<Option<Estimate>>,
    /// Mean over the in-distribution sets.
    pub id: Option<Estimate>,
    /// Mean over the out-of-distribution sets.
    pub ood: Option<Estimate>,
    /// Seconds of training, where the arm was trained.
    pub seconds: Option<f64>,
}

/// A paired difference between two arms, over the seeds that both have.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The arm.
    pub arm: String,
    /// The arm it is compared with.
    pub versus: String,
    /// `ID`, `OOD` or a set's name.
    pub on: String,
    /// Mean of arm - versus, as a fraction.
    pub mean: f64,
    /// Standard error of that mean; none with one pair.
    pub se: Option<f64>,
    /// Seeds that both have.
    pub pairs: usize,
    /// Seeds on which the arm is better.
    pub wins: usize,
}

/// Accuracy of one arm over training steps.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The arm.
    pub arm: String,
    /// (step, in-distribution, out-of-distribution), by step; step 0 is the baseline where it is known.
    pub points: Vec<CurvePoint>,
}

/// One evaluation on a curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CurvePoint {
    /// The training step.
    pub step: u64,
    /// Mean over the in-distribution sets.
    pub id: Option<Estimate>,
    /// Mean over the out-of-distribution sets.
    pub ood: Option<Estimate>,
}

/// What it took to train an arm.
#[derive(Clone, Debug, Serialize)]
pub struct ArmTime {
    /// The arm.
    pub arm: String,
    /// Seconds of training, mean over seeds.
    pub training: f64,
    /// Seconds of the rollout scoring that its training set needed; 0 where none.
    pub scoring: f64,
}

/// Samples by the number of right answers.
#[derive(Clone, Debug, Serialize)]
pub struct PassRates {
    /// Answers per sample.
    pub n: u32,
    /// For each count of right answers present, ascending: (count, samples, bin).
    pub counts: Vec<CountBar>,
    /// The bins, easiest first.
    pub bins: Vec<String>,
}

/// One bar of the pass-rate histogram.
#[derive(Clone, Debug, Serialize)]
pub struct CountBar {
    /// Right answers of a sample.
    pub correct: u32,
    /// How many samples.
    pub samples: u64,
    /// The bin that holds them, if one does.
    pub bin: Option<String>,
}

/// Share of the policy gradient by difficulty bin.
#[derive(Clone, Debug, Serialize)]
pub struct ImplicitFilter {
    /// The bins, easiest first; shares below are in this order.
    pub bins: Vec<String>,
    /// Share of the samples seen.
    pub samples: Vec<f64>,
    /// Share of the gradient over the whole run.
    pub gradient: Vec<f64>,
    /// Share of the gradient at each logged step.
    pub steps: Vec<FilterStep>,
}

/// One logged step of the implicit filter.
#[derive(Clone, Debug, Serialize)]
pub struct FilterStep {
    /// The training step.
    pub step: u64,
    /// Share of the gradient by bin; all zero where no group had an advantage.
    pub shares: Vec<f64>,
    /// Share of groups with a non-zero advantage.
    pub active: f64,
}

/// Samples of one bin.
#[derive(Clone, Debug, Serialize)]
pub struct GalleryBin {
    /// The bin.
    pub bin: String,
    /// Its samples.
    pub samples: Vec<GallerySample>,
}

/// One sample with what the model answered.
#[derive(Clone, Debug, Serialize)]
pub struct GallerySample {
    /// The image's bytes.
    #[serde(skip)]
    pub image: Vec<u8>,
    /// Its media type, such as `image/png`.
    pub media_type: String,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
    /// Distinct answers of the model with how often each was given, most frequent first.
    pub answers: Vec<(String, u32)>,
    /// Right answers.
    pub correct: u32,
    /// Answers in all.
    pub n: u32,
}

/// A stage of the spec in the DAG figure, with all its cells.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageBox {
    /// Its name in the spec.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// Concrete stages.
    pub cells: usize,
    /// Of these: found in the cache by the last run.
    pub cached: usize,
    /// Of these: executed by the last run.
    pub executed: usize,
    /// Of these: failed.
    pub failed: usize,
    /// Seconds of computing, of all cells, whenever it was done.
    pub seconds: f64,
    /// Indices of the stages it reads from.
    pub after: Vec<usize>,
}

/// One concrete stage in the node table.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// Stage name and axes.
    pub title: String,
    /// Its kind.
    pub kind: String,
    /// `cached`, `executed`, `failed` or `not run`.
    pub state: String,
    /// Seconds of computing.
    pub seconds: Option<f64>,
    /// First digits of its key.
    pub key: Option<String>,
}
