//! `grpo`: reinforcement learning from groups of sampled answers.

mod filter;
mod prompts;

use std::collections::BTreeSet;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Family, Forecast, InputDecl, KindDecl, OutputDecl, ParamProblem,
    Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::GRPO_LOSS;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoRecord, GrpoTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::OnEmpty;
use crate::answers::reward_problems;
use crate::data::{Dataset, write_json};
use crate::difficulty::Scores;
use crate::files::JsonLines;
use crate::frames::warn_of_loose_boxes;
use crate::memory;
use crate::misfit::{MaxDropped, OnError};
use crate::model::{self, PixelLimits};
use crate::reward::Reward;
use crate::skipped;
use crate::training::{self, Report, Run, train};
use filter::Bins;
use prompts::PromptSet;

/// `with:` of `grpo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GrpoParams {
    /// What makes an answer right.
    #[serde(default)]
    pub reward: Reward,
    /// Train adapters on these layers and freeze all other weights; without it all weights are trained. Their dropout
    /// acts in the updates, not where answers are drawn.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Leave the weights of these groups as they are. With `lora`, `targets` says which layers get adapters, and all other
    /// weights are frozen already.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub freeze: BTreeSet<ModuleGroup>,
    /// Least area of an image in pixels, in the place of the model's; smaller images are enlarged. Not for `micro`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_pixels: Option<usize>,
    /// Largest area of an image in pixels, in the place of the model's; larger images are reduced. Not for `micro`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pixels: Option<usize>,
    /// What happens to a sample that the model cannot take.
    #[serde(default)]
    pub on_error: OnError,
    /// So many samples may be left out: a count, or below 1 a share. More fail the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dropped: Option<MaxDropped>,
    /// What happens where the set has no samples.
    #[serde(default, skip_serializing_if = "OnEmpty::is_default")]
    pub on_empty: OnEmpty,
    /// Keep the trainer's last state as an output: a longer run of the same training goes on from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_state: bool,
    /// Keep every answer that is drawn, with its reward and advantage, as the output `completions`. Not with
    /// `keep_state`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completions: bool,
    /// The trainer's settings.
    #[serde(flatten)]
    pub training: GrpoConfig,
}

/// The output with the drawn answers.
const COMPLETIONS: &str = "completions";

/// The stage kind.
pub struct Grpo;

