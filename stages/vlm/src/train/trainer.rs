//! The run that all trainers make: steps one after another, updates from micro-batches, checkpoints on the way, a state
//! to go on from. What is learnt is the [`Objective`]'s.

use std::path::Path;

use dcsft_tensor::params::ParamSet;
use rayon::prelude::*;

use crate::model::{Forward, Output, VisionLanguageModel};
use crate::train::adamw::{AdamW, AdamWSettings};
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::gradients::GradientSum;
use crate::train::objective::{At, Loss, Made, Objective, Seen};
use crate::train::observer::{Checkpoint, Observer};
use crate::train::schedule::LearningRate;
use crate::train::state::{self, Header};

/// The settings of a run that do not depend on what is learnt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RunSettings {
    /// Steps of the whole run.
    pub steps: usize,
    /// Updates of the weights in each step.
    pub updates: usize,
    /// Steps between checkpoints; 0 keeps the last only.
    pub save_steps: usize,
    /// The learning rate of each update.
    pub rate: LearningRate,
    /// The optimiser.
    pub optimizer: AdamWSettings,
    /// Keep only what goes into each block ([`Forward::checkpointing`]).
    pub gradient_checkpointing: bool,
}

/// A training run.
pub struct Trainer<'a, O: Objective> {
    settings: RunSettings,
    model: &'a mut dyn VisionLanguageModel,
    pub(crate) objective: O,
    optimizer: AdamW,
    header: Header,
    log: Vec<O::Record>,
}

/// What learns: the model, and the objective's own weights if there are any.
#[derive(Clone, Copy)]
struct Learner<'m> {
    model: &'m dyn VisionLanguageModel,
    own: Option<&'m ParamSet>,
}

impl<'m> Learner<'m> {
    fn sets(&self) -> Vec<&'m ParamSet> {
        [self.model.params()].into_iter().chain(self.own).collect()
    }
}

/// Rows that went through the model together, their loss and what it has noted.
type Part<'r, O> = (&'r [usize], f64, <O as Objective>::Noted);

/// The forward passes of one update.
struct Passes<'p, O: Objective> {
    objective: &'p O,
    round: &'p O::Round,
    at: At,
    checkpointing: bool,
}

impl<O: Objective> Passes<'_, O> {
    /// Adds the gradients of some rows to `sum`.
    fn add(
        &self,
        learner: Learner<'_>,
        rows: &[usize],
        sum: &mut GradientSum,
    ) -> Result<Loss<O::Noted>, TrainError> {
        let examples = self.objective.examples(self.round, self.at, rows)?;
        let options = Forward {
            dropout: self.objective.dropout(self.at),
            checkpointing: self.checkpointing,
        };
        let Output {
            logits,
            pooled,
            tape,
        } = learner.model.forward(&examples, &options)?;
        let seen = Seen {
            examples: &examples,
            logits,
            pooled,
            own: learner.own,
        };
        let loss = self.objective.loss(self.round, self.at, rows, &seen)?;
        sum.backward(&learner.sets(), loss.tensor.clone(), &seen.logits, tape);
        Ok(loss)
    }
}

impl<'a, O: Objective> Trainer<'a, O> {
    /// A run before its first step, which trains the trainable weights of `model`.
    ///
    /// # Errors
    /// [`TrainError::Config`] where the model has no gradient checkpointing and it is asked for.
    pub fn start(
        settings: RunSettings,
        model: &'a mut dyn VisionLanguageModel,
        objective: O,
    ) -> Result<Self, TrainError> {
        check::checkpointing(settings.gradient_checkpointing, model)?;
        check::trains(model)?;
        let header = Header::new(O::NAME, objective.config(), objective.data())?;
        Ok(Self {
            settings,
            model,
            objective,
            optimizer: AdamW::new(settings.optimizer),
            header,
            log: Vec::new(),
        })
    }

    /// Steps that the run has.
    pub fn total_steps(&self) -> usize {
        self.settings.steps
    }

    /// Steps between checkpoints; 0 keeps the last only.
    pub fn save_steps(&self) -> usize {
        self.settings.save_steps
    }

    /// Steps made so far.
    pub fn steps_done(&self) -> usize {
        self.log.len()
    }

    /// One record per step made so far, those before a restore included.
    pub fn log(&self) -> &[O::Record] {
        &self.log
    }

    /// Mean of `value` over the last tenth of the steps made, but over at least one; 0 before the first.
    pub(crate) fn recent_mean(&self, value: impl Fn(&O::Record) -> f64) -> f64 {
        recent_mean(&self.log, value)
    }

    /// The model being trained.
    pub fn model(&self) -> &dyn VisionLanguageModel {
        self.model
    }

    /// What is learnt.
    pub fn objective(&self) -> &O {
        &self.objective
    }

