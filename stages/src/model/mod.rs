//! `model`: a fresh micro VLM, or a checkpoint of the user's.

mod open;
mod params;
mod pixels;

use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, FileParam, Forecast, KindDecl, OutputDecl, ParamProblem, Prospect, Stage,
    StageContext, StageError,
};
use dcsft_models::micro::MicroVlm;
use dcsft_models::{HubModel, import};
use dcsft_vlm::model::VisionLanguageModel as _;
use serde_json::json;

use crate::memory::ModelFacts;

pub(crate) use open::{device, further_devices, open};
pub use params::{CheckpointParams, Init, ModelKind, ModelParams, Source};
pub(crate) use pixels::PixelLimits;

/// The stage kind.
pub struct Model;

impl Stage for Model {
    type Params = ModelParams;
    const DECL: KindDecl = KindDecl {
        name: "model",
        version: 2,
        summary: "A fresh micro VLM, or a checkpoint from a folder in Hugging Face's layout",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["path"]],
    };

    fn outputs(_params: &ModelParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("model", ArtifactType::Model)]
    }

    fn check(params: &ModelParams) -> Vec<ParamProblem> {
        params.problems()
    }

    fn files(params: &ModelParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        params.files(root)
    }

    fn forecast(params: &ModelParams, prospect: &Prospect) -> Forecast {
        let outputs = Self::outputs(params);
        match &params.source {
            Source::Micro { sizes, .. } => ModelFacts::micro(sizes).made(prospect, &outputs, true),
            Source::Checkpoint(CheckpointParams {
                path,
                init,
                settings,
                ..
            }) => {
                let random = *init == Init::Random;
                ModelFacts::checkpoint(Path::new(path), settings, random)
                    .map(|facts| facts.made(prospect, &outputs, random))
                    .unwrap_or_default()
            }
        }
    }

    fn run(params: ModelParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let to = ctx.output("model")?;
        let parameters = match params.source {
            Source::Micro { sizes, seed } => {
                let device = device(ctx)?.open().map_err(StageError::failed)?;
                let model = MicroVlm::new(sizes, seed, &device).map_err(StageError::failed)?;
                model.save(&to).map_err(StageError::failed)?;
                model.params().count()
            }
            Source::Checkpoint(params) => checkpoint(&params, ctx, &to)?,
        };
        ctx.summarise(json!({"parameters": parameters}));
        Ok(())
    }
}

/// Takes a checkpoint over, or draws one in its shape; gives the number of parameters.
fn checkpoint(
    params: &CheckpointParams,
    ctx: &mut StageContext,
    to: &Path,
) -> Result<usize, StageError> {
    let from = Path::new(&params.path);
    match params.init {
        Init::Checkpoint => {
            let imported = import(from, to, params.settings).map_err(StageError::failed)?;
            if !imported.unused.is_empty() {
                let unused: Vec<String> = imported
                    .unused
                    .iter()
                    .map(|(name, value)| format!("{name} {value}"))
                    .collect();
                ctx.log(format!(
                    "generation_config.json: {} not used; `rollout`, `eval` and `grpo` have params of their own",
                    unused.join(", ")
                ));
            }
            Ok(imported.parameters)
        }
        Init::Random => {
            let device = device(ctx)?.open().map_err(StageError::failed)?;
            HubModel::write_random([from, to], params.settings, params.seed, &device)
                .map_err(StageError::failed)
        }
    }
}
