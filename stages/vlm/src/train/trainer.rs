//! What the trainers have in common: steps one after another, checkpoints on the way, a state to go on from.

use std::path::Path;

use crate::model::VisionLanguageModel;
use crate::train::error::TrainError;
use crate::train::observer::{Checkpoint, Observer};

/// A training run.
pub trait Trainer {
    /// What it logs of a step.
    type Record;

    /// Steps that the run has.
    fn total_steps(&self) -> usize;

    /// Steps between checkpoints; 0 keeps the last only.
    fn save_steps(&self) -> usize;

    /// One record per step made so far, those before a restore included.
    fn log(&self) -> &[Self::Record];

    /// The model being trained.
    fn model(&self) -> &dyn VisionLanguageModel;

    /// Makes the next step and logs it.
    ///
    /// # Errors
    /// [`TrainError`]; the model is then as after the last whole update.
    fn step(&mut self) -> Result<&Self::Record, TrainError>;

    /// Writes all that a stopped run needs to go on into `dir`. `owner` names whose state it is: nobody else can take it
    /// up.
    ///
    /// # Errors
    /// [`TrainError::Io`] with the path.
    fn save_state(&self, dir: &Path, owner: &str) -> Result<(), TrainError>;

    /// Goes on from a state that [`Trainer::save_state`] wrote for `owner`. The run may be longer than the one that
    /// wrote it, if its schedule has the same learning rates over the steps already made.
    ///
    /// # Errors
    /// [`TrainError::State`] where the state belongs to another owner, other data, settings or another model, or is
    /// damaged in as much as a bit; then nothing has changed.
    fn restore(&mut self, dir: &Path, owner: &str) -> Result<(), TrainError>;

    /// Steps made so far.
    fn steps_done(&self) -> usize {
        self.log().len()
    }

    /// Trains to the end, or until the observer stops the run.
    ///
    /// # Errors
    /// As [`Trainer::step`], and [`TrainError::Checkpoint`] from the observer.
    fn run(&mut self, observer: &mut dyn Observer<Self::Record>) -> Result<(), TrainError> {
        let (total, every) = (self.total_steps(), self.save_steps());
        while self.steps_done() < total {
            observer.step(total, self.step()?);
            let step = self.steps_done();
            if step == total || (every > 0 && step.is_multiple_of(every)) {
                let model = self.model();
                observer
                    .checkpoint(&Checkpoint { step, model })
                    .map_err(|source| TrainError::Checkpoint { step, source })?;
            }
            if observer.should_stop() {
                break;
            }
        }
        Ok(())
    }
}

/// Mean of `value` over the last tenth of a log, but over at least one record; 0 for an empty log.
pub(crate) fn recent_mean<R>(log: &[R], value: impl Fn(&R) -> f64) -> f64 {
    let tail = &log[log.len() - log.len().div_ceil(10)..];
    tail.iter().map(value).sum::<f64>() / tail.len().max(1) as f64
}
