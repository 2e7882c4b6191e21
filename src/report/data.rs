//! What the report shows, as plain data: figures and pages are pure functions of these types.
//!
//! Accuracies and shares are fractions in 0..=1, times are seconds.

use dcsft_engine::results::paired::Paired;
use dcsft_engine::results::statistics::{Estimate, Gap, Spread};
use serde::Serialize;

/// Everything one report shows.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ReportData {
    /// `name:` of the spec.
    pub(crate) study: String,
    /// File name and text of the spec and of those it extends.
    pub(crate) sources: Vec<(String, String)>,
    /// `--set` overrides, as given.
    pub(crate) overrides: Vec<String>,
    /// Facts of the last run.
    pub(crate) facts: Vec<Fact>,
    /// Arm that every other arm is compared with.
    pub(crate) baseline: Option<String>,
    /// How intervals in tables and figures are to be read.
    pub(crate) spread: Spread,
    /// Accuracy of each arm at its last step.
    pub(crate) table: ResultTable,
    /// Paired differences over seeds.
    pub(crate) differences: Vec<Difference>,
    /// Comparisons of single runs, sample by sample.
    pub(crate) comparisons: Vec<Comparison>,
    /// Comparisons at matched in-distribution accuracy.
    pub(crate) matched: Vec<MatchedGap>,
    /// Accuracy over training steps.
    pub(crate) curves: Vec<Curve>,
    /// Training time of arms.
    pub(crate) times: Vec<ArmTime>,
    /// What these times are.
    pub(crate) timing: Timing,
    /// How many samples were answered right how often.
    pub(crate) histogram: Option<PassRates>,
    /// Which difficulty the policy gradient came from.
    pub(crate) filter: Option<ImplicitFilter>,
    /// Samples of each bin, easiest bin first.
    pub(crate) gallery: Vec<GalleryBin>,
    /// What was left out, and what else the numbers do not say by themselves.
    pub(crate) notes: Vec<String>,
    /// The stages of the spec.
    pub(crate) stages: Vec<StageBox>,
    /// Every concrete stage.
    pub(crate) nodes: Vec<NodeRow>,
}

/// A line of the run facts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Fact {
    /// What it is.
    pub(crate) name: String,
    /// Its value, as text.
    pub(crate) value: String,
}

/// Arms by evaluation sets.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ResultTable {
    /// The sets, in-distribution ones first: (name, is out of distribution).
    pub(crate) sets: Vec<(String, bool)>,
    /// The arms, in the order of the spec.
    pub(crate) rows: Vec<ArmRow>,
    /// The most seeds that an arm has; 1 where there are none.
    pub(crate) seeds: usize,
}

impl ResultTable {
    /// Whether means over seeds stand beside single runs.
    pub(crate) fn is_mixed(&self) -> bool {
        let cells = self.rows.iter().flat_map(|row| row.cells.iter().flatten());
        self.seeds > 1 && cells.into_iter().any(|cell| cell.runs == 1)
    }

    /// Whether some arm has fewer seeds than another, on some set.
    pub(crate) fn lacks_seeds(&self) -> bool {
        let lacks = |row: &ArmRow| row.seeds.is_some_and(|seeds| seeds < self.seeds);
        let cell = |row: &ArmRow| {
            let seeds = row.seeds;
            row.cells
                .iter()
                .flatten()
                .any(|cell| seeds.is_some_and(|seeds| cell.runs < seeds))
        };
        self.seeds > 1 && self.rows.iter().any(|row| lacks(row) || cell(row))
    }
}

/// One arm's accuracies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ArmRow {
    /// The arm, with the axes in which its rows differ.
    pub(crate) arm: String,
    /// The training step, where the arm was evaluated at several.
    pub(crate) step: Option<u64>,
    /// How many seeds the arm has; none where the axis does not touch it.
    pub(crate) seeds: Option<usize>,
    /// One cell per set of the table; none where it was not evaluated.
    pub(crate) cells: Vec<Option<Estimate>>,
    /// Mean over the in-distribution sets.
    pub(crate) id: Option<Estimate>,
    /// Mean over the out-of-distribution sets.
    pub(crate) ood: Option<Estimate>,
    /// Share of answers in the task's format, over the in-distribution sets.
    pub(crate) format: Option<f64>,
    /// Seconds of training, where the arm was trained.
    pub(crate) seconds: Option<f64>,
}

