//! `sft`: supervised fine-tuning of all weights or of adapters. Pre-training and cold start are this stage too.

use std::collections::BTreeSet;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Family, Forecast, InputDecl, KindDecl, OutputDecl, ParamProblem,
    Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::SFT_LOSS;
use dcsft_vlm::train::augment::Augment;
use dcsft_vlm::train::sft::{SftConfig, SftRecord, SftTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::OnEmpty;
use crate::data::Dataset;
use crate::files::JsonLines;
use crate::frames;
use crate::memory;
use crate::misfit::{MaxDropped, OnError};
use crate::model::{self, PixelLimits};
use crate::skipped;
use crate::training::{self, Report, Run, TrainingSet, classes, train};

/// `with:` of `sft`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SftParams {
    /// Train adapters on these layers and freeze all other weights; without it all weights are trained.
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
    /// The trainer's settings.
    #[serde(flatten)]
    pub training: SftConfig,
}

/// The stage kind.
pub struct Sft;

impl Stage for Sft {
    type Params = SftParams;
    const DECL: KindDecl = KindDecl {
        name: "sft",
        version: 4,
        summary: "Supervised fine-tuning, of all weights or of LoRA adapters",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Model],
                doc: "The model to start from.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The samples to train on.",
            },
        ],
        numeric: true,
        labelled: false,
        paths: &[],
    };

    fn outputs(params: &SftParams) -> Vec<OutputDecl> {
        run_of(params).outputs()
    }

    fn check(params: &SftParams) -> Vec<ParamProblem> {
        let mut problems =
            run_of(params).problems(params.training.validate(), params.lora.as_ref());
        problems.extend(training::freeze_problem(
            params.lora.as_ref(),
            &params.freeze,
        ));
        problems.extend(params.max_dropped.and_then(MaxDropped::problem));
        problems.extend(limits(params).problems());
        problems
    }

    fn family(params: &SftParams) -> Option<Family> {
        run_of(params).family(params, &["model", "data"])
    }

    fn forecast(params: &SftParams, prospect: &Prospect) -> Forecast {
        let config = &params.training;
        let training = memory::Training {
            lora: params.lora.as_ref(),
            pixels: limits(params),
            questions: config.batch_size,
            answers: 1,
            answer_tokens: None,
            dropout: true,
            checkpointing: config.gradient_checkpointing,
            accumulates: config.gradient_accumulation > 1,
            loss: SFT_LOSS,
            originals: config.augment != Augment::default(),
            draws: None,
            reference: false,
        };
        memory::train(prospect, &Self::outputs(params), &training)
    }

    fn run(params: SftParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let (run, limits) = (run_of(&params), limits(&params));
        let SftParams {
            lora,
            freeze,
            on_error,
            max_dropped,
            training: config,
            ..
        } = params;
        let mut model = model::open(ctx)?;
        limits.set(model.as_mut())?;
        let data = Dataset::open(&ctx.input("data")?.dir)?;
        training::prepare(ctx, model.as_mut(), lora.as_ref(), &freeze, config.seed)?;
        let trained = training::trainable(model.as_ref());
        frames::check_augment(&data, model.as_ref(), &config.augment)?;
        frames::warn_of_loose_boxes(ctx, &data, model.as_ref());
        frames::warn_of_sides(ctx, &data, &config.augment);
        let set = TrainingSet::load(ctx, &data, model.as_ref(), &config.augment, on_error)?;
        set.dropped.finish(ctx, data.len(), max_dropped)?;
        let labels = match &config.auxiliary {
            Some(auxiliary) => Some(classes(&data, &set.rows, &auxiliary.label)?),
            None => None,
        };
        let mut trainer = SftTrainer::new(config, model.as_mut(), &set.examples, labels.as_deref())
            .map_err(StageError::failed)?
            .with_mirrored(&set.mirrored);
        train(ctx, &mut trainer, &run)?;
        write_log(ctx, trainer.log())?;
        ctx.summarise(json!({
            "steps": trainer.total_steps(),
            "samples": set.examples.len(),
            "epochs": trainer.log().last().map(|record| record.epoch),
            "loss": trainer.last_loss(),
            "parameters_trained": trained,
        }));
        Ok(())
    }
}

fn limits(params: &SftParams) -> PixelLimits {
    PixelLimits {
        min: params.min_pixels,
        max: params.max_pixels,
    }
}

fn run_of(params: &SftParams) -> Run {
    Run {
        steps: params.training.steps,
        save_steps: params.training.save_steps,
        keep_state: params.keep_state,
        schedule: params.training.schedule,
        warmup_steps: params.training.warmup_steps,
        warmup_ratio: params.training.warmup_ratio,
    }
}

impl Report for SftRecord {
    fn step(&self) -> usize {
        self.step
    }
    fn samples(&self) -> usize {
        self.samples
    }
    fn fields(&self) -> Vec<(&'static str, f64)> {
        vec![("loss", self.loss), ("lr", self.learning_rate)]
    }
}

/// One line per step: `loss.jsonl`.
fn write_log(ctx: &StageContext, log: &[SftRecord]) -> Result<(), StageError> {
    let mut lines = JsonLines::create(&ctx.output("log")?.join("loss.jsonl"))?;
    for record in log {
        lines.write(record)?;
    }
    lines.finish()
}
