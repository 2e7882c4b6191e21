//! Params that `sft` and `grpo` share.

use std::collections::BTreeSet;

use dcsft_engine::stage::{OutputDecl, ParamProblem};
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::train::{RunConfig, TrainError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::settings::Run;
use crate::misfit::OnError;

/// What a training stage is told besides its trainer's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingParams {
    /// Train adapters on these layers and freeze all other weights; without it all weights are trained. Their dropout
    /// acts in the updates, not where answers are drawn.
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    /// Leave the weights of these groups as they are. With `lora`, `targets` says which layers get adapters, and all other
    /// weights are frozen already.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub freeze: BTreeSet<ModuleGroup>,
    /// What happens to a sample that the model cannot take.
    #[serde(default)]
    pub on_error: OnError,
    /// Keep the trainer's last state as an output: a longer run of the same training goes on from it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_state: bool,
}

impl TrainingParams {
    /// The run that a stage with these params makes.
    pub(crate) fn run(&self, config: &RunConfig) -> Run {
        Run {
            config: config.clone(),
            keep_state: self.keep_state,
        }
    }

    /// Outputs of a stage of this training.
    pub(crate) fn outputs(&self, config: &RunConfig) -> Vec<OutputDecl> {
        self.run(config).outputs()
    }

    /// Mistakes that types do not catch; `trainer` is what the trainer says of its settings.
    pub(crate) fn problems(
        &self,
        config: &RunConfig,
        trainer: Result<(), TrainError>,
    ) -> Vec<ParamProblem> {
        let mut problems = self.run(config).problems(trainer, self.lora.as_ref());
        problems.extend(self.freeze_problem());
        problems
    }

    /// `freeze` beside `lora`.
    fn freeze_problem(&self) -> Option<ParamProblem> {
        (self.lora.is_some() && !self.freeze.is_empty()).then(|| {
            let message = "goes with training of all weights; with adapters `lora.targets` says which layers get some";
            ParamProblem::new("freeze", message)
        })
    }
}
