//! What a trainer's stage is told, and the names of the checkpoints that follow.

use std::collections::BTreeSet;

use dcsft_vlm::train::RunConfig;

/// A run, as a stage looks at it.
pub(crate) struct Run {
    pub(crate) config: RunConfig,
    pub(crate) keep_state: bool,
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
