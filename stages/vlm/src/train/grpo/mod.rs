//! Group-relative policy optimisation (GRPO): the model draws several answers to each prompt, and learns from
//! how each one's reward compares with the others of its group.
//!
//! A step draws its answers with the current policy, scores them, deals them out to minibatches
//! (`steps_per_generation`), and makes an update from each of these, as often as `updates_per_batch` says. Adapters'
//! dropout acts where the policy is differentiated, and neither where it draws answers nor in the reference.
//!
//! The ratio compares with the log-probabilities of the policy that drew the answers. With one minibatch they are those of
//! the first update's own pass: its ratio is exactly 1, and later updates, which draw dropout of their own, compare with
//! it. With more the policy has moved before the second one comes up, so a pass of its own takes them before the first
//! update, as in TRL.

pub mod advantage;
mod config;
mod data;
pub mod loss;
mod record;
mod rollout;
mod update;

use burn::tensor::Device;
use dcsft_tensor::rng::StreamKey;
use serde::Serialize;

use crate::model::{Example, VisionLanguageModel};
use crate::train::error::TrainError;
use crate::train::objective::{At, Loss, Made, Objective, Seen};
use crate::train::order::Order;
use crate::train::team::Team;
use crate::train::trainer::Trainer;

pub use config::GrpoConfig;
pub use data::{GrpoData, Reward, Score};
pub use record::{BinGradient, BinShare, GrpoRecord, GrpoSummary};
use rollout::{Drawn, Rollout, Row};
use update::Tokens;

/// A GRPO run.
pub type GrpoTrainer<'a> = Trainer<'a, Grpo<'a>>;

/// Learning from answers of the model's own.
pub struct Grpo<'a> {
    config: GrpoConfig,
    reference: Option<&'a dyn VisionLanguageModel>,
    /// Its copies on further devices.
    references: Vec<Box<dyn VisionLanguageModel>>,
    data: GrpoData<'a>,
    reward: Reward<'a>,
    order: Order,
    /// Adapters draw dropout in the updates.
    dropout: bool,
    /// Lines of JSON, if they are kept.
    completions: Option<Vec<u8>>,
    /// Of a scoring pass.
    logits_at_once: usize,
}

/// A line about a drawn answer.
#[derive(Serialize)]
struct CompletionLine<'a> {
    /// The step, counted from 1.
    step: usize,
    /// The prompt's content ID.
    id: &'a str,
    completion: &'a str,
    /// None where it could not be scored.
    reward: Option<f32>,
    advantage: f32,
}

impl<'a> GrpoTrainer<'a> {
    /// A run that trains the trainable weights of `model`. `reference` is the frozen model that the KL term
    /// holds the policy to (a copy of the model at the start, none of its weights trainable); it is not used where
    /// `beta` is 0.
    ///
    /// # Errors
    /// [`TrainError::Config`] for a setting, or for a missing reference; [`TrainError::Data`] or
    /// [`TrainError::Model`] for a prompt.
    pub fn new(
        config: GrpoConfig,
        model: &'a mut dyn VisionLanguageModel,
        reference: Option<&'a dyn VisionLanguageModel>,
        data: GrpoData<'a>,
        reward: Reward<'a>,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        data.check(model)?;
        let reference = reference.filter(|_| config.beta != 0.0);
        if config.beta != 0.0 && reference.is_none() {
            return Err(TrainError::config(
                "beta",
                config.beta,
                "it needs a reference model; 0 does without",
            ));
        }
        // A forward pass over trainable weights records what a backward pass needs, and none ever comes.
        if reference.is_some_and(|reference| reference.params().iter().any(|param| param.trainable))
        {
            let problem = "the reference model's weights are trainable; it must be frozen";
            return Err(TrainError::Data(problem.to_owned()));
        }
        let steps = config.total_steps(data.prompts.len());
        let settings = config.run.settings(steps, config.updates());
        let objective = Grpo {
            order: config.order(data.prompts.len()),
            dropout: model.lora().is_some_and(|lora| lora.dropout > 0.0),
            config,
            reference,
            references: Vec::new(),
            data,
            reward,
            completions: None,
            logits_at_once: usize::MAX,
        };
        Self::start(settings, model, objective)
    }

    /// Writes down every answer that is drawn, with reward and advantage; before the first step.
    pub fn keep_completions(&mut self) {
        self.objective.completions = Some(Vec::new());
    }

    /// The answers drawn so far, one line of JSON each: `{step, id, completion, reward, advantage}`, `id` the prompt's. None
    /// unless they are [kept](Self::keep_completions).
    pub fn completions(&self) -> Option<&[u8]> {
        self.objective.completions.as_deref()
    }

    /// What the steps made so far come to.
    pub fn summary(&self) -> GrpoSummary {
        GrpoSummary::of(self.log(), self.objective.data.bins)
    }
}

