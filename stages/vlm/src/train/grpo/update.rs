//! One update of the policy from a step's answers.

use burn::tensor::{Device, Tensor, TensorData, activation};

use crate::model::{Example, Forward, Output, VisionLanguageModel};
use crate::ops::{entropy, token_logprobs};
use crate::train::adamw::floats;
use crate::train::error::TrainError;
use crate::train::gradients::GradientSum;
use crate::train::grpo::GrpoTrainer;
use crate::train::grpo::loss::{Clip, policy_gradient, token_loss};
use crate::train::grpo::record::GrpoRecord;
use crate::train::grpo::rollout::{Rollout, Row};

/// Per-token numbers of one chunk of answers, all of length `tokens`.
struct Chunk {
    loss: f64,
    logprobs: Vec<f32>,
    ratio: Vec<f32>,
    kl: Option<Vec<f32>>,
    /// d(loss) / d(log p).
    slope: Vec<f32>,
    /// Length of d(log p) / d(logits).
    reach: Vec<f32>,
    entropy: Vec<f32>,
}

impl GrpoTrainer<'_> {
    /// Fills in the reference's log-probabilities, where there is a reference.
    pub(super) fn score_by_reference(&self, rollout: &mut Rollout) -> Result<(), TrainError> {
        let Some(reference) = self.reference else {
            return Ok(());
        };
        let size = self.chunk_size(rollout);
        for rows in rollout.rows.chunks_mut(size) {
            let (_, logprobs) = self.logprobs(reference, rows)?;
            let logprobs = read(&logprobs, "the reference's log-probabilities")?;
            for (row, logprobs) in by_row(rows, logprobs) {
                row.reference = logprobs;
            }
        }
        Ok(())
    }

    /// Makes the `update`-th update of a step and adds it to the step's record.
    pub(super) fn update(
        &mut self,
        step: usize,
        update: usize,
        rollout: &mut Rollout,
    ) -> Result<(), TrainError> {
        let size = self.chunk_size(rollout);
        let updates = self.config.updates_per_batch;
        let mut sum = GradientSum::zero(&[self.model.params()]);
        let mut loss = 0.0;
        let tokens =
            [rollout.tokens, rollout.trained_tokens].map(|tokens| (tokens * updates) as f64);
        for rows in rollout.rows.chunks_mut(size) {
            let chunk = self.chunk(rows, &mut sum)?;
            loss += chunk.loss;
            self.note(rows, &chunk, tokens, &mut rollout.record);
            if update == 0 && updates > 1 {
                for (row, logprobs) in by_row(rows, chunk.logprobs) {
                    row.old = logprobs;
                }
            }
        }
        let diverged = |what, value| TrainError::Diverged {
            step: step + 1,
            what,
            value,
        };
        if !loss.is_finite() {
            return Err(diverged("loss", loss));
        }
        let learning_rate = self.rate.at(step * updates + update);
        let grad_norm = self.optimizer.step(
            &mut [self.model.params_mut()],
            sum.into_inner(),
            learning_rate,
        )?;
        if !grad_norm.is_finite() {
            return Err(diverged("gradient norm", grad_norm));
        }
        let record = &mut rollout.record;
        record.learning_rate = learning_rate;
        record.loss += loss / updates as f64;
        record.grad_norm += grad_norm / updates as f64;
        Ok(())
    }

    fn chunk_size(&self, rollout: &Rollout) -> usize {
        match self.config.forward_batch {
            0 => rollout.rows.len().max(1),
            rows => rows,
        }
    }

    /// The model's forward pass over `rows`, with the log-probability of each answer token: `[tokens]`.
    fn logprobs(
        &self,
        model: &dyn VisionLanguageModel,
        rows: &[Row],
    ) -> Result<(Output, Tensor<1>), TrainError> {
        let batch: Vec<Example> = rows.iter().map(|row| row.example.clone()).collect();
        let targets: Vec<u32> = batch
            .iter()
            .flat_map(|example| example.answer.iter().copied())
            .collect();
        let output = model.forward(&batch, &Forward::default())?;
        let logprobs = token_logprobs(output.logits.clone(), &targets, self.config.temperature);
        Ok((output, logprobs))
    }

    /// Loss and per-token numbers of some of a step's answers; adds their gradient to `sum`.
    ///
    /// The loss is first differentiated in the log-probabilities alone, which gives each token's slope, and
    /// these slopes are then sent back through the model.
    fn chunk(&self, rows: &[Row], sum: &mut GradientSum) -> Result<Chunk, TrainError> {
        let (output, policy) = self.logprobs(self.model, rows)?;
        let device = policy.device();
        let leaf = policy.clone().inner().autodiff().require_grad();
        let spread = |value: f32, row: &Row| vec![value; row.example.answer.len()];
        let advantages = per_token(rows, |row| spread(row.advantage, row), &device);
        let weights = per_token(rows, |row| spread(row.weight, row), &device);
        let known = |values: fn(&Row) -> &Vec<f32>| {
            let known = rows.iter().all(|row| !values(row).is_empty());
            known.then(|| per_token(rows, |row| values(row).clone(), &device))
        };
        let (old, reference) = (known(|row| &row.old), known(|row| &row.reference));
        let objective = self.config.objective();
        let token = token_loss(
            &objective,
            &leaf,
            old.as_ref(),
            reference.as_ref(),
            &advantages,
        );
        let loss = (token.loss * weights).sum();
        let mut gradients = loss.backward();
        let slope = leaf
            .grad_remove(&mut gradients)
            .unwrap_or_else(|| leaf.clone().inner().zeros_like());
        let surrogate = (policy * slope.clone().autodiff()).sum();
        sum.add(&[self.model.params()], surrogate.backward());
        let temperature = self.config.temperature;
        let logits = output.logits.inner();
        let logprobs = leaf.inner();
        Ok(Chunk {
            loss: read(&loss, "the loss")?.into_iter().map(f64::from).sum(),
            ratio: read(&token.ratio, "the ratios")?,
            kl: token.kl.map(|kl| read(&kl, "the KL terms")).transpose()?,
            slope: read(&slope, "the loss's slopes")?,
            reach: read(
                &reach(logits.clone(), &logprobs, temperature),
                "the logits' gradients",
            )?,
            entropy: read(&entropy(logits, temperature), "the entropies")?,
            logprobs: read(&logprobs, "the log-probabilities")?,
        })
    }

    /// Adds a chunk's numbers to the record. Means are over all `drawn` tokens of all updates, those of the
    /// entropy over the `trained` ones.
    fn note(
        &self,
        rows: &[Row],
        chunk: &Chunk,
        [drawn, trained]: [f64; 2],
        record: &mut GrpoRecord,
    ) {
        let objective = self.config.objective();
        let mut first = 0;
        for row in rows {
            let bin = &mut record.bins[row.bin];
            let copies = row.copies as f64;
            let mut squares = 0.0;
            for token in first..first + row.example.answer.len() {
                let (ratio, slope) = (chunk.ratio[token], f64::from(chunk.slope[token]));
                squares += (slope * f64::from(chunk.reach[token])).powi(2);
                let reward_slope = row.weight * policy_gradient(&objective, ratio, row.advantage);
                bin.advantage += f64::from(reward_slope.abs());
                match Clip::of(&objective, ratio, row.advantage) {
                    Some(Clip::Low) => record.clip_low += copies / drawn,
                    Some(Clip::High) => record.clip_high += copies / drawn,
                    None => {}
                }
                record.entropy += copies / trained * f64::from(chunk.entropy[token]);
                if let Some(kl) = &chunk.kl {
                    *record.kl.get_or_insert(0.0) += copies / drawn * f64::from(kl[token]);
                }
            }
            bin.gradient += libm::sqrt(squares);
            first += row.example.answer.len();
        }
    }
}

