//! Who watches a training run.

use std::error::Error;

use crate::model::VisionLanguageModel;

/// Watches a training run whose steps give records of type `R`. All methods but [`Observer::step`] have a
/// default that does nothing.
pub trait Observer<R> {
    /// A step is done; the run has `total` steps.
    fn step(&mut self, total: usize, record: &R);

    /// The run has come to a checkpoint: every `save_steps` steps and at the end.
    ///
    /// # Errors
    /// An error ends the run; the trainer passes it on as [`TrainError::Checkpoint`](crate::train::TrainError::Checkpoint).
    fn checkpoint(
        &mut self,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = checkpoint;
        Ok(())
    }

    /// Asked after every step; `true` ends the run early.
    fn should_stop(&mut self) -> bool {
        false
    }
}

/// Watches nothing.
impl<R> Observer<R> for () {
    fn step(&mut self, _total: usize, _record: &R) {}
}

/// A point of a run at which the model is worth keeping.
pub struct Checkpoint<'a> {
    /// Steps done.
    pub step: usize,
    /// The model after these steps.
    pub model: &'a dyn VisionLanguageModel,
}
