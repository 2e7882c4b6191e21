//! Who watches a training run.

use std::error::Error;
use std::path::Path;

use crate::model::VisionLanguageModel;
use crate::train::error::TrainError;
use crate::train::state::StateView;

/// Watches a training run whose steps give records of type `R`. All methods but [`Observer::step`] have a
/// default that does nothing.
pub trait Observer<R> {
    /// A step is done; the run has `total` steps.
    fn step(&mut self, total: usize, record: &R);

    /// The run has come to a checkpoint: every `save_steps` steps and at the end.
    ///
    /// # Errors
    /// An error ends the run; the trainer passes it on as [`TrainError::Checkpoint`].
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
    /// The run ends here.
    pub last: bool,
    /// The model after these steps.
    pub model: &'a dyn VisionLanguageModel,
    pub(crate) state: StateView<'a>,
}

impl Checkpoint<'_> {
    /// Writes the trainer's state into `dir`, to go on from here later.
    ///
    /// # Errors
    /// [`TrainError::Io`] with the path.
    pub fn save_state(&self, dir: &Path) -> Result<(), TrainError> {
        self.state.write(dir)
    }
}