impl Stage for Grpo {
    type Params = GrpoParams;
    const DECL: KindDecl = KindDecl {
        name: "grpo",
        version: 4,
        summary: "Group-relative policy optimisation, and which difficulty its gradient came from",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Model],
                doc: "The model to start from, and the reference of the KL term.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The samples to ask about.",
            },
            InputDecl {
                name: "difficulty",
                cardinality: Cardinality::Optional,
                accepts: &[ArtifactType::Difficulty],
                doc: "The samples' difficulty, to tell where the gradient comes from. Training does not depend on it.",
            },
        ],
        numeric: true,
        labelled: false,
        paths: &[],
    };

    fn outputs(params: &GrpoParams) -> Vec<OutputDecl> {
        let mut outputs = run_of(params).outputs();
        if params.completions {
            outputs.push(OutputDecl::new(COMPLETIONS, ArtifactType::Completions));
        }
        outputs
    }

    fn check(params: &GrpoParams) -> Vec<ParamProblem> {
        let config = params.training.validate();
        let mut problems = run_of(params).problems(config, params.lora.as_ref());
        problems.extend(reward_problems(&params.reward));
        let lora = params.lora.as_ref();
        problems.extend(training::freeze_problem(lora, &params.freeze));
        problems.extend(params.max_dropped.and_then(MaxDropped::problem));
        problems.extend(limits(params).problems());
        problems.extend((params.completions && params.keep_state).then(|| {
            ParamProblem::new(
                "completions",
                "cannot be kept with `keep_state`: a run that goes on from another's state did not draw its answers",
            )
        }));
        problems
    }

    fn family(params: &GrpoParams) -> Option<Family> {
        run_of(params).family(params, &["model", "data", "difficulty"])
    }

    /// All answers of a step are taken to be different.
    fn forecast(params: &GrpoParams, prospect: &Prospect) -> Forecast {
        let config = &params.training;
        let drawn = config.prompts_per_step * config.generations;
        let together = match config.forward_batch {
            0 => drawn,
            rows => rows.min(drawn),
        };
        let dropout = params.lora.as_ref().is_some_and(|lora| lora.dropout > 0.0);
        // Answers that draw dropout of their own do not share the rows of their question.
        let [questions, answers] = match dropout {
            true => [together, 1],
            false => [
                together.div_ceil(config.generations),
                config.generations.min(together),
            ],
        };
        let training = memory::Training {
            lora: params.lora.as_ref(),
            pixels: limits(params),
            questions,
            answers,
            answer_tokens: Some(config.max_new_tokens),
            dropout,
            checkpointing: config.gradient_checkpointing,
            accumulates: together < drawn,
            loss: GRPO_LOSS,
            originals: false,
            draws: Some([config.prompts_per_step, config.generations]),
            reference: config.beta != 0.0 && params.lora.is_none(),
        };
        memory::train(prospect, &Self::outputs(params), &training)
    }

    fn run(params: GrpoParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let (run, limits) = (run_of(&params), limits(&params));
        let GrpoParams {
            reward,
            lora,
            freeze,
            on_error,
            max_dropped,
            completions,
            training: config,
            ..
        } = params;
        let mut model = model::open(ctx)?;
        limits.set(model.as_mut())?;
        training::merge_adapters(ctx, model.as_mut());
        let reference = (config.beta != 0.0).then(|| model.frozen());
        training::prepare(ctx, model.as_mut(), lora.as_ref(), &freeze, config.seed)?;
        let trained = training::trainable(model.as_ref());

        let data = Dataset::open(&ctx.input("data")?.dir)?;
        warn_of_loose_boxes(ctx, &data, model.as_ref());
        let set = PromptSet::load(ctx, &data, model.as_ref(), &reward, on_error)?;
        set.dropped.finish(ctx, data.len(), max_dropped)?;
        let scores = ctx
            .optional("difficulty")
            .map(|input| Scores::open(&input.dir))
            .transpose()?;
        let bins = Bins::new(scores.as_ref(), &set.prompts);
        let score = |index: usize, answer: &str| reward.grade(answer, &set.answers[index]);

        let prompts = GrpoData {
            prompts: &set.prompts,
            difficulty: &bins.of_prompt,
            bins: bins.names.len(),
        };
        let reference = reference.as_deref();
        let mut trainer = GrpoTrainer::new(config, model.as_mut(), reference, prompts, &score)
            .map_err(StageError::failed)?;
        if completions {
            trainer.keep_completions();
        }
        train(ctx, &mut trainer, &run)?;

        if let Some(lines) = trainer.completions() {
            let path = ctx.output(COMPLETIONS)?.join("completions.jsonl");
            std::fs::write(&path, lines).map_err(StageError::io(&path))?;
        }
        let dir = ctx.output("log")?;
        let mut lines = JsonLines::create(&dir.join("grpo.jsonl"))?;
        for record in trainer.log() {
            lines.write(&bins.record(record)?)?;
        }
        lines.finish()?;
        let summary = trainer.summary();
        let filter = bins.shares(&summary);
        write_json(&dir.join("implicit_filter.json"), &filter)?;
        ctx.summarise(json!({
            "steps": trainer.total_steps(),
            "samples": set.prompts.len(),
            "epochs": trainer.log().last().map(|record| record.epoch),
            "reward": summary.reward,
            "zero_advantage": summary.zero_advantage,
            "mixed_gradient_share": summary.mixed_gradient_share,
            "implicit_filter": filter,
            "parameters_trained": trained,
        }));
        Ok(())
    }
}

fn limits(params: &GrpoParams) -> PixelLimits {
    PixelLimits {
        min: params.min_pixels,
        max: params.max_pixels,
    }
}

fn run_of(params: &GrpoParams) -> Run {
    Run {
        steps: params.training.steps,
        save_steps: params.training.save_steps,
        keep_state: params.keep_state,
        schedule: params.training.schedule,
        warmup_steps: params.training.warmup_steps,
        warmup_ratio: params.training.warmup_ratio,
    }
}

impl Report for GrpoRecord {
    fn step(&self) -> usize {
        self.step
    }
    fn samples(&self) -> usize {
        self.answers
    }
    fn fields(&self) -> Vec<(&'static str, f64)> {
        let kl = self.kl.map(|kl| ("kl", kl));
        let zero = (self.all_right + self.all_wrong) as f64 / self.groups.max(1) as f64;
        [
            ("reward", self.reward),
            ("loss", self.loss),
            ("lr", self.learning_rate),
            ("zero_advantage", zero),
        ]
        .into_iter()
        .chain(kl)
        .collect()
    }
}
