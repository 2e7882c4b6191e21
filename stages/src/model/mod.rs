//! `model`: a fresh micro VLM.

mod open;

use dcsft_engine::context::StageContext;
use dcsft_engine::forecast::{Forecast, Prospect};
use dcsft_engine::kind::{ArtifactType, InputDecl, OutputDecl, ParamProblem, Stage, StageError};
use dcsft_vlm::micro::{MicroConfig, MicroVlm};
use dcsft_vlm::model::VisionLanguageModel as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::memory::ModelFacts;

pub(crate) use open::{device, open};

/// Which architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// A ViT patch encoder, a projector and a causal decoder, small enough to pre-train in a minute.
    #[default]
    Micro,
}

/// `with:` of `model`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelParams {
    /// Which architecture.
    #[serde(default)]
    pub kind: ModelKind,
    /// Seed of the initial weights.
    #[serde(default)]
    pub seed: u64,
    /// Sizes and vocabulary.
    #[serde(flatten)]
    pub sizes: MicroConfig,
}

/// The stage kind.
pub struct Model;

impl Stage for Model {
    type Params = ModelParams;
    const NAME: &'static str = "model";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "A fresh micro VLM with random weights";
    const INPUTS: &'static [InputDecl] = &[];
    const NUMERIC: bool = false;

    fn outputs(_params: &ModelParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("model", ArtifactType::Model)]
    }

    fn check(params: &ModelParams) -> Vec<ParamProblem> {
        params
            .sizes
            .validate()
            .err()
            .map(|error| ParamProblem::new("", error.to_string()))
            .into_iter()
            .collect()
    }

    fn forecast(params: &ModelParams, prospect: &Prospect) -> Forecast {
        ModelFacts::micro(&params.sizes).made(prospect, &Self::outputs(params), true)
    }

    fn run(params: ModelParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let ModelParams {
            kind: ModelKind::Micro,
            seed,
            sizes,
        } = params;
        let device = device(ctx)?.open().map_err(StageError::failed)?;
        let model = MicroVlm::new(sizes, seed, &device).map_err(StageError::failed)?;
        model
            .save(&ctx.output("model")?)
            .map_err(StageError::failed)?;
        ctx.summarise(json!({"parameters": model.params().count()}));
        Ok(())
    }
}
