//! Which bin a sample belongs to.

use std::collections::BTreeMap;

use dcsft_engine::stage::StageError;

use super::params::{Bin, DifficultyParams, Quantiles, Uncovered};

/// What is known of a scored sample.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    /// Index in the dataset.
    pub(super) row: usize,
    /// Content ID.
    pub(super) id: String,
    /// Right answers of all answers.
    pub(super) count: Option<(u64, u64)>,
    /// The score for quantiles.
    pub(super) score: Option<f64>,
}

/// The number of each sample's bin, or none.
pub(super) fn assign(
    params: &DifficultyParams,
    samples: &[Scored],
) -> Result<Vec<Option<usize>>, StageError> {
    match &params.quantiles {
        Some(quantiles) => Ok(by_rank(quantiles, samples)),
        None => by_count(&params.bins.0, params.uncovered, samples),
    }
}

/// Every count from 0 to n has to be in exactly one bin, whether a sample has it or not: a partition that
/// holds by luck would fail on the next model.
fn by_count(
    bins: &[Bin],
    uncovered: Uncovered,
    samples: &[Scored],
) -> Result<Vec<Option<usize>>, StageError> {
    let mut tables: BTreeMap<u64, Vec<Option<usize>>> = BTreeMap::new();
    for (_, n) in samples.iter().filter_map(|sample| sample.count) {
        if let std::collections::btree_map::Entry::Vacant(entry) = tables.entry(n) {
            entry.insert(table(bins, n, uncovered)?);
        }
    }
    let bin = |sample: &Scored| sample.count.and_then(|(c, n)| tables[&n][c as usize]);
    Ok(samples.iter().map(bin).collect())
}

/// Bin by count, for counts 0 to `n`.
fn table(bins: &[Bin], n: u64, uncovered: Uncovered) -> Result<Vec<Option<usize>>, StageError> {
    let mut table = Vec::new();
    let mut nowhere = Vec::new();
    for c in 0..=n {
        let mut found = bins
            .iter()
            .enumerate()
            .filter(|(_, bin)| bin.interval.contains(c, n));
        let first = found.next();
        if let (Some((_, one)), Some((_, other))) = (first, found.next()) {
            return Err(StageError::failed(format!(
                "{c}/{n} is in two bins, `{}: {}` and `{}: {}`; make them disjoint",
                one.name,
                one.interval.text(),
                other.name,
                other.interval.text()
            )));
        }
        if first.is_none() {
            nowhere.push(format!("{c}/{n}"));
        }
        table.push(first.map(|(index, _)| index));
    }
    if !nowhere.is_empty() && uncovered == Uncovered::Fail {
        return Err(StageError::failed(format!(
            "no bin covers {}; widen a bin, or set `uncovered: drop` to leave such samples out",
            nowhere.join(", ")
        )));
    }
    Ok(table)
}

/// Ranks by score; equal scores by content ID, so that the result does not hang on the order of rows.
fn by_rank(quantiles: &Quantiles, samples: &[Scored]) -> Vec<Option<usize>> {
    let mut order: Vec<usize> = (0..samples.len())
        .filter(|index| samples[*index].score.is_some())
        .collect();
    order.sort_by(|&a, &b| {
        let key = |index: usize| {
            (
                samples[index].score.unwrap_or_default(),
                samples[index].id.as_str(),
            )
        };
        let ((x, a), (y, b)) = (key(a), key(b));
        x.total_cmp(&y).then_with(|| a.cmp(b))
    });
    let ends: Vec<usize> = quantiles
        .edges
        .iter()
        .map(|edge| super::select::share(*edge, order.len()))
        .collect();
    let mut bins = vec![None; samples.len()];
    for (rank, index) in order.into_iter().enumerate() {
        bins[index] = Some(ends.iter().filter(|end| rank >= **end).count());
    }
    bins
}