    /// Trains to the end, or until the observer stops the run.
    ///
    /// # Errors
    /// As [`Trainer::step`], and [`TrainError::Checkpoint`] from the observer.
    pub fn run(&mut self, observer: &mut dyn Observer<O::Record>) -> Result<(), TrainError> {
        let (total, every) = (self.settings.steps, self.settings.save_steps);
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

    /// Makes the next step and logs it.
    ///
    /// # Errors
    /// [`TrainError`]; the model is then as after the last whole update.
    pub fn step(&mut self) -> Result<&O::Record, TrainError> {
        let step = self.steps_done();
        let mut round = self.objective.draw(self.model, step)?;
        let updates = 0..self.settings.updates;
        let made: Vec<Made> = updates
            .map(|update| self.update(&mut round, At { step, update }))
            .collect::<Result<_, _>>()?;
        self.log.push(self.objective.record(round, &made));
        Ok(&self.log[step])
    }

    /// Makes one update of the weights.
    fn update(&mut self, round: &mut O::Round, at: At) -> Result<Made, TrainError> {
        let mut sum = GradientSum::zero(&self.learner().sets());
        let mut loss = 0.0;
        for rows in self.objective.micro_batches(round, at) {
            for (rows, value, noted) in self.micro_batch(round, at, &rows, &mut sum)? {
                loss += value;
                self.objective.note(round, at, rows, noted);
            }
        }
        let diverged = |what, value| TrainError::Diverged {
            step: at.step + 1,
            what,
            value,
        };
        if !loss.is_finite() {
            return Err(diverged("loss", loss));
        }
        let learning_rate = self.rate(at);
        let mut sets = vec![self.model.params_mut()];
        sets.extend(self.objective.own_mut());
        let grad_norm = self
            .optimizer
            .step(&mut sets, sum.into_inner(), learning_rate)?;
        if !grad_norm.is_finite() {
            return Err(diverged("gradient norm", grad_norm));
        }
        Ok(Made {
            loss,
            grad_norm,
            learning_rate,
        })
    }

    fn rate(&self, At { step, update }: At) -> f64 {
        self.settings.rate.at(step * self.settings.updates + update)
    }

    fn learner(&self) -> Learner<'_> {
        Learner {
            model: self.model,
            own: self.objective.own(),
        }
    }

    /// Adds the gradients of one micro-batch to `sum`, and gives the losses of its parts. Copies of the model work on
    /// parts of it side by side; where it is cut depends on its size alone, and the parts are added up in order.
    fn micro_batch<'r>(
        &self,
        round: &O::Round,
        at: At,
        rows: &'r [usize],
        sum: &mut GradientSum,
    ) -> Result<Vec<Part<'r, O>>, TrainError> {
        let passes = Passes {
            objective: &self.objective,
            round,
            at,
            checkpointing: self.settings.gradient_checkpointing,
        };
        let pieces: Vec<&[usize]> = match self.objective.apart() {
            Some(apart) => rows.chunks(apart.max(1)).collect(),
            None => vec![rows],
        };
        let twin = |_: usize| {
            let own = self.objective.own().map(|own| {
                let mut own = own.clone();
                own.detach();
                own
            });
            Some((self.model.twin()?, own))
        };
        let twins: Option<Vec<_>> = match pieces.len() {
            1 => None,
            pieces => (0..pieces).map(twin).collect(),
        };
        let Some(twins) = twins else {
            let loss = passes.add(self.learner(), rows, sum)?;
            return Ok(vec![(rows, loss.value, loss.noted)]);
        };
        let work = pieces.into_par_iter().zip(&twins);
        let parts: Vec<_> = work
            .map(|(rows, (model, own))| {
                let learner = Learner {
                    model: model.as_ref(),
                    own: own.as_ref(),
                };
                let mut sum = GradientSum::zero(&learner.sets());
                let loss = passes.add(learner, rows, &mut sum)?;
                Ok((rows, loss, sum))
            })
            .collect::<Result<_, TrainError>>()?;
        let join = |(rows, loss, part): (&'r [usize], Loss<O::Noted>, GradientSum)| {
            sum.join(part);
            (rows, loss.value, loss.noted)
        };
        Ok(parts.into_iter().map(join).collect())
    }

    /// Writes all that a stopped run needs to go on into `dir`. `owner` names whose state it is: nobody else can take it
    /// up.
    ///
    /// # Errors
    /// [`TrainError::Io`] with the path.
    pub fn save_state(&self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let header = self.header.owned_by(owner);
        let records = (&self.log[..], self.objective.notes());
        let sets = self.learner().sets();
        state::save(dir, &header, records, &sets, &self.optimizer)
    }

    /// Goes on from a state that [`Trainer::save_state`] wrote for `owner`. The run may be longer than the one that
    /// wrote it, if its schedule has the same learning rates over the steps already made.
    ///
    /// # Errors
    /// [`TrainError::State`] where the state belongs to another owner, other data, settings or another model, or is
    /// damaged in as much as a bit; then nothing has changed.
    pub fn restore(&mut self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let RunSettings {
            steps,
            updates,
            rate,
            ..
        } = self.settings;
        let mut sets = vec![self.model.params_mut()];
        sets.extend(self.objective.own_mut());
        let records = state::restore(
            dir,
            &self.header.owned_by(owner),
            &mut sets,
            &mut self.optimizer,
            steps,
            &|step| rate.at(step * updates + updates - 1),
        )?;
        self.log = records.log;
        self.objective.set_notes(records.notes);
        Ok(())
    }
}

/// Mean of `value` over the last tenth of a log, but over at least one record; 0 for an empty log.
pub(crate) fn recent_mean<R>(log: &[R], value: impl Fn(&R) -> f64) -> f64 {
    let tail = &log[log.len() - log.len().div_ceil(10)..];
    tail.iter().map(value).sum::<f64>() / tail.len().max(1) as f64
}
