//! Pass rates, the implicit filter and the gallery: read from what the study's `report` stage wrote.

use std::path::{Path, PathBuf};

use dcsft_cache::Store;
use dcsft_stages::report as stage;
use serde::de::DeserializeOwned;

use super::Results;
use crate::report::data::{
    CountBar, FilterStep, GalleryBin, GallerySample, ImplicitFilter, PassRates,
};

/// Content of the study's finished `report` stage.
#[derive(Default)]
pub(super) struct Difficulty {
    pub(super) histogram: Option<PassRates>,
    pub(super) filter: Option<ImplicitFilter>,
    pub(super) gallery: Vec<GalleryBin>,
}

/// Reads it; what is not there, or written by another version, is left out.
pub(super) fn read(results: &Results<'_>, store: &Store) -> Difficulty {
    let Some(dir) = report_dir(results, store) else {
        return Difficulty::default();
    };
    Difficulty {
        histogram: json(&dir, "histogram.json")
            .and_then(|all: Vec<stage::PassRates>| pass_rates(&all)),
        filter: json(&dir, "implicit_filter.json")
            .and_then(|all: Vec<stage::ImplicitFilter>| filter(&all)),
        gallery: json(&dir, "gallery.json")
            .map(|bins: Vec<stage::GalleryBin>| gallery(bins, &dir))
            .unwrap_or_default(),
    }
}

/// The files of the first `report` stage that has a result.
fn report_dir(results: &Results<'_>, store: &Store) -> Option<PathBuf> {
    let nodes = results.study.nodes.iter().zip(results.records);
    let record = nodes
        .filter(|(node, _)| node.kind == "report")
        .find_map(|(_, record)| record.as_ref())?;
    Some(store.artifact_files(&record.outputs.get("report")?.digest))
}

fn json<T: DeserializeOwned>(dir: &Path, name: &str) -> Option<T> {
    let bytes = dcsft_cache::file::bytes(&dir.join(name)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The histogram of the first scored set, summed over those of its cells (seeds) that have the same bins and the
/// same number of answers.
fn pass_rates(all: &[stage::PassRates]) -> Option<PassRates> {
    let first = all.first()?;
    let alike = |one: &&stage::PassRates| {
        one.source.stage == first.source.stage && one.n == first.n && one.bins == first.bins
    };
    let mut counts: Vec<CountBar> = Vec::new();
    let mut cells = 0;
    for one in all.iter().filter(alike) {
        cells += 1;
        for bar in &one.counts {
            match counts
                .iter_mut()
                .find(|known| known.correct == bar.correct && known.bin == bar.bin)
            {
                Some(known) => known.samples += bar.samples,
                None => counts.push(CountBar {
                    correct: bar.correct,
                    samples: bar.samples,
                    bin: bar.bin.clone(),
                }),
            }
        }
    }
    counts.sort_by_key(|bar| bar.correct);
    Some(PassRates {
        n: first.n,
        counts,
        bins: first.bins.clone(),
        cells,
    })
}

/// The filter of the first arm, mean over its cells (seeds) that have the same bins and steps.
fn filter(all: &[stage::ImplicitFilter]) -> Option<ImplicitFilter> {
    let first = all.first()?;
    let alike: Vec<&stage::ImplicitFilter> = all
        .iter()
        .filter(|one| {
            one.source.arm == first.source.arm
                && one.bins == first.bins
                && one.steps.len() == first.steps.len()
        })
        .collect();
    let bins = first.bins.len();
    let steps = (0..first.steps.len()).map(|index| {
        let here: Vec<&stage::FilterStep> = alike.iter().map(|one| &one.steps[index]).collect();
        // A step without any gradient has no shares to count.
        let with = here
            .iter()
            .filter(|step| step.gradient.iter().sum::<f64>() > 0.0);
        FilterStep {
            step: here[0].step,
            shares: mean(bins, with.map(|step| step.gradient.as_slice())),
            active: here.iter().map(|step| step.active).sum::<f64>() / here.len() as f64,
        }
    });
    Some(ImplicitFilter {
        bins: first.bins.clone(),
        samples: mean(bins, alike.iter().map(|one| one.groups.as_slice())),
        gradient: mean(bins, alike.iter().map(|one| one.gradient.as_slice())),
        reward: mean(bins, alike.iter().map(|one| one.advantage.as_slice())),
        mixed: alike.iter().map(|one| one.mixed).sum::<f64>() / alike.len() as f64,
        steps: steps.collect(),
    })
}

/// The mean of rows of `width` numbers; zeros where there is no row.
fn mean<'a>(width: usize, rows: impl Iterator<Item = &'a [f64]>) -> Vec<f64> {
    let mut sums = vec![0.0; width];
    let mut count = 0.0;
    for row in rows {
        count += 1.0;
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
    }
    if count > 0.0 {
        sums.iter_mut().for_each(|sum| *sum /= count);
    }
    sums
}

fn gallery(bins: Vec<stage::GalleryBin>, dir: &Path) -> Vec<GalleryBin> {
    let sample = |sample: stage::GallerySample| {
        let image = match &sample.image {
            // The list is a file as any other: its names must not lead elsewhere.
            Some(name) if dcsft_cache::fault_of_path(name).is_some() => return None,
            Some(name) => Some(dcsft_cache::file::bytes(&dir.join(name)).ok()?),
            None => None,
        };
        Some(GallerySample {
            image,
            media_type: "image/png".to_owned(),
            question: sample.question.replace("<image>", "").trim().to_owned(),
            answer: sample.answer,
            answers: sample
                .answers
                .into_iter()
                .map(|answer| (answer.text, answer.count))
                .collect(),
            correct: sample.correct,
            n: sample.n,
        })
    };
    bins.into_iter()
        .map(|bin| GalleryBin {
            bin: bin.bin,
            samples: bin.samples.into_iter().filter_map(sample).collect(),
        })
        .filter(|bin| !bin.samples.is_empty())
        .collect()
}