/// Length of d(log p) / d(logits) per token: `||onehot - softmax|| / temperature`, with
/// `||onehot - q||^2 = 1 - 2 q[target] + sum q^2`.
fn reach(logits: Tensor<2>, logprobs: &Tensor<1>, temperature: f64) -> Tensor<1> {
    let rows = logits.dims()[0];
    let squares = activation::softmax(logits.div_scalar(temperature), 1)
        .powi_scalar(2)
        .sum_dim(1)
        .reshape([rows]);
    let square = squares - logprobs.clone().exp().mul_scalar(2.0) + 1.0;
    square.clamp_min(0.0).sqrt().div_scalar(temperature)
}

/// One number per token of each row: `[tokens]`.
fn per_token(rows: &[Row], values: impl Fn(&Row) -> Vec<f32>, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = rows.iter().flat_map(values).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// Cuts per-token values into those of each row.
fn by_row(rows: &mut [Row], values: Vec<f32>) -> impl Iterator<Item = (&mut Row, Vec<f32>)> {
    let mut values = values.into_iter();
    rows.iter_mut().map(move |row| {
        let length = row.example.answer.len();
        (row, values.by_ref().take(length).collect())
    })
}

fn read(tensor: &Tensor<1>, what: &'static str) -> Result<Vec<f32>, TrainError> {
    floats(tensor.clone().inner().unsqueeze::<2>(), || what.to_owned())
}
