//! `sft`: supervised fine-tuning of all weights or of adapters. Pre-training and cold start are this stage too.

use dcsft_engine::stage::{
    ArtifactType, Cardinality, Family, Forecast, InputDecl, KindDecl, OutputDecl, ParamProblem,
    Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::memory::SFT_LOSS;
use dcsft_vlm::train::augment::Augment;
use dcsft_vlm::train::sft::{SftConfig, SftRecord, SftTrainer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::files::JsonLines;
use crate::frames;
use crate::memory;
use crate::shown_set::ShownSet;
use crate::skipped;
use crate::training::{self, Report, Shared, TrainingParams, TrainingSet, classes, train};

/// `with:` of `sft`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SftParams {
    /// Model and set.
    #[serde(flatten)]
    pub set: ShownSet,
    /// What is trained.
    #[serde(flatten)]
    pub stage: TrainingParams,
    /// The trainer's settings. They take all other fields, and refuse those that they do not have.
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
        shardable: false,
        paths: &[],
    };

    fn outputs(params: &SftParams) -> Vec<OutputDecl> {
        params.stage.outputs(&params.training.run)
    }

    fn check(params: &SftParams) -> Vec<ParamProblem> {
        let trainer = params.training.validate();
        let problems = params.stage.problems(&params.training.run, trainer);
        problems.into_iter().chain(params.set.problems()).collect()
    }

    fn family(params: &SftParams) -> Option<Family> {
        params
            .stage
            .run(&params.training.run)
            .family(params, &["model", "data"])
    }

    fn forecast(params: &SftParams, prospect: &Prospect) -> Forecast {
        let config = &params.training;
        let training = memory::Training {
            lora: params.stage.lora.as_ref(),
            frozen: &params.stage.freeze,
            pixels: params.set.limits(),
            questions: config.batch_size,
            answers: 1,
            answer_tokens: None,
            dropout: true,
            checkpointing: config.run.gradient_checkpointing,
            accumulates: config.gradient_accumulation > 1,
            offload: config.run.offload_optimizer,
            loss: SFT_LOSS,
            originals: config.augment != Augment::default(),
            draws: None,
            reference: false,
        };
        memory::train(prospect, &Self::outputs(params), &training)
    }

    fn run(params: SftParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.set.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let SftParams {
            set: shown,
            stage,
            training: config,
        } = params;
        let run = stage.run(&config.run);
        let (mut model, data) = shown.open(ctx)?;
        training::prepare(
            ctx,
            model.as_mut(),
            stage.lora.as_ref(),
            &stage.freeze,
            config.run.seed,
        )?;
        let trained = training::trainable(model.as_ref());
        frames::check_augment(&data, model.as_ref(), &config.augment)?;
        frames::warn_of_loose_boxes(ctx, &data, model.as_ref());
        frames::warn_of_sides(ctx, &data, &config.augment);
        let set = TrainingSet::load(ctx, &data, model.as_ref(), &config.augment, stage.on_error)?;
        set.dropped.finish(ctx, data.len(), shown.max_dropped)?;
        let labels = match &config.auxiliary {
            Some(auxiliary) => Some(classes(&data, &set.rows, &auxiliary.label)?),
            None => None,
        };
        let shared = [Shared {
            field: "gradient_accumulation",
            pieces: config.gradient_accumulation,
        }];
        let mut trainer = SftTrainer::new(config, model.as_mut(), &set.examples, labels.as_deref())
            .map_err(StageError::failed)?
            .with_mirrored(&set.mirrored);
        train(ctx, &mut trainer, &run, &shared)?;
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
