//! The stage `difficulty`: from sampled answers to named bins, unions of them and random controls.
//!
//! A sample's difficulty is how many of its answers are right, c of n, compared in integers. Samples join by
//! content ID.

mod assign;
mod interval;
mod params;
pub mod published;
mod scores;
mod select;
mod summary;

pub use interval::Interval;
pub use params::{Bin, Bins, DifficultyParams, Keep, Quantiles, Uncovered};
pub use scores::{ScoreRecord, Scores};

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Fact, FileParam, Forecast, InputDecl, KindDecl, OutputDecl,
    ParamProblem, Prospect, Stage, StageContext, StageError,
};
use dcsft_tensor::rng::StreamKey;
use serde::Deserialize;

use crate::OnEmpty;
use crate::data::{Dataset, RolloutRecord, Rollouts};
use crate::memory::DataFacts;
use crate::misfit::{Dropped, Misfit, OnError};
use crate::skipped;
use assign::{Scored, assign};
use summary::{summarise, warnings};

/// The stage kind `difficulty`.
pub struct Difficulty;

impl Stage for Difficulty {
    type Params = DifficultyParams;
    const DECL: KindDecl = KindDecl {
        name: "difficulty",
        version: 2,
        summary: "Bins samples by how many of their sampled answers are right",
        inputs: &[
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The samples to cut into bins.",
            },
            InputDecl {
                name: "rollouts",
                cardinality: Cardinality::Optional,
                accepts: &[ArtifactType::Rollouts],
                doc: "Sampled answers to them, with rewards. Only bins by an outside score do without.",
            },
        ],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["scores"]],
    };

    fn outputs(params: &DifficultyParams) -> Vec<OutputDecl> {
        let mut out = vec![
            OutputDecl::new("scores", ArtifactType::Difficulty),
            OutputDecl::new("all", ArtifactType::Dataset),
        ];
        let sets = set_names(params);
        out.extend(
            sets.iter()
                .map(|name| OutputDecl::new(name, ArtifactType::Dataset)),
        );
        if params.controls {
            out.extend(
                sets.iter()
                    .map(|name| OutputDecl::new(control_name(name), ArtifactType::Dataset)),
            );
        }
        out
    }

    fn check(params: &DifficultyParams) -> Vec<ParamProblem> {
        params.problems()
    }

    fn files(params: &DifficultyParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let file = |path: &String| FileParam {
            field: "scores".into(),
            files: vec![(String::new(), root.join(path))],
            required: true,
        };
        Ok(params.scores.iter().map(file).collect())
    }

    /// A bin's samples are like those of the whole set, and at most as many.
    fn forecast(params: &DifficultyParams, prospect: &Prospect) -> Forecast {
        if !prospect.memory {
            return Forecast::default();
        }
        let whole = DataFacts::of(prospect);
        let sets = Self::outputs(params)
            .into_iter()
            .filter(|output| output.artifact == ArtifactType::Dataset);
        let facts = sets.map(|OutputDecl { name, .. }| {
            let subset = whole.subset(prospect.outputs.get(&name).map(PathBuf::as_path));
            (name, Fact::new(subset))
        });
        Forecast {
            facts: facts.collect(),
            ..Forecast::default()
        }
    }

    fn run(params: DifficultyParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, OnEmpty::Fail)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let data = Dataset::open(&ctx.input("data")?.dir)?;
        let rollouts = ctx
            .optional("rollouts")
            .map(|input| Rollouts::open(&input.dir))
            .transpose()?;
        let samples = score(&params, &data, rollouts.as_ref())?;
        if (samples.len() as u64) < params.min_valid {
            return Err(StageError::failed(format!(
                "{} samples of {} have a score; min_valid asks for {}",
                samples.len(),
                data.len(),
                params.min_valid
            )));
        }
        let bins = assign(&params, &samples)?;
        let sets = cut(&params, &samples, &bins);
        for (name, rows) in &sets {
            data.write_subset(ctx, &ctx.output(name)?, rows)?;
        }
        let summary = summarise(&params, &data, &samples, &bins, &sets);
        for warning in warnings(&params, &samples, &sets) {
            ctx.warn(warning);
        }
        leave_out(ctx, &data, &samples, &bins)?;
        let names = params.bin_names();
        let records = samples
            .into_iter()
            .zip(&bins)
            .map(|(sample, bin)| ScoreRecord {
                id: sample.id,
                c: sample.count.map(|(c, _)| c),
                n: sample.count.map(|(_, n)| n),
                score: sample.score,
                bin: bin.map(|bin| names[bin].to_owned()),
            })
            .collect();
        Scores {
            records,
            summary: summary.clone(),
        }
        .write(&ctx.output("scores")?)?;
        ctx.summarise(summary);
        Ok(())
    }
}

/// Counts and lists the samples that are in no set: without a score, or without a bin.
fn leave_out(
    ctx: &mut StageContext,
    data: &Dataset,
    samples: &[Scored],
    bins: &[Option<usize>],
) -> Result<(), StageError> {
    let mut scored = samples.iter().zip(bins).peekable();
    let mut dropped = Dropped::new(OnError::Drop, "scores");
    for (row, sample) in data.samples().iter().enumerate() {
        let found = scored.next_if(|(scored, _)| scored.row == row);
        let misfit = match found {
            None => Misfit::new("no_score", &sample.id, "it has no answers and no score"),
            Some((scored, None)) => {
                let count = scored.count.map(|(c, n)| format!("no bin covers {c}/{n}"));
                let detail = count.unwrap_or_else(|| "it has no score".to_owned());
                Misfit::new("no_bin", &sample.id, detail)
            }
            Some(_) => continue,
        };
        dropped.add(ctx, misfit)?;
    }
    dropped.finish(ctx, data.len(), None)?;
    Ok(())
}

