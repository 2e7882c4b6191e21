//! `rollout`: n sampled answers for each sample, with log-probabilities and rewards.

use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Family, FileParam, Forecast, InputDecl, KindDecl, OutputDecl,
    ParamProblem, Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::generate::LOWEST_TEMPERATURE;
use dcsft_vlm::model::{Completion, Sampling, Tokenizer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answers::{Request, ask_all, ask_shard, grader, reward_problems};
use crate::data::{Generation, RolloutRecord, RolloutWriter, Sample, Shown};
use crate::frames::warn_of_loose_boxes;
use crate::lent::Lent;
use crate::memory;
use crate::misfit::{Dropped, OnError};
use crate::reward::{self, Asked, Grader, Reward};
use crate::shown_set::ShownSet;
use crate::skipped;
use crate::writing::Writing;

/// `with:` of `rollout`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutParams {
    /// Answers sampled for each sample.
    #[schemars(range(min = 1))]
    pub n: u32,
    /// Logits are divided by it before sampling; 0 takes the likeliest token always.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Sampling is cut to the smallest set of tokens whose probability reaches this; 1 switches it off.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub top_p: f64,
    /// Sampling is cut to the k likeliest tokens; 0 switches it off.
    pub top_k: usize,
    /// What makes an answer right.
    pub reward: Reward,
    /// Seed of the draws. A draw is keyed by seed, sample, generation and position, so it depends neither on the
    /// other samples nor on `n`.
    pub seed: u64,
    /// What happens to a sample that the model cannot take.
    pub on_error: OnError,
    /// How answers are written.
    #[serde(flatten)]
    pub writing: Writing,
    /// Model and set.
    #[serde(flatten)]
    pub set: ShownSet,
}

impl Default for RolloutParams {
    fn default() -> Self {
        Self {
            n: 8,
            temperature: 0.9,
            top_p: 1.0,
            top_k: 50,
            reward: Reward::default(),
            seed: 0,
            on_error: OnError::default(),
            writing: Writing::default(),
            set: ShownSet::default(),
        }
    }
}

/// The stage kind.
pub struct Rollout;

impl Stage for Rollout {
    type Params = RolloutParams;
    const DECL: KindDecl = KindDecl {
        name: "rollout",
        version: 4,
        summary: "Samples n answers per sample and scores them",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Model],
                doc: "The model that answers.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The samples it is asked about.",
            },
        ],
        numeric: true,
        labelled: false,
        shardable: true,
        paths: &[reward::FILES],
    };

    fn outputs(_params: &RolloutParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("rollouts", ArtifactType::Rollouts)]
    }

    fn files(params: &RolloutParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        params.reward.files(root)
    }

    fn check(params: &RolloutParams) -> Vec<ParamProblem> {
        check_sampling(params.temperature, params.top_p)
            .chain(params.writing.problems())
            .chain((params.n == 0).then(|| ParamProblem::new("n", "must be at least 1, not 0")))
            .chain(reward_problems(&params.reward))
            .chain(params.set.problems())
            .collect()
    }

    /// An answer depends on model, sample and sampling settings alone, so `n`, the set and the reward may differ.
    fn family(params: &RolloutParams) -> Option<Family> {
        let mut params = serde_json::to_value(params).ok()?;
        let fields = params.as_object_mut()?;
        for other in ["n", "reward", "on_error", "max_dropped", "on_empty"] {
            fields.remove(other);
        }
        Some(Family {
            params,
            inputs: &["model"],
        })
    }

    fn forecast(params: &RolloutParams, prospect: &Prospect) -> Forecast {
        memory::ask(
            prospect,
            params.n,
            params.writing.max_new_tokens,
            params.set.limits(),
        )
    }

    fn run(params: RolloutParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.set.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let (model, data) = params.set.open(ctx)?;
        let request = Request {
            sampling: Sampling {
                temperature: params.temperature,
                top_p: params.top_p,
                top_k: params.top_k,
                repetition_penalty: params.writing.repetition_penalty,
                max_new_tokens: params.writing.max_new_tokens,
                seed: params.seed,
            },
            n: params.n,
            lent: Lent::from_relatives(ctx),
            prompt: None,
            reward: &params.reward,
        };
        if let Some(shard) = ctx.shard() {
            return ask_shard(ctx, shard, model.as_ref(), &data, &request, params.on_error);
        }
        let dir = ctx.output("rollouts")?;
        let info = data.info();
        let mut writer = RolloutWriter::create(&dir, &info.set, info.split, params.n as usize)?;
        let mut totals = Totals::new(params.n);
        let grader = grader(&params.reward, ctx)?;
        let mut dropped = Dropped::new(params.on_error, "rollouts");
        warn_of_loose_boxes(ctx, &data, model.as_ref());
        ask_all(
            ctx,
            model.as_ref(),
            &data,
            &request,
            &mut dropped,
            |row, completions| {
                let sample = &data.samples()[row];
                let right = Shown::new(sample, model.as_ref()).right();
                let generations =
                    generations(sample, completions, &right, &grader, model.tokenizer())
                        .map_err(StageError::failed)?;
                let record = RolloutRecord {
                    id: sample.id.clone(),
                    generations,
                };
                totals.add(&record);
                Ok(writer.push(&record)?)
            },
        )?;
        grader.finish().map_err(StageError::failed)?;
        dropped.ensure_some_left(data.len(), "ask")?;
        writer.finish()?;
        dropped.finish(ctx, data.len(), params.set.max_dropped)?;
        ctx.summarise(totals.summary());
        Ok(())
    }
}

