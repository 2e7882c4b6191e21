//! Supervised fine-tuning: cross-entropy on the tokens of the right answers.
//!
//! The loss of an update is a mean of `-log p` over the answer tokens of its samples ([`LossMean`] says which), plus the
//! weighted cross-entropy of the auxiliary classifier, if there is one.

mod config;
mod record;

use dcsft_tensor::ops::weighted_sum;
use dcsft_tensor::params::ParamSet;
use dcsft_tensor::rng::StreamKey;

use crate::model::{Example, Forward, VisionLanguageModel};
use crate::train::augment::{Augment, Mirrored};
use crate::train::auxiliary::AuxiliaryHead;
use crate::train::error::TrainError;
use crate::train::objective::{At, Loss, Made, Objective, Seen};
use crate::train::order::Order;
use crate::train::team::Team;
use crate::train::trainer::Trainer;

use config::Counts;
pub use config::{AuxiliaryConfig, LossMean, SftConfig};
pub use record::SftRecord;

/// A supervised fine-tuning run.
pub type SftTrainer<'a> = Trainer<'a, Sft<'a>>;

/// Samples of a micro-batch that are worth a thread of their own, where the model can be copied.
const APART: usize = 32;

/// Learning the right answers to questions.
pub struct Sft<'a> {
    config: SftConfig,
    examples: &'a [Example],
    /// By example, or empty: what is shown where the image is mirrored, if that is something else.
    mirrored: &'a [Option<Mirrored>],
    labels: Option<&'a [u32]>,
    head: Option<AuxiliaryHead>,
    order: Order,
}

/// The samples of one step.
pub struct Samples {
    /// The step, counted from 0.
    step: usize,
    /// Indices of the examples.
    indices: Vec<usize>,
    /// Answer tokens of the step.
    tokens: usize,
    losses: Losses,
}

/// Parts of an update's loss.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    tokens: f64,
    auxiliary: f64,
}

impl<'a> SftTrainer<'a> {
    /// A run that trains the trainable weights of `model` on `examples`. `labels` are the classes for the
    /// auxiliary classifier, one per example.
    ///
    /// # Errors
    /// [`TrainError::Config`] for a setting, [`TrainError::Data`] or [`TrainError::Model`] for an example.
    pub fn new(
        config: SftConfig,
        model: &'a mut dyn VisionLanguageModel,
        examples: &'a [Example],
        labels: Option<&'a [u32]>,
    ) -> Result<Self, TrainError> {
        config.validate()?;
        check_examples(model, examples)?;
        let steps = config.total_steps(examples.len());
        if steps == 0 {
            let needed = config.samples_per_step();
            return Err(TrainError::Data(format!(
                "{} samples make no step of {needed}",
                examples.len()
            )));
        }
        let settings = config.run.settings(steps, 1);
        let head = match &config.auxiliary {
            Some(_) => Some(new_head(&config, model, examples, labels)?),
            None => None,
        };
        let objective = Sft {
            order: config.order(examples.len()),
            config,
            examples,
            mirrored: &[],
            labels,
            head,
        };
        Self::start(settings, model, objective)
    }

    /// The same with what each example asks and answers where its image is mirrored, where that is something else.
    #[must_use]
    pub fn with_mirrored(mut self, mirrored: &'a [Option<Mirrored>]) -> Self {
        self.objective.mirrored = mirrored;
        self
    }

    /// Mean loss of the last tenth of the steps made.
    pub fn last_loss(&self) -> f64 {
        self.recent_mean(|record| record.loss)
    }
}

