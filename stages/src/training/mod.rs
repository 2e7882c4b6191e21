//! What `sft` and `grpo` share: the training set, checkpoints, and a run that survives interrupts.

mod checkpoints;
mod continuation;
mod examples;
mod params;
mod run;
mod settings;

use std::collections::BTreeSet;

use dcsft_engine::stage::{
    ArtifactType, Family, OutputDecl, ParamProblem, StageContext, StageError,
};
use dcsft_vlm::lora::{LoraConfig, ModuleGroup, untrained};
use dcsft_vlm::model::VisionLanguageModel;
use dcsft_vlm::train::TrainError;
use serde::Serialize;

pub(crate) use examples::{KEPT_BYTES, TrainingSet, classes, prompts};
pub use params::TrainingParams;
pub(crate) use run::{Report, Shared, train};
pub(crate) use settings::Run;
use settings::{checkpoint_name, checkpoint_steps};

impl Run {
    /// Outputs of a training stage: `model`, a checkpoint `step-N` for each multiple of `save_steps` and for the last
    /// step, `log`, and the last `state` where it is kept. How many steps `epochs` make is known only with the data,
    /// so without `steps` there are no `step-N`.
    pub(crate) fn outputs(&self) -> Vec<OutputDecl> {
        let steps = self.config.steps.into_iter();
        let checkpoints = steps.flat_map(|steps| checkpoint_steps(steps, self.config.save_steps));
        let state = OutputDecl::new(continuation::OUTPUT, ArtifactType::TrainerState);
        [OutputDecl::new("model", ArtifactType::Model)]
            .into_iter()
            .chain(
                checkpoints.map(|step| OutputDecl::new(checkpoint_name(step), ArtifactType::Model)),
            )
            .chain([OutputDecl::new("log", ArtifactType::TrainingLog)])
            .chain(self.keep_state.then_some(state))
            .collect()
    }

    /// Mistakes in params that types do not catch; `config` is what the trainer says of its own.
    pub(crate) fn problems(
        &self,
        config: Result<(), TrainError>,
        lora: Option<&LoraConfig>,
    ) -> Vec<ParamProblem> {
        let config = config.err().map(|error| match error {
            TrainError::Config {
                field,
                value,
                expected,
            } => ParamProblem::new(field, format!("{value} cannot be used: {expected}")),
            other => ParamProblem::new("", other.to_string()),
        });
        let lora = lora.and_then(|lora| lora.validate().err());
        let lora = lora.map(|error| ParamProblem::new("lora", error.to_string()));
        let unnamed = (self.config.save_steps > 0 && self.config.steps.is_none()).then(|| {
            ParamProblem::new(
                "save_steps",
                "needs `steps`: the names of the checkpoints must be known before the run",
            )
        });
        let unused = continuation::problem(self);
        [config, lora, unnamed, unused]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The runs that this one can go on from, where there can be any.
    pub(crate) fn family(
        &self,
        params: &impl Serialize,
        inputs: &'static [&'static str],
    ) -> Option<Family> {
        continuation::family(self, params, inputs)
    }
}

/// Merges adapters that the input model came with into its weights, where these are not quantised.
pub(crate) fn merge_adapters(
    ctx: &mut StageContext,
    model: &mut dyn VisionLanguageModel,
) -> Result<(), StageError> {
    if model.lora().is_none() || model.is_quantised() {
        return Ok(());
    }
    ctx.log("the model's adapters are merged into its weights");
    model.merge_lora().map_err(StageError::failed)
}

/// What is trained of a quantised model: adapters alone, fresh ones or those that it has.
fn check_quantised(
    ctx: &mut StageContext,
    model: &dyn VisionLanguageModel,
    lora: Option<&LoraConfig>,
) -> Result<(), StageError> {
    if !model.is_quantised() {
        return Ok(());
    }
    if lora.is_none() {
        return Err(StageError::failed(untrained()));
    }
    if model.lora().is_some() {
        ctx.log("the model's adapters are trained further: they cannot be merged into quantised weights");
    }
    Ok(())
}

/// Makes the input model ready to train: all weights, or with `lora` fresh adapters alone; those of a
/// quantised model go on.
pub(crate) fn prepare(
    ctx: &mut StageContext,
    model: &mut dyn VisionLanguageModel,
    lora: Option<&LoraConfig>,
    freeze: &BTreeSet<ModuleGroup>,
    seed: u64,
) -> Result<(), StageError> {
    merge_adapters(ctx, model)?;
    check_quantised(ctx, model, lora)?;
    if let Some(lora) = lora {
        model.add_lora(lora, seed).map_err(StageError::failed)?;
    }
    model.freeze(freeze).map_err(StageError::failed)?;
    let all = model.params().count();
    ctx.log(format!("training {} of {all} parameters", trainable(model)));
    Ok(())
}

/// How many numbers the optimiser updates.
pub(crate) fn trainable(model: &dyn VisionLanguageModel) -> usize {
    let trained = model.params().iter().filter(|param| param.trainable);
    trained
        .map(|param| param.value.dims().iter().product::<usize>())
        .sum()
}

#[cfg(test)]
mod tests {
    use dcsft_vlm::train::RunConfig;

    use super::{Run, checkpoint_steps};

    #[test]
    fn checkpoints_are_the_multiples_and_the_end() {
        let steps = |steps, every| {
            checkpoint_steps(steps, every)
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(300, 100), [100, 200, 300]);
        assert_eq!(steps(250, 100), [100, 200, 250]);
        assert_eq!(steps(25, 0), [25]);
        assert_eq!(steps(25, 100), [25]);
    }

    #[test]
    fn outputs_are_known_before_the_run() {
        let names = |steps, save_steps| {
            let config = RunConfig {
                steps,
                save_steps,
                ..RunConfig::default()
            };
            let keep_state = false;
            let run = Run { config, keep_state };
            let outputs = run.outputs().into_iter();
            outputs.map(|output| output.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(20), 10), ["model", "step-10", "step-20", "log"]);
        assert_eq!(names(None, 0), ["model", "log"]);
    }
}