/// Two arms compared seed by seed.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Difference {
    /// The arm.
    pub(crate) arm: String,
    /// The arm it is compared with.
    pub(crate) versus: String,
    /// In distribution.
    pub(crate) id: Option<Gap>,
    /// Out of distribution.
    pub(crate) ood: Option<Gap>,
}

/// Two arms over all their settings, compared where both reach the same in-distribution accuracy.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MatchedGap {
    /// The arm.
    pub(crate) arm: String,
    /// The arm it is compared with.
    pub(crate) versus: String,
    /// Difference of out-of-distribution accuracy; none where their ranges of ID do not overlap with any seed.
    pub(crate) gap: Option<Gap>,
    /// The range of ID that was compared, mean over the seeds.
    pub(crate) range: Option<[f64; 2]>,
    /// Seeds that both have and whose ranges of ID do not overlap.
    pub(crate) apart: usize,
}

/// Two arms that answered the same samples, one run each.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// The arm.
    pub(crate) arm: String,
    /// The arm it is compared with.
    pub(crate) versus: String,
    /// The seed that both have; empty without seeds.
    pub(crate) seed: String,
    /// Set by set.
    pub(crate) sets: Vec<SetComparison>,
    /// Over the in-distribution sets, where there are several: difference and its 95% interval.
    pub(crate) id: Option<(f64, [f64; 2])>,
    /// Over the out-of-distribution sets, likewise.
    pub(crate) ood: Option<(f64, [f64; 2])>,
}

/// Two arms on one set.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SetComparison {
    /// The set.
    pub(crate) set: String,
    /// It is out of distribution.
    pub(crate) ood: bool,
    /// The comparison on the samples that both answered.
    #[serde(flatten)]
    pub(crate) paired: Paired,
    /// Samples that only one of them answered.
    pub(crate) unshared: u64,
}

/// Accuracy of one arm over training steps.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Curve {
    /// The arm.
    pub(crate) arm: String,
    /// (step, in-distribution, out-of-distribution), by step; step 0 is the baseline where it is known.
    pub(crate) points: Vec<CurvePoint>,
}

/// One evaluation on a curve.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CurvePoint {
    /// The training step.
    pub(crate) step: u64,
    /// Mean over the in-distribution sets.
    pub(crate) id: Option<Estimate>,
    /// Mean over the out-of-distribution sets.
    pub(crate) ood: Option<Estimate>,
}

/// What it took to train an arm.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ArmTime {
    /// The arm.
    pub(crate) arm: String,
    /// Seconds of training, mean over seeds, by the clock of [`Timing`].
    pub(crate) training: f64,
    /// Seconds of the rollout scoring that its training set needed; 0 where none.
    pub(crate) scoring: f64,
}

/// By which clock training is measured; one for all arms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Clock {
    /// Processor seconds of all threads: what the work takes, whatever else runs beside it.
    #[default]
    Cpu,
    /// Wall time, since a stage ran on an accelerator, where it is what counts.
    WallOnGpu,
    /// Wall time, since a record does not say its processor time.
    WallForWant,
}

/// What the times of a study's arms are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Timing {
    /// The clock.
    pub(crate) clock: Clock,
    /// Stages that were timed.
    pub(crate) stages: usize,
    /// Those of them that had to share the processor with other programs, as far as is known.
    pub(crate) shared: usize,
}

impl Timing {
    /// `CPU time` or `wall time`.
    pub(crate) fn name(&self) -> &'static str {
        match self.clock {
            Clock::Cpu => "CPU time",
            Clock::WallOnGpu | Clock::WallForWant => "wall time",
        }
    }

    /// The heading of a column.
    pub(crate) fn heading(&self) -> &'static str {
        match self.clock {
            Clock::Cpu => "training (CPU)",
            Clock::WallOnGpu | Clock::WallForWant => "training (wall)",
        }
    }

    /// What the times are and what is to be thought of them, in sentences.
    pub(crate) fn words(&self) -> String {
        let what = match self.clock {
            Clock::Cpu => "Training time is CPU time: processor seconds of all threads.",
            Clock::WallOnGpu => "Training time is wall time, since stages ran on a GPU.",
            Clock::WallForWant => {
                "Training time is wall time, since older results do not say their CPU time."
            }
        };
        let Self { stages, shared, .. } = self;
        let effect = match self.clock {
            Clock::Cpu => "CPU times are then somewhat too long",
            Clock::WallOnGpu | Clock::WallForWant => "wall times are then too long",
        };
        match shared {
            0 => what.to_owned(),
            _ => format!(
                "{what} While {shared} of the {stages} timed stages ran, other programs had part of the processor: \
                 {effect}."
            ),
        }
    }
}

