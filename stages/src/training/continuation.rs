//! Training that goes on from where a shorter run has ended.
//!
//! With `keep_state` a trainer's last state is an output. A longer run of the same training, whose first steps are the
//! same, takes it over with the checkpoints on the way, and comes out as if it had made all steps itself.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{Cost, Family, ParamProblem, Relative, StageContext, StageError};
use dcsft_vlm::train::schedule::Schedule;
use dcsft_vlm::train::{Objective, Trainer};
use serde::{Deserialize, Serialize};

use super::checkpoints::Checkpoints;
use super::settings::{Run, checkpoint_name, checkpoint_steps};
use crate::data::{read_json, write_json};

/// The output with a trainer's last state.
pub(super) const OUTPUT: &str = "state";
/// Says how far the state is.
const LENGTH: &str = "length.json";
/// Owns states that are outputs: the cache binds them to their keys.
const NOBODY: &str = "";
/// In the stage's own state: what it has taken over.
const TAKEN: &str = "taken_over.json";

/// Params that a longer run of the same training may have otherwise.
const LENGTHS: [&str; 3] = ["steps", "epochs", "save_steps"];

/// Whose a saved state is: the folder that the stage works in has its key's name.
pub(super) fn owner(ctx: &StageContext) -> String {
    let work = ctx.state().parent().and_then(Path::file_name);
    work.unwrap_or_default().to_string_lossy().into_owned()
}

/// A state that no other run could go on from is not worth keeping.
pub(super) fn problem(run: &Run) -> Option<ParamProblem> {
    (run.keep_state && !is_open_ended(run)).then(|| {
        ParamProblem::new(
            "keep_state",
            "needs `schedule: constant`, with `warmup_steps` or `warmup_ratio: 0`: else the learning rate of each \
             step depends on the length of the run, and no longer run can go on from this one",
        )
    })
}

/// The family of a stage with these params.
pub(super) fn family(
    run: &Run,
    params: &impl Serialize,
    inputs: &'static [&'static str],
) -> Option<Family> {
    if !(run.keep_state && is_open_ended(run)) {
        return None;
    }
    let mut params = serde_json::to_value(params).ok()?;
    let fields = params.as_object_mut()?;
    for length in LENGTHS {
        fields.remove(length);
    }
    Some(Family { params, inputs })
}

/// Whether no step's learning rate depends on the length of the run: its first steps are those of a longer one.
fn is_open_ended(run: &Run) -> bool {
    let warmup = run.config.warmup_steps.is_some() || run.config.warmup_ratio == 0.0;
    run.config.schedule == Schedule::Constant && warmup
}

#[derive(Serialize, Deserialize)]
struct Length {
    steps: usize,
}

#[derive(Serialize, Deserialize)]
struct Taken {
    #[serde(flatten)]
    cost: Cost,
}

/// Writes the trainer's state as an output.
pub(super) fn keep<O: Objective>(
    ctx: &StageContext,
    trainer: &Trainer<'_, O>,
) -> Result<(), StageError> {
    let dir = ctx.output(OUTPUT)?;
    trainer
        .save_state(&dir, NOBODY)
        .map_err(StageError::failed)?;
    let steps = trainer.steps_done();
    Ok(write_json(&dir.join(LENGTH), &Length { steps })?)
}

/// Counts what an earlier try of this stage has taken over.
pub(super) fn count_again(ctx: &mut StageContext) {
    if let Ok(Taken { cost }) = read_json(&ctx.state().join(TAKEN)) {
        ctx.save(cost);
    }
}

/// Goes on from the longest relative that is no longer than this run and has the checkpoints that it needs.
///
/// # Errors
/// If files cannot be written. A relative that cannot be used is named in the log.
pub(super) fn take_over<O: Objective>(
    ctx: &mut StageContext,
    trainer: &mut Trainer<'_, O>,
    checkpoints: &Checkpoints,
) -> Result<(), StageError> {
    let needed = checkpoint_steps(trainer.total_steps(), trainer.save_steps());
    let mut candidates: Vec<Candidate> = ctx
        .relatives()
        .iter()
        .filter_map(|relative| Candidate::new(relative, trainer.total_steps(), &needed))
        .collect();
    candidates.sort_by_key(|candidate| Reverse(candidate.steps));
    for candidate in candidates {
        let label = &candidate.relative.label;
        if let Err(error) = trainer.restore(&candidate.relative.outputs[OUTPUT], NOBODY) {
            ctx.log(format!("{label} cannot be continued: {error}"));
            continue;
        }
        for (step, dir) in &candidate.checkpoints {
            checkpoints.adopt(ctx, *step, dir)?;
        }
        let cost = candidate.relative.cost;
        write_json(&ctx.state().join(TAKEN), &Taken { cost })?;
        // Last, so that a state always finds its checkpoints.
        trainer
            .save_state(ctx.state(), &owner(ctx))
            .map_err(StageError::failed)?;
        ctx.save(cost);
        ctx.log(format!(
            "going on from {label}, after step {}",
            candidate.steps
        ));
        return Ok(());
    }
    Ok(())
}

/// A relative that may be gone on from.
struct Candidate {
    relative: Relative,
    steps: usize,
    /// Those of this run that it has.
    checkpoints: Vec<(usize, PathBuf)>,
}

impl Candidate {
    fn new(relative: &Relative, total: usize, needed: &BTreeSet<usize>) -> Option<Self> {
        let dir = |name: &str| relative.outputs.get(name);
        let Length { steps } = read_json(&dir(OUTPUT)?.join(LENGTH)).ok()?;
        let checkpoint = |&step: &usize| {
            let last = (step == steps).then(|| dir("model")).flatten();
            let path = dir(&checkpoint_name(step)).or(last)?;
            Some((step, path.clone()))
        };
        let checkpoints: Option<Vec<_>> = needed.range(..=steps).map(checkpoint).collect();
        (steps <= total).then_some(Self {
            relative: relative.clone(),
            steps,
            checkpoints: checkpoints?,
        })
    }
}