impl Objective for Sft<'_> {
    const NAME: &'static str = "sft";
    type Config = SftConfig;
    type Round = Samples;
    type Record = SftRecord;

    fn config(&self) -> &SftConfig {
        &self.config
    }

    fn data(&self) -> String {
        data_digest(self.examples, self.labels.filter(|_| self.head.is_some()))
    }

    fn draw(&mut self, _: Team<'_>, step: usize) -> Result<Samples, TrainError> {
        let indices = self.order.batch(step);
        Ok(Samples {
            step,
            tokens: self.answer_tokens(step, &indices),
            indices,
            losses: Losses::default(),
        })
    }

    fn micro_batches(&self, round: &Samples, _: At) -> Vec<Vec<usize>> {
        let rows: Vec<usize> = (0..round.indices.len()).collect();
        let batches = rows.chunks(self.config.batch_size);
        batches.map(<[usize]>::to_vec).collect()
    }

    fn examples(
        &self,
        round: &Samples,
        At { step, .. }: At,
        rows: &[usize],
    ) -> Result<Vec<Example>, TrainError> {
        let examples = rows.iter().map(|&row| round.indices[row]);
        examples.map(|index| self.example(step, index)).collect()
    }

    fn dropout(&self, at: At) -> Option<StreamKey> {
        Some(StreamKey::new("sft dropout", self.config.run.seed).number(at.step as u64))
    }

    fn apart(&self) -> Option<usize> {
        Some(APART)
    }

    fn loss(&self, round: &Samples, at: At, rows: &[usize], seen: &Seen<'_>) -> Loss {
        let counts = self.counts(round, at, rows[0]);
        let weights = seen.per_token(|row| {
            let length = seen.examples[row].answer.len();
            -self.config.loss_mean.weight(counts, length) as f32
        });
        let mut tensor = weighted_sum(seen.logprobs(1.0), &weights);
        let mut record = vec![tensor.clone()];
        if let (Some(head), Some(params), Some(labels), Some(auxiliary), Some(pooled)) = (
            &self.head,
            seen.own,
            self.labels,
            &self.config.auxiliary,
            &seen.pooled,
        ) {
            let labels: Vec<u32> = rows.iter().map(|&row| labels[round.indices[row]]).collect();
            let share = vec![(1.0 / counts.samples as f64) as f32; labels.len()];
            let classified = head.loss(params, pooled.clone(), &labels, &share);
            record.push(classified.clone());
            tensor = tensor + classified.mul_scalar(auxiliary.weight);
        }
        Loss::new(tensor, record)
    }

    fn note(&mut self, round: &mut Samples, _: At, _: &[usize], values: &[f32]) -> f64 {
        let [tokens, auxiliary] = [0, 1].map(|index| values.get(index).copied().unwrap_or(0.0));
        let [tokens, auxiliary] = [tokens, auxiliary].map(f64::from);
        round.losses.tokens += tokens;
        round.losses.auxiliary += auxiliary;
        tokens + auxiliary
    }

    fn record(&mut self, round: Samples, made: &[Made]) -> SftRecord {
        let [made] = made else {
            unreachable!("one update a step")
        };
        SftRecord {
            step: round.step + 1,
            epoch: self.order.epochs(round.step + 1),
            learning_rate: made.learning_rate,
            loss: round.losses.tokens,
            auxiliary_loss: self.head.as_ref().map(|_| round.losses.auxiliary),
            grad_norm: made.grad_norm,
            samples: round.indices.len(),
            tokens: round.tokens,
        }
    }

    fn own(&self) -> Option<&ParamSet> {
        self.head.as_ref().map(|head| &head.params)
    }

    fn own_mut(&mut self) -> Option<&mut ParamSet> {
        self.head.as_mut().map(|head| &mut head.params)
    }
}