impl Objective for Grpo<'_> {
    const NAME: &'static str = "grpo";
    type Config = GrpoConfig;
    type Round = Rollout;
    type Record = GrpoRecord;

    fn config(&self) -> &GrpoConfig {
        &self.config
    }

    fn data(&self) -> String {
        self.data.digest()
    }

    fn set_logits_at_once(&mut self, logits: usize) {
        self.logits_at_once = logits;
    }

    fn draw(&mut self, team: Team<'_>, step: usize) -> Result<Rollout, TrainError> {
        let indices = self.order.batch(step);
        let (config, data) = (&self.config, &self.data);
        let mut rollout = Rollout::draw(config, team, data, self.reward, step, &indices)?;
        self.write_completions(team.first(), step, &rollout.drawn)?;
        rollout.record.step = step + 1;
        rollout.record.epoch = self.order.epochs(step + 1);
        if let Some(reference) = self.reference {
            let others = self.references.iter().map(AsRef::as_ref);
            let references: Vec<_> = [reference].into_iter().chain(others).collect();
            self.score(Team::new(&references), &mut rollout, |row| {
                &mut row.reference
            })?;
        }
        if self.config.steps_per_generation > 1 {
            self.score(team, &mut rollout, |row| &mut row.old)?;
        }
        Ok(rollout)
    }

    fn spread(&mut self, devices: &[Device], models: &[&dyn VisionLanguageModel]) {
        let Some(reference) = self.reference else {
            return;
        };
        // Under fresh adapters a copy of the model holds the reference's weights already.
        let copy = |(device, model): (&Device, &&dyn VisionLanguageModel)| match (
            model.lora(),
            reference.lora(),
        ) {
            (Some(_), None) => model.unadapted(),
            _ => reference.replica(device),
        };
        self.references = devices.iter().zip(models).map(copy).collect();
    }

    fn micro_batches(&self, round: &Rollout, at: At) -> Vec<Vec<usize>> {
        let minibatch = at.update % round.minibatches.len();
        self.passes(round.minibatches[minibatch].clone())
    }

    fn examples(&self, round: &Rollout, _: At, rows: &[usize]) -> Result<Vec<Example>, TrainError> {
        let rows = rows.iter().map(|&row| &round.rows[row]);
        // With dropout each row draws its own, so that the answers to a prompt cannot share its rows.
        let example = |row: &Row| match self.dropout {
            true => row.apart(),
            false => row.example.clone(),
        };
        Ok(rows.map(example).collect())
    }

    fn dropout(&self, At { step, update }: At) -> Option<StreamKey> {
        self.dropout.then(|| {
            StreamKey::new("grpo dropout", self.config.run.seed)
                .number(step as u64)
                .number(update as u64)
        })
    }

    fn loss(&self, round: &Rollout, _: At, rows: &[usize], seen: &Seen<'_>) -> Loss {
        let rows: Vec<&Row> = rows.iter().map(|&row| &round.rows[row]).collect();
        update::loss(&self.config, &rows, seen)
    }

    fn note(&mut self, round: &mut Rollout, at: At, rows: &[usize], values: &[f32]) -> f64 {
        let noted = Tokens::of(values, round, rows);
        noted.note(&self.config, round, rows);
        let one_minibatch = self.config.steps_per_generation == 1;
        if at.update == 0 && one_minibatch && self.config.updates() > 1 {
            for (&row, logprobs) in rows.iter().zip(noted.logprobs_by_row(round, rows)) {
                round.rows[row].old = logprobs;
            }
        }
        noted.loss
    }

    fn record(&mut self, round: Rollout, made: &[Made]) -> GrpoRecord {
        let mut record = round.record;
        for update in made {
            record.learning_rate = update.learning_rate;
            record.loss += update.loss / made.len() as f64;
            record.grad_norm += update.grad_norm / made.len() as f64;
        }
        record
    }

    fn notes(&self) -> &[u8] {
        self.completions.as_deref().unwrap_or_default()
    }

    fn set_notes(&mut self, notes: Vec<u8>) {
        if let Some(completions) = &mut self.completions {
            *completions = notes;
        }
    }
}

impl Grpo<'_> {
    /// Rows cut into forward passes.
    fn passes(&self, rows: std::ops::Range<usize>) -> Vec<Vec<usize>> {
        let rows: Vec<usize> = rows.collect();
        let size = match self.config.forward_batch {
            0 => rows.len().max(1),
            rows => rows,
        };
        rows.chunks(size).map(<[usize]>::to_vec).collect()
    }

    /// Fills in the log-probabilities of all answers under a model, without dropout.
    fn score(
        &self,
        team: Team<'_>,
        rollout: &mut Rollout,
        place: fn(&mut Row) -> &mut Vec<f32>,
    ) -> Result<(), TrainError> {
        let checkpointing = self.config.run.gradient_checkpointing;
        let minibatches = rollout.minibatches.iter();
        let passes: Vec<Vec<usize>> = minibatches
            .flat_map(|minibatch| self.passes(minibatch.clone()))
            .collect();
        let scored = team.work(&passes, |model, rows| {
            let rows = rows.iter().map(|&row| &rollout.rows[row]);
            let examples: Vec<Example> = rows.map(|row| row.example.clone()).collect();
            let temperature = self.config.temperature;
            let at_once = self.logits_at_once;
            update::logprobs(model, &examples, temperature, checkpointing, at_once)
        })?;
        for (rows, logprobs) in passes.into_iter().zip(scored) {
            for (row, logprobs) in rows.into_iter().zip(logprobs) {
                *place(&mut rollout.rows[row]) = logprobs;
            }
        }
        Ok(())
    }

    fn write_completions(
        &mut self,
        model: &dyn VisionLanguageModel,
        step: usize,
        drawn: &[Drawn],
    ) -> Result<(), TrainError> {
        let Some(lines) = &mut self.completions else {
            return Ok(());
        };
        for answer in drawn {
            let line = CompletionLine {
                step: step + 1,
                id: &self.data.prompts[answer.prompt].id,
                completion: &model.tokenizer().decode_answer(&answer.tokens),
                reward: (!answer.reward.is_nan()).then_some(answer.reward),
                advantage: answer.advantage,
            };
            serde_json::to_writer(&mut *lines, &line)
                .map_err(|error| TrainError::Data(error.to_string()))?;
            lines.push(b'\n');
        }
        Ok(())
    }
}