/// Samples by the number of right answers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PassRates {
    /// Answers per sample.
    pub(crate) n: u64,
    /// For each count of right answers present, ascending: (count, samples, bin).
    pub(crate) counts: Vec<CountBar>,
    /// The bins, easiest first.
    pub(crate) bins: Vec<String>,
    /// Scored sets that are summed here: one per seed.
    pub(crate) cells: usize,
}

/// One bar of the pass-rate histogram.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CountBar {
    /// Right answers of a sample.
    pub(crate) correct: u64,
    /// How many samples.
    pub(crate) samples: u64,
    /// The bin that holds them, if one does.
    pub(crate) bin: Option<String>,
}

/// Share of the policy gradient by difficulty bin.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ImplicitFilter {
    /// The bins, easiest first; shares below are in this order.
    pub(crate) bins: Vec<String>,
    /// Share of the samples seen.
    pub(crate) samples: Vec<f64>,
    /// Share of the gradient over the whole run.
    pub(crate) gradient: Vec<f64>,
    /// Share of the reward term's gradient over the whole run; the rest is the pull of the KL term.
    pub(crate) reward: Vec<f64>,
    /// Share of the gradient that comes from groups with both right and wrong answers.
    pub(crate) mixed: f64,
    /// Share of the gradient at each logged step.
    pub(crate) steps: Vec<FilterStep>,
}

/// One logged step of the implicit filter.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FilterStep {
    /// The training step.
    pub(crate) step: u64,
    /// Share of the gradient by bin; all zero where no group had an advantage.
    pub(crate) shares: Vec<f64>,
    /// Share of groups with a non-zero advantage.
    pub(crate) active: f64,
}

/// Samples of one bin.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GalleryBin {
    /// The bin.
    pub(crate) bin: String,
    /// Its samples.
    pub(crate) samples: Vec<GallerySample>,
}

/// One sample with what the model answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GallerySample {
    /// The bytes of its first image, if it has one.
    #[serde(skip)]
    pub(crate) image: Option<Vec<u8>>,
    /// Its media type, such as `image/png`.
    pub(crate) media_type: String,
    /// The question.
    pub(crate) question: String,
    /// The right answer.
    pub(crate) answer: String,
    /// Distinct answers of the model with how often each was given, most frequent first.
    pub(crate) answers: Vec<(String, u64)>,
    /// Right answers.
    pub(crate) correct: u64,
    /// Answers in all.
    pub(crate) n: u64,
}

/// A stage of the spec in the DAG figure, with all its cells.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct StageBox {
    /// Its name in the spec.
    pub(crate) name: String,
    /// Its kind.
    pub(crate) kind: String,
    /// Concrete stages.
    pub(crate) cells: usize,
    /// Of these: found in the cache by the last run.
    pub(crate) cached: usize,
    /// Of these: executed by the last run.
    pub(crate) executed: usize,
    /// Of these: failed.
    pub(crate) failed: usize,
    /// Seconds of computing, of all cells, whenever it was done.
    pub(crate) seconds: f64,
    /// Indices of the stages it reads from.
    pub(crate) after: Vec<usize>,
}

/// One concrete stage in the node table.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeRow {
    /// Stage name and axes.
    pub(crate) title: String,
    /// Its kind.
    pub(crate) kind: String,
    /// `cached`, `executed`, `failed` or `not run`.
    pub(crate) state: String,
    /// Seconds of computing.
    pub(crate) seconds: Option<f64>,
    /// First digits of its key.
    pub(crate) key: Option<String>,
    /// Device, host, program and run that its result comes from.
    pub(crate) origin: Option<[String; 4]>,
}
