//! Supervised fine-tuning: cross-entropy on the tokens of the right answers.
//!
//! The loss of an update is a mean of `-log p` over the answer tokens of its samples ([`LossMean`] says which), plus the
//! weighted cross-entropy of the auxiliary classifier, if there is one.

mod config;
mod record;

use std::path::Path;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{token_logprobs, weighted_sum};
use dcsft_tensor::params::ParamSet;
use dcsft_tensor::rng::StreamKey;
use rayon::prelude::*;

use crate::model::{Example, Forward, Output, VisionLanguageModel};
use crate::train::adamw::{AdamW, floats};
use crate::train::augment::{Augment, Mirrored};
use crate::train::auxiliary::AuxiliaryHead;
use crate::train::check;
use crate::train::error::TrainError;
use crate::train::gradients::GradientSum;
use crate::train::order::Order;
use crate::train::schedule::LearningRate;
use crate::train::state::{self, Header};
use crate::train::trainer::{Trainer, recent_mean};
use config::Counts;
pub use config::{AuxiliaryConfig, LossMean, SftConfig};
pub use record::SftRecord;

/// A supervised fine-tuning run.
pub struct SftTrainer<'a> {
    config: SftConfig,
    model: &'a mut dyn VisionLanguageModel,
    examples: &'a [Example],
    /// By example, or empty: what is shown where the image is mirrored, if that is something else.
    mirrored: &'a [Option<Mirrored>],
    labels: Option<&'a [u32]>,
    head: Option<AuxiliaryHead>,
    optimizer: AdamW,
    order: Order,
    rate: LearningRate,
    header: Header,
    log: Vec<SftRecord>,
}

/// Samples of a micro-batch that are worth a thread of their own, where the model can be copied.
const APART: usize = 32;

/// What an update is about.
struct Update {
    step: usize,
    counts: Counts,
}

/// What learns: the model, and the auxiliary classifier if there is one.
struct Learner<'a> {
    model: &'a dyn VisionLanguageModel,
    head: Option<&'a AuxiliaryHead>,
}

impl<'a> Learner<'a> {
    fn sets(&self) -> Vec<&'a ParamSet> {
        std::iter::once(self.model.params())
            .chain(self.head.map(|head| &head.params))
            .collect()
    }
}

/// Parts of an update's losses, and their gradients.
struct Part {
    tokens: f64,
    auxiliary: f64,
    gradients: GradientSum,
}

impl Part {
    fn zero(learner: &Learner<'_>) -> Self {
        Self {
            tokens: 0.0,
            auxiliary: 0.0,
            gradients: GradientSum::zero(&learner.sets()),
        }
    }

    fn join(&mut self, other: Self) {
        self.tokens += other.tokens;
        self.auxiliary += other.auxiliary;
        self.gradients.join(other.gradients);
    }
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
        check::checkpointing(config.gradient_checkpointing, model)?;
        check_examples(model, examples)?;
        let total = config.total_steps(examples.len());
        if total == 0 {
            let needed = config.samples_per_step();
            return Err(TrainError::Data(format!(
                "{} samples make no step of {needed}",
                examples.len()
            )));
        }
        let head = match &config.auxiliary {
            Some(_) => Some(new_head(&config, model, examples, labels)?),
            None => None,
        };
        let data = data_digest(examples, labels.filter(|_| head.is_some()));
        let header = Header::new("sft", &config, data)?;
        Ok(Self {
            optimizer: AdamW::new(config.adamw()),
            order: config.order(examples.len()),
            rate: config.rate(total),
            config,
            model,
            examples,
            mirrored: &[],
            labels,
            head,
            header,
            log: Vec::new(),
        })
    }

    /// The same with what each example asks and answers where its image is mirrored, where that is something else.
    #[must_use]
    pub fn with_mirrored(self, mirrored: &'a [Option<Mirrored>]) -> Self {
        Self { mirrored, ..self }
    }

    /// Mean loss of the last tenth of the steps made.
    pub fn last_loss(&self) -> f64 {
        recent_mean(&self.log, |record| record.loss)
    }

    fn sets(&self) -> Vec<&ParamSet> {
        self.learner().sets()
    }

    fn learner(&self) -> Learner<'_> {
        Learner {
            model: self.model,
            head: self.head.as_ref(),
        }
    }

    /// Adds loss and gradients of one micro-batch to `whole`. Copies of the model work on parts of it side by side;
    /// where it is cut depends on its size alone, and the parts are added up in order.
    fn add_micro_batch(
        &self,
        update: &Update,
        indices: &[usize],
        whole: &mut Part,
    ) -> Result<(), TrainError> {
        let pieces: Vec<&[usize]> = indices.chunks(APART).collect();
        let twin = |_| {
            Some((
                self.model.twin()?,
                self.head.as_ref().map(AuxiliaryHead::twin),
            ))
        };
        let twins: Option<Vec<_>> = match pieces.len() {
            1 => None,
            parts => (0..parts).map(twin).collect(),
        };
        let Some(twins) = twins else {
            return self.add_part(&self.learner(), update, indices, whole);
        };
        let work = pieces.into_par_iter().zip(&twins);
        let parts: Vec<Part> = work
            .map(|(indices, (model, head))| {
                let learner = Learner {
                    model: model.as_ref(),
                    head: head.as_ref(),
                };
                let mut part = Part::zero(&learner);
                self.add_part(&learner, update, indices, &mut part)?;
                Ok(part)
            })
            .collect::<Result<_, TrainError>>()?;
        parts.into_iter().for_each(|part| whole.join(part));
        Ok(())
    }

    /// Adds loss and gradients of some of an update's samples to `part`.
    fn add_part(
        &self,
        learner: &Learner<'_>,
        update: &Update,
        indices: &[usize],
        part: &mut Part,
    ) -> Result<(), TrainError> {
        let batch: Vec<Example> = indices
            .iter()
            .map(|&index| self.example(update.step, index))
            .collect::<Result<_, _>>()?;
        let targets: Vec<u32> = batch
            .iter()
            .flat_map(|example| example.answer.iter().copied())
            .collect();
        let key = StreamKey::new("sft dropout", self.config.seed).number(update.step as u64);
        let options = Forward {
            dropout: Some(key),
            checkpointing: self.config.gradient_checkpointing,
        };
        let Output {
            logits,
            pooled,
            tape,
        } = learner.model.forward(&batch, &options)?;
        let weights: Vec<f32> = batch
            .iter()
            .flat_map(|example| {
                let length = example.answer.len();
                let weight = self.config.loss_mean.weight(update.counts, length);
                std::iter::repeat_n(-weight as f32, length)
            })
            .collect();
        let mut loss = weighted_sum(token_logprobs(logits.clone(), &targets, 1.0), &weights);
        part.tokens += scalar(&loss)?;
        if let (Some(head), Some(labels), Some(auxiliary), Some(pooled)) =
            (learner.head, self.labels, &self.config.auxiliary, pooled)
        {
            let labels: Vec<u32> = indices.iter().map(|&index| labels[index]).collect();
            let share = (1.0 / update.counts.samples as f64) as f32;
            let classified = head.loss(pooled, &labels, &vec![share; labels.len()]);
            part.auxiliary += scalar(&classified)?;
            loss = loss + classified.mul_scalar(auxiliary.weight);
        }
        part.gradients
            .backward(&learner.sets(), loss, &logits, tape);
        Ok(())
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
        StreamKey::new("augment", self.config.seed)
            .number(step as u64)
            .text(&self.examples[index].prompt.id)
    }

    /// Tokens of the answer that this step shows.
    fn answer_tokens(&self, step: usize, index: usize) -> usize {
        let mirrored = self.mirrored(step, index);
        mirrored.map_or(self.examples[index].answer.len(), |mirrored| {
            mirrored.answer.len()
        })
    }
}

