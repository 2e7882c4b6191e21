//! `grpo`: reinforcement learning from groups of sampled answers.

mod filter;
mod prompts;

use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Family, FileParam, Forecast, InputDecl, KindDecl, OutputDecl,
    ParamProblem, Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::memory::GRPO_LOSS;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoRecord, GrpoTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answers::{grader, reward_problems};
use crate::data::write_json;
use crate::difficulty::Scores;
use crate::files::JsonLines;
use crate::frames::warn_of_loose_boxes;
use crate::memory;
use crate::reward::{self, Reward};
use crate::shown_set::ShownSet;
use crate::skipped;
use crate::training::{self, Report, Shared, TrainingParams, train};
use filter::Bins;
use prompts::{PromptSet, Scorer};

/// `with:` of `grpo`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct GrpoParams {
    /// What makes an answer right.
    #[serde(default)]
    pub reward: Reward,
    /// Keep every answer that is drawn, with its reward and advantage, as the output `completions`. Not with
    /// `keep_state`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub completions: bool,
    /// Model and set.
    #[serde(flatten)]
    pub set: ShownSet,
    /// What is trained.
    #[serde(flatten)]
    pub stage: TrainingParams,
    /// The trainer's settings. They take all other fields, and refuse those that they do not have.
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
        shardable: false,
        paths: &[reward::FILES],
    };

    fn outputs(params: &GrpoParams) -> Vec<OutputDecl> {
        let mut outputs = params.stage.outputs(&params.training.run);
        if params.completions {
            outputs.push(OutputDecl::new(COMPLETIONS, ArtifactType::Completions));
        }
        outputs
    }

    fn files(params: &GrpoParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        params.reward.files(root)
    }

    fn check(params: &GrpoParams) -> Vec<ParamProblem> {
        let trainer = params.training.validate();
        let mut problems = params.stage.problems(&params.training.run, trainer);
        problems.extend(reward_problems(&params.reward));
        problems.extend(params.set.problems());
        problems.extend((params.completions && params.stage.keep_state).then(|| {
            ParamProblem::new(
                "completions",
                "cannot be kept with `keep_state`: a run that goes on from another's state did not draw its answers",
            )
        }));
        problems
    }

    fn family(params: &GrpoParams) -> Option<Family> {
        // What a program's files hold is no param: two runs with other files are of no family.
        if params.reward.is_program() {
            return None;
        }
        params
            .stage
            .run(&params.training.run)
            .family(params, &["model", "data", "difficulty"])
    }

    /// All answers of a step are taken to be different.
    fn forecast(params: &GrpoParams, prospect: &Prospect) -> Forecast {
        let config = &params.training;
        let drawn = config.prompts_per_step * config.generations;
        let together = match config.forward_batch {
            0 => drawn,
            rows => rows.min(drawn),
        };
        let dropout = params
            .stage
            .lora
            .as_ref()
            .is_some_and(|lora| lora.dropout > 0.0);
        // Answers that draw dropout of their own do not share the rows of their question.
        let [questions, answers] = match dropout {
            true => [together, 1],
            false => [
                together.div_ceil(config.generations),
                config.generations.min(together),
            ],
        };
        let training = memory::Training {
            lora: params.stage.lora.as_ref(),
            frozen: &params.stage.freeze,
            pixels: params.set.limits(),
            questions,
            answers,
            answer_tokens: Some(config.max_new_tokens),
            dropout,
            checkpointing: config.run.gradient_checkpointing,
            accumulates: together < drawn,
            offload: config.run.offload_optimizer,
            loss: GRPO_LOSS,
            originals: false,
            draws: Some([config.prompts_per_call(), config.generations]),
            reference: config.beta != 0.0 && params.stage.lora.is_none(),
        };
        memory::train(prospect, &Self::outputs(params), &training)
    }

    fn run(params: GrpoParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.set.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let GrpoParams {
            reward,
            completions,
            set: shown,
            stage,
            training: config,
        } = params;
        let run = stage.run(&config.run);
        let (mut model, data) = shown.open(ctx)?;
        training::merge_adapters(ctx, model.as_mut())?;
        let reference = (config.beta != 0.0).then(|| model.frozen());
        training::prepare(
            ctx,
            model.as_mut(),
            stage.lora.as_ref(),
            &stage.freeze,
            config.run.seed,
        )?;
        let trained = training::trainable(model.as_ref());

        warn_of_loose_boxes(ctx, &data, model.as_ref());
        let set = PromptSet::load(ctx, &data, model.as_ref(), &reward, stage.on_error)?;
        set.dropped.finish(ctx, data.len(), shown.max_dropped)?;
        let scores = ctx
            .optional("difficulty")
            .map(|input| Scores::open(&input.dir))
            .transpose()?;
        let bins = Bins::new(scores.as_ref(), &set.prompts);
        let score = Scorer {
            prompts: &set.prompts,
            questions: &set.questions,
            answers: &set.answers,
            grader: grader(&reward, ctx)?,
        };

        let prompts = GrpoData {
            prompts: &set.prompts,
            difficulty: &bins.of_prompt,
            bins: bins.names.len(),
        };
        let reference = reference.as_deref();
        let [passes, calls] = config.pieces();
        let shared = [("forward_batch", passes), ("generation_batch", calls)];
        let shared = shared.map(|(field, pieces)| Shared { field, pieces });
        let mut trainer = GrpoTrainer::new(config, model.as_mut(), reference, prompts, &score)
            .map_err(StageError::failed)?;
        if completions {
            trainer.keep_completions();
        }
        train(ctx, &mut trainer, &run, &shared)?;

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
        score.grader.finish().map_err(StageError::failed)
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
