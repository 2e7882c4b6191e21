//! The pass-rate histogram: how many samples were answered right how often.

use std::collections::{BTreeMap, BTreeSet};

use dcsft_engine::stage::{Input, StageError};
use serde::{Deserialize, Serialize};

use super::source::Source;
use crate::difficulty::Scores;

/// Samples by the number of right answers, of one difficulty stage and one number of answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PassRates {
    /// Whose scores these are.
    pub source: Source,
    /// Answers per sample.
    pub n: u64,
    /// Names of the bins, in the order of the spec.
    pub bins: Vec<String>,
    /// One entry per count of right answers that occurs and its bin, ascending.
    pub counts: Vec<CountBar>,
}

/// One bar of the histogram.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CountBar {
    /// Right answers of a sample.
    pub correct: u64,
    /// The bin that holds them, if one does.
    pub bin: Option<String>,
    /// How many samples.
    pub samples: u64,
}

/// The histograms of all difficulty inputs. Scores without counts have none.
pub(super) fn read(inputs: &[Input]) -> Result<Vec<PassRates>, StageError> {
    let mut all = Vec::new();
    for input in inputs {
        let scores = Scores::open(&input.dir)?;
        let mut counts: BTreeMap<(u64, u64, Option<&str>), u64> = BTreeMap::new();
        for record in &scores.records {
            if let (Some(c), Some(n)) = (record.c, record.n) {
                *counts.entry((n, c, record.bin.as_deref())).or_default() += 1;
            }
        }
        let sizes: BTreeSet<u64> = counts.keys().map(|(n, _, _)| *n).collect();
        all.extend(sizes.into_iter().map(|size| {
            PassRates {
                source: Source::from(&input.label),
                n: size,
                bins: scores.bin_names(),
                counts: counts
                    .iter()
                    .filter(|((n, _, _), _)| *n == size)
                    .map(|((_, c, bin), samples)| CountBar {
                        correct: *c,
                        bin: bin.map(str::to_owned),
                        samples: *samples,
                    })
                    .collect(),
            }
        }));
    }
    Ok(all)
}