fn check_sampling(temperature: f64, top_p: f64) -> impl Iterator<Item = ParamProblem> {
    let draws = temperature.is_finite() && temperature >= LOWEST_TEMPERATURE;
    let temperature = (temperature != 0.0 && !draws).then(|| {
        ParamProblem::new(
            "temperature",
            format!("must be 0 (greedy) or at least {LOWEST_TEMPERATURE}, not {temperature}"),
        )
    });
    let top_p = (!(top_p > 0.0 && top_p <= 1.0)).then(|| {
        ParamProblem::new(
            "top_p",
            format!("must be above 0 and at most 1, not {top_p}"),
        )
    });
    temperature.into_iter().chain(top_p)
}

/// The answers to a sample with their rewards.
fn generations(
    sample: &Sample,
    completions: Vec<Completion>,
    answer: &str,
    grader: &Grader<'_>,
    tokenizer: &dyn Tokenizer,
) -> Result<Vec<Generation>, String> {
    let decode = |completion: &Completion| tokenizer.decode_answer(&completion.tokens);
    let texts: Vec<String> = completions.iter().map(decode).collect();
    let asked = texts.iter().map(|text| Asked {
        id: &sample.id,
        prompt: &sample.prompt,
        completion: text,
        answer,
    });
    let rewards = grader.grade(&asked.collect::<Vec<_>>())?;
    let parts = completions.into_iter().zip(texts).zip(rewards);
    let generation = |((completion, text), reward): ((Completion, String), f32)| Generation {
        text,
        tokens: completion.tokens,
        logprobs: completion.logprobs,
        reward,
        finished: completion.finished,
    };
    Ok(parts.map(generation).collect())
}

/// Sums for the summary, in whole numbers.
struct Totals {
    n: u32,
    samples: u64,
    right: u64,
    tokens: u64,
    unfinished: u64,
    /// How many samples have c right answers, by c.
    histogram: Vec<u64>,
}

impl Totals {
    fn new(n: u32) -> Self {
        Self {
            n,
            samples: 0,
            right: 0,
            tokens: 0,
            unfinished: 0,
            histogram: vec![0; n as usize + 1],
        }
    }

    fn add(&mut self, record: &RolloutRecord) {
        let right = record.right();
        self.samples += 1;
        self.right += right as u64;
        self.histogram[right] += 1;
        for generation in &record.generations {
            self.tokens += generation.tokens.len() as u64;
            self.unfinished += u64::from(!generation.finished);
        }
    }

    fn summary(&self) -> serde_json::Value {
        let answers = self.samples * u64::from(self.n);
        let per_answer = |sum: u64| sum as f64 / answers.max(1) as f64;
        json!({
            "samples": self.samples,
            "n": self.n,
            "answers": answers,
            "pass_rate": per_answer(self.right),
            "right_histogram": self.histogram,
            "mean_tokens": per_answer(self.tokens),
            "unfinished": self.unfinished,
        })
    }
}
