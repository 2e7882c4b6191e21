//! What a trainer's stage is told, and the names of the checkpoints that follow.

use std::collections::BTreeSet;

use dcsft_vlm::train::schedule::Schedule;

/// The settings of both trainers that a stage looks at itself.
pub(crate) struct Run {
    pub(crate) steps: Option<usize>,
    pub(crate) save_steps: usize,
    pub(crate) keep_state: bool,
    pub(crate) schedule: Schedule,
    pub(crate) warmup_steps: Option<usize>,
    pub(crate) warmup_ratio: f64,
}

/// The steps after which a run of `steps` steps keeps its model.
pub(super) fn checkpoint_steps(steps: usize, save_steps: usize) -> BTreeSet<usize> {
    let every = if save_steps == 0 {
        steps.max(1)
    } else {
        save_steps
    };
    (every..=steps).step_by(every).chain([steps]).collect()
}

/// The output that holds the model after `step` steps.
pub(super) fn checkpoint_name(step: usize) -> String {
    format!("step-{step}")
}

/// The step of such a name.
pub(super) fn checkpoint_step(name: &str) -> Option<usize> {
    name.strip_prefix("step-")?.parse().ok()
}
