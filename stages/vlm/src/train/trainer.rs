//! The run that all trainers make: steps one after another, updates from micro-batches, checkpoints on the way, a state
//! to go on from. What is learnt is the [`Objective`]'s.

use std::path::Path;

use burn::tensor::{Device, Tensor};
use dcsft_tensor::host::on_host;
use dcsft_tensor::ops::joined;

use crate::model::{LOGITS_AT_ONCE, VisionLanguageModel};
use crate::train::adamw::{AdamW, AdamWSettings};
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::floats::floats;
use crate::train::gradients::{Gather, GradientSum, Summands};
use crate::train::objective::{At, Made, Objective};
use crate::train::observer::{Checkpoint, Observer};
use crate::train::passes::{Learner, Part, Passes};
use crate::train::schedule::LearningRate;
use crate::train::state::{self, Header};
use crate::train::team::{Replicas, Team, side_by_side};

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
    logits_at_once: usize,
    replicas: Replicas,
    pub(crate) objective: O,
    optimizer: AdamW,
    header: Header,
    log: Vec<O::Record>,
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
        // The processor's memory takes them all.
        let on_device = model.params().iter().any(|param| !on_host(&param.value));
        let logits_at_once = match on_device {
            true => LOGITS_AT_ONCE,
            false => usize::MAX,
        };
        let mut trainer = Self {
            settings,
            model,
            logits_at_once,
            replicas: Replicas::default(),
            objective,
            optimizer: AdamW::new(settings.optimizer),
            header,
            log: Vec::new(),
        };
        trainer.set_logits_at_once(logits_at_once);
        Ok(trainer)
    }

    /// Has at most so many logits in memory at once, unless a single answer has more: in the place of
    /// [`LOGITS_AT_ONCE`] on a GPU, and of all on the CPU. Losses are then added up part by part.
    pub fn set_logits_at_once(&mut self, logits: usize) {
        self.logits_at_once = logits;
        self.objective.set_logits_at_once(logits);
    }

    /// The same run on further devices beside the model's own. They take turns at the micro-batches of an update, whose
    /// gradients are added up in the order of the micro-batches, and the first makes the update: its bytes are those of a
    /// run on one device.
    pub fn spread(&mut self, devices: &[Device]) {
        self.replicas = Replicas::new(devices, self.model, self.objective.own());
        let models = team(self.model, &self.replicas);
        self.objective.spread(devices, &models[1..]);
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
        let team = team(self.model, &self.replicas);
        let mut round = self.objective.draw(Team::new(&team), step)?;
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
        let mut parts = Vec::new();
        let micro_batches = self.objective.micro_batches(round, at);
        for wave in micro_batches.chunks(1 + self.replicas.iter().count()) {
            parts.extend(self.wave(round, at, wave, &mut sum)?);
        }
        let (rows, records): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let mut loss = 0.0;
        for (rows, values) in rows.into_iter().zip(read_all(records)?) {
            loss += self.objective.note(round, at, rows, &values);
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
        self.follow();
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

    /// Lets the other devices have what the first has learnt.
    fn follow(&mut self) {
        self.replicas
            .follow(self.model.params(), self.objective.own());
    }

    /// Adds the gradients of some micro-batches to `sum`, each from a device of its own, and gives what is to be read
    /// of their losses, all in the order of the micro-batches.
    fn wave<'r>(
        &self,
        round: &O::Round,
        at: At,
        micro_batches: &'r [Vec<usize>],
        sum: &mut GradientSum,
    ) -> Result<Vec<Part<'r>>, TrainError> {
        let first = self.learner();
        let learners = [first]
            .into_iter()
            .chain(self.replicas.iter().map(Learner::from));
        let mut own_sum = Some(&mut *sum);
        let turns: Vec<_> = learners
            .zip(micro_batches)
            .map(|(learner, rows)| (learner, rows, own_sum.take()))
            .collect();
        let passes = Passes {
            objective: &self.objective,
            round,
            at,
            checkpointing: self.settings.gradient_checkpointing,
            logits_at_once: self.logits_at_once,
        };
        let done = side_by_side(turns, |(learner, rows, sum)| {
            let mut summands = Summands::default();
            let sum: &mut dyn Gather = match sum {
                Some(sum) => sum,
                None => &mut summands,
            };
            let parts = passes.micro_batch(learner, rows, sum)?;
            Ok::<_, TrainError>((parts, summands))
        });
        let mut all = Vec::new();
        for result in done {
            let (parts, summands) = result?;
            summands.add_to(sum, &first.sets());
            all.extend(parts);
        }
        Ok(all)
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
        self.follow();
        self.log = records.log;
        self.objective.set_notes(records.notes);
        Ok(())
    }
}

/// The values of some records, each device read once: a read waits for all that it was asked to compute.
fn read_all(records: Vec<Tensor<1>>) -> Result<Vec<Vec<f32>>, TrainError> {
    let read = |tensor: Tensor<1>| floats(tensor, || "the loss".to_owned());
    let mut values: Vec<Vec<f32>> = vec![Vec::new(); records.len()];
    let mut left: Vec<(usize, Tensor<1>)> = records.into_iter().enumerate().collect();
    while let Some((_, first)) = left.first() {
        let device = first.device();
        let (here, elsewhere): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|(_, record)| record.device() == device);
        let (places, here): (Vec<usize>, Vec<Tensor<1>>) = here.into_iter().unzip();
        let lengths: Vec<usize> = here.iter().map(|record| record.dims()[0]).collect();
        let mut all = read(joined(here, 0))?.into_iter();
        for (place, length) in places.into_iter().zip(lengths) {
            values[place] = all.by_ref().take(length).collect();
        }
        left = elsewhere;
    }
    Ok(values)
}

/// All copies of the model, that which learns first.
fn team<'m>(
    model: &'m dyn VisionLanguageModel,
    replicas: &'m Replicas,
) -> Vec<&'m dyn VisionLanguageModel> {
    let others = replicas.iter().map(|replica| replica.model.as_ref());
    [model].into_iter().chain(others).collect()
}

/// Mean of `value` over the last tenth of a log, but over at least one record; 0 for an empty log.
pub(crate) fn recent_mean<R>(log: &[R], value: impl Fn(&R) -> f64) -> f64 {
    let tail = &log[log.len() - log.len().div_ceil(10)..];
    tail.iter().map(value).sum::<f64>() / tail.len().max(1) as f64
}