impl Sft<'_> {
    /// What the losses of the micro-batch that `row` is in are averaged over.
    fn counts(&self, round: &Samples, At { step, .. }: At, row: usize) -> Counts {
        let size = self.config.batch_size;
        let first = row / size * size;
        let micro_batch = &round.indices[first..round.indices.len().min(first + size)];
        Counts {
            tokens: round.tokens,
            samples: round.indices.len(),
            micro_batches: round.indices.len().div_ceil(size),
            micro_batch_tokens: self.answer_tokens(step, micro_batch),
        }
    }

    /// A training example as this step sees it.
    fn example(&self, step: usize, index: usize) -> Result<Example, TrainError> {
        let mut example = self.examples[index].clone();
        if self.config.augment != Augment::default() {
            if let Some(mirrored) = self.mirrored(step, index) {
                example.prompt.ask(&mirrored.text);
                example.answer = mirrored.answer.clone();
            }
            let key = self.augment_key(step, index);
            for (index, image) in example.prompt.images.iter_mut().enumerate() {
                // The first image's draws are those of a sample with one image.
                let key = match index {
                    0 => key.clone(),
                    _ => key.clone().number(index as u64),
                };
                let changed = self.config.augment.apply(image.load()?.as_ref(), &key);
                *image = changed.into();
            }
        }
        Ok(example)
    }

    /// What this step shows in the place of the example's own question and answer: its image is mirrored.
    fn mirrored(&self, step: usize, index: usize) -> Option<&Mirrored> {
        let mirrored = self.mirrored.get(index)?.as_ref()?;
        let flips = self.config.augment.flips(&self.augment_key(step, index));
        flips.then_some(mirrored)
    }

    /// Names the draws that change the example's image in this step.
    fn augment_key(&self, step: usize, index: usize) -> StreamKey {
        StreamKey::new("augment", self.config.run.seed)
            .number(step as u64)
            .text(&self.examples[index].prompt.id)
    }

    /// Tokens of the answers that this step shows.
    fn answer_tokens(&self, step: usize, indices: &[usize]) -> usize {
        let length = |&index: &usize| match self.mirrored(step, index) {
            Some(mirrored) => mirrored.answer.len(),
            None => self.examples[index].answer.len(),
        };
        indices.iter().map(length).sum::<usize>()
    }
}

fn check_examples(model: &dyn VisionLanguageModel, examples: &[Example]) -> Result<(), TrainError> {
    if examples.is_empty() {
        return Err(TrainError::Data("there are no samples".to_owned()));
    }
    for example in examples {
        if example.answer.is_empty() {
            return Err(TrainError::Data(format!(
                "sample {} has an empty answer",
                example.prompt.id
            )));
        }
        model.check(&example.prompt, example.last_answer())?;
    }
    Ok(())
}

fn new_head(
    config: &SftConfig,
    model: &dyn VisionLanguageModel,
    examples: &[Example],
    labels: Option<&[u32]>,
) -> Result<AuxiliaryHead, TrainError> {
    let labels = labels.unwrap_or_default();
    if labels.len() != examples.len() {
        return Err(TrainError::Data(format!(
            "the auxiliary classifier needs one label per sample: {} labels for {} samples",
            labels.len(),
            examples.len()
        )));
    }
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    // The width is the model's own affair; one pass over one sample shows it.
    let pooled = model.forward(&examples[..1], &Forward::default())?.pooled;
    let pooled = pooled.ok_or_else(|| {
        TrainError::config(
            "auxiliary",
            "{..}",
            "this model gives no image features to classify",
        )
    })?;
    Ok(AuxiliaryHead::new(
        pooled.dims()[1],
        classes,
        config.run.seed,
        &pooled.device(),
    ))
}

/// Names the training data, so that a state is not taken up with other data.
fn data_digest(examples: &[Example], labels: Option<&[u32]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for example in examples {
        hasher
            .update(&(example.prompt.id.len() as u64).to_le_bytes())
            .update(example.prompt.id.as_bytes());
        hasher.update(&(example.answer.len() as u64).to_le_bytes());
        example.answer.iter().for_each(|token| {
            hasher.update(&token.to_le_bytes());
        });
    }
    labels.into_iter().flatten().for_each(|label| {
        hasher.update(&label.to_le_bytes());
    });
    hasher.finalize().to_hex().to_string()
}