/// Bins and unions, in the order of the spec.
fn set_names(params: &DifficultyParams) -> Vec<String> {
    let bins = params.bin_names().into_iter().map(str::to_owned);
    bins.chain(params.unions.iter().map(|union| union.join("+")))
        .collect()
}

fn control_name(set: &str) -> String {
    format!("random-{set}")
}

/// The samples of `data` that have what bins are made by, in the set's order.
fn score(
    params: &DifficultyParams,
    data: &Dataset,
    rollouts: Option<&Rollouts>,
) -> Result<Vec<Scored>, StageError> {
    let outside = params
        .scores
        .as_ref()
        .map(|path| outside_scores(&PathBuf::from(path), data))
        .transpose()?;
    if rollouts.is_none() && outside.is_none() {
        return Err(StageError::failed(
            "give `rollouts`, or `quantiles` with a file of `scores`",
        ));
    }
    let records: HashMap<&str, &RolloutRecord> = rollouts
        .iter()
        .flat_map(|rollouts| &rollouts.records)
        .map(|record| (record.id.as_str(), record))
        .collect();
    if let Some(rollouts) = rollouts {
        let strangers: Vec<&RolloutRecord> = rollouts
            .records
            .iter()
            .filter(|record| data.position(&record.id).is_none())
            .collect();
        if let Some(first) = strangers.first() {
            return Err(StageError::failed(format!(
                "{} of {} rollouts are of samples that the set `{}` does not have (first {}); give the set that was asked",
                strangers.len(),
                rollouts.records.len(),
                data.info().set,
                first.id
            )));
        }
    }
    let sample = |(row, sample): (usize, &crate::data::Sample)| {
        let record = records.get(sample.id.as_str());
        let score = match (&params.quantiles, &outside) {
            (None, _) => None,
            (Some(_), Some(outside)) => Some(*outside.get(&sample.id)?),
            (Some(_), None) => Some(surprise(record?)),
        };
        let count = record.map(|record| (record.right() as u64, record.generations.len() as u64));
        (count.is_some() || score.is_some()).then(|| Scored {
            row,
            id: sample.id.clone(),
            count,
            score,
        })
    };
    Ok(data
        .samples()
        .iter()
        .enumerate()
        .filter_map(sample)
        .collect())
}

/// Mean negative log-probability of the tokens of all answers, summed in order.
fn surprise(record: &RolloutRecord) -> f64 {
    let tokens = record
        .generations
        .iter()
        .flat_map(|generation| &generation.logprobs);
    let (sum, count) = tokens.fold((0.0, 0_u64), |(sum, count), logprob| {
        (sum - f64::from(*logprob), count + 1)
    });
    sum / count.max(1) as f64
}

/// Scores by content ID out of a JSONL file.
fn outside_scores(path: &Path, data: &Dataset) -> Result<BTreeMap<String, f64>, StageError> {
    #[derive(Deserialize)]
    struct Line {
        id: String,
        score: f64,
    }
    let lines: Vec<Line> = crate::data::read_lines(path)?;
    let mut scores = BTreeMap::new();
    for (index, Line { id, score }) in lines.into_iter().enumerate() {
        let wrong = |message: String| {
            StageError::failed(format!("{}: line {}: {message}", path.display(), index + 1))
        };
        if data.position(&id).is_none() {
            return Err(wrong(format!(
                "the set `{}` has no sample {id}",
                data.info().set
            )));
        }
        if scores.insert(id.clone(), score).is_some() {
            return Err(wrong(format!("{id} has a score already")));
        }
    }
    Ok(scores)
}

/// Rows of `all`, of each bin and union, and of each control, by name.
fn cut(
    params: &DifficultyParams,
    samples: &[Scored],
    bins: &[Option<usize>],
) -> Vec<(String, Vec<usize>)> {
    let scored: Vec<(usize, &str)> = samples
        .iter()
        .map(|sample| (sample.row, sample.id.as_str()))
        .collect();
    let kept: Vec<Vec<usize>> = (0..params.bin_names().len())
        .map(|bin| {
            let members: Vec<(usize, &str)> = scored
                .iter()
                .zip(bins)
                .filter(|(_, found)| **found == Some(bin))
                .map(|(item, _)| *item)
                .collect();
            let count = select::share(params.keep(bin), members.len());
            select::choose(
                &StreamKey::new("difficulty keep", params.seed),
                &members,
                count,
            )
        })
        .collect();
    let number: HashMap<&str, usize> = params.bin_names().into_iter().zip(0..).collect();
    let unions = params.unions.iter().map(|union| {
        let mut rows: Vec<usize> = union
            .iter()
            .flat_map(|name| &kept[number[name.as_str()]])
            .copied()
            .collect();
        rows.sort_unstable();
        rows
    });
    let sets: Vec<(String, Vec<usize>)> = set_names(params)
        .into_iter()
        .zip(kept.iter().cloned().chain(unions))
        .collect();
    let mut out = vec![(
        "all".to_owned(),
        scored.iter().map(|(row, _)| *row).collect(),
    )];
    out.extend(sets.iter().cloned());
    if params.controls {
        out.extend(sets.iter().map(|(name, rows)| {
            let key = StreamKey::new("difficulty control", params.seed).text(name);
            (
                control_name(name),
                select::choose(&key, &scored, rows.len()),
            )
        }));
    }
    out
}