impl Trainer for SftTrainer<'_> {
    type Record = SftRecord;

    fn total_steps(&self) -> usize {
        self.rate.total
    }

    fn save_steps(&self) -> usize {
        self.config.save_steps
    }

    fn log(&self) -> &[SftRecord] {
        &self.log
    }

    fn model(&self) -> &dyn VisionLanguageModel {
        self.model
    }

    fn step(&mut self) -> Result<&SftRecord, TrainError> {
        let step = self.steps_done();
        let indices = self.order.batch(step);
        let length = |indices: &[usize]| -> usize {
            let lengths = indices.iter().map(|&index| self.answer_tokens(step, index));
            lengths.sum::<usize>()
        };
        let tokens = length(&indices);
        let mut whole = Part::zero(&self.learner());
        for micro_batch in indices.chunks(self.config.batch_size) {
            let counts = Counts {
                tokens,
                samples: indices.len(),
                micro_batches: indices.len().div_ceil(self.config.batch_size),
                micro_batch_tokens: length(micro_batch),
            };
            self.add_micro_batch(&Update { step, counts }, micro_batch, &mut whole)?;
        }
        let diverged = |what, value| TrainError::Diverged {
            step: step + 1,
            what,
            value,
        };
        let loss = whole.tokens + whole.auxiliary;
        if !loss.is_finite() {
            return Err(diverged("loss", loss));
        }
        let learning_rate = self.rate.at(step);
        let mut sets = vec![self.model.params_mut()];
        sets.extend(self.head.as_mut().map(|head| &mut head.params));
        let grad_norm =
            self.optimizer
                .step(&mut sets, whole.gradients.into_inner(), learning_rate)?;
        if !grad_norm.is_finite() {
            return Err(diverged("gradient norm", grad_norm));
        }
        self.log.push(SftRecord {
            step: step + 1,
            epoch: self.order.epochs(step + 1),
            learning_rate,
            loss: whole.tokens,
            auxiliary_loss: self.head.as_ref().map(|_| whole.auxiliary),
            grad_norm,
            samples: indices.len(),
            tokens,
        });
        Ok(&self.log[step])
    }

    fn save_state(&self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let header = self.header.owned_by(owner);
        let records = (&self.log[..], &[][..]);
        state::save(dir, &header, records, &self.sets(), &self.optimizer)
    }

    fn restore(&mut self, dir: &Path, owner: &str) -> Result<(), TrainError> {
        let rate = self.rate;
        let mut sets = vec![self.model.params_mut()];
        sets.extend(self.head.as_mut().map(|head| &mut head.params));
        let records = state::restore(
            dir,
            &self.header.owned_by(owner),
            &mut sets,
            &mut self.optimizer,
            rate.total,
            &|step| rate.at(step),
        )?;
        self.log = records.log;
        Ok(())
    }
}

fn scalar(tensor: &Tensor<1>) -> Result<f64, TrainError> {
    let values = floats(tensor.clone(), || "the loss".to_owned())?;
    Ok(values.into_iter().map(f64::from).sum::<f64>())
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
        model.check(&example.prompt, &example.answer)?;
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
        config.seed,
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
