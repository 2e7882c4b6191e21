//! One update of the policy from a step's answers.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::ops::{entropy, sent_back, squares_of_rows, token_logprobs, weighted_sum};
use dcsft_tensor::rng::StreamKey;

use crate::model::{Example, Forward, Output, VisionLanguageModel};
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
    /// Squared L2 norm of d(loss) / d(logits).
    pull: Vec<f32>,
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
            let (output, targets) = self.output(reference, rows, None)?;
            let logprobs = token_logprobs(output.logits, &targets, self.config.temperature);
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
        let dropout = StreamKey::new("grpo dropout", self.config.seed)
            .number(step as u64)
            .number(update as u64);
        for rows in rollout.rows.chunks_mut(size) {
            let chunk = self.chunk(rows, &dropout, &mut sum)?;
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

    /// Logits and targets of the answer tokens of `rows`: `[tokens, vocab]` and `[tokens]`. With `dropout` each row
    /// draws its own, so that the answers to a prompt cannot share its rows.
    fn output<'m>(
        &self,
        model: &'m dyn VisionLanguageModel,
        rows: &[Row],
        dropout: Option<&StreamKey>,
    ) -> Result<(Output<'m>, Vec<u32>), TrainError> {
        let dropout = dropout.filter(|_| model.lora().is_some_and(|lora| lora.dropout > 0.0));
        let batch: Vec<Example> = match dropout {
            None => rows.iter().map(|row| row.example.clone()).collect(),
            Some(_) => rows.iter().map(Row::apart).collect(),
        };
        let targets = batch
            .iter()
            .flat_map(|example| example.answer.iter().copied())
            .collect();
        let options = Forward {
            dropout: dropout.cloned(),
            checkpointing: self.config.gradient_checkpointing,
        };
        Ok((model.forward(&batch, &options)?, targets))
    }

    /// Loss and per-token numbers of some of a step's answers; adds their gradient to `sum`.
    ///
    /// The loss is first differentiated in the logits alone, which shows how much each answer pulls, and that
    /// gradient is then sent back through the model.
    fn chunk(
        &self,
        rows: &[Row],
        dropout: &StreamKey,
        sum: &mut GradientSum,
    ) -> Result<Chunk, TrainError> {
        let (output, targets) = self.output(self.model, rows, Some(dropout))?;
        let Output { logits, tape, .. } = output;
        let (device, temperature) = (logits.device(), self.config.temperature);
        let leaf = logits.clone().inner().autodiff().require_grad();
        let logprobs = token_logprobs(leaf.clone(), &targets, temperature);

        let spread = |value: f32, row: &Row| vec![value; row.example.answer.len()];
        let advantages = per_token(rows, |row| spread(row.advantage, row), &device);
        let weights: Vec<f32> = rows
            .iter()
            .flat_map(|row| spread(row.weight, row))
            .collect();
        let known = |values: fn(&Row) -> &Vec<f32>| {
            let known = rows.iter().all(|row| !values(row).is_empty());
            known.then(|| per_token(rows, |row| values(row).clone(), &device))
        };
        let (old, reference) = (known(|row| &row.old), known(|row| &row.reference));
        let objective = self.config.objective();
        let token = token_loss(
            &objective,
            &logprobs,
            old.as_ref(),
            reference.as_ref(),
            &advantages,
        );
        let loss = weighted_sum(token.loss, &weights);
        let mut gradients = loss.backward();
        let pull = leaf
            .grad_remove(&mut gradients)
            .unwrap_or_else(|| leaf.clone().inner().zeros_like());
        let sets = [self.model.params()];
        let through = sent_back(logits.clone(), pull.clone());
        sum.backward(&sets, through, &logits, tape);

        Ok(Chunk {
            loss: read(&loss, "the loss")?
                .into_iter()
                .map(f64::from)
                .sum::<f64>(),
            ratio: read(&token.ratio, "the ratios")?,
            kl: token.kl.map(|kl| read(&kl, "the KL terms")).transpose()?,
            pull: read(&squares_of_rows(pull), "the gradient in the logits")?,
            entropy: read(&entropy(leaf.inner(), temperature), "the entropies")?,
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
                let ratio = chunk.ratio[token];
                squares += f64::from(chunk.pull[token]);
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
            let norm = libm::sqrt(squares);
            bin.gradient += norm;
            if row.mixed {
                bin.mixed_gradient += norm;
            }
            first += row.example.answer.len();
        }
    }
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
    floats(tensor.clone(), || what.to_owned())
}
