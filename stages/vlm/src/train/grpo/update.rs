//! The loss of some of a step's answers, and what is to be learnt from it about them.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::ops::{entropy, sent_back, squares_of_rows, token_logprobs, weighted_sum};

use crate::model::{Below, Example, Forward, VisionLanguageModel};
use crate::train::error::TrainError;
use crate::train::floats::floats;
use crate::train::grpo::config::GrpoConfig;
use crate::train::grpo::loss::{Clip, policy_gradient, token_loss};
use crate::train::grpo::rollout::{Rollout, Row};
use crate::train::objective::{Loss, Seen};
use crate::train::passes::{cut, tokens};

/// Per-token numbers of some answers.
pub(super) struct Tokens {
    /// What they add to the loss.
    pub(super) loss: f64,
    logprobs: Vec<f32>,
    ratio: Vec<f32>,
    kl: Option<Vec<f32>>,
    /// Squared L2 norm of d(loss) / d(logits).
    pull: Vec<f32>,
    entropy: Vec<f32>,
}

/// Log-probabilities of the tokens of each answer under `model`, from at most so many logits at once.
pub(super) fn logprobs(
    model: &dyn VisionLanguageModel,
    examples: &[Example],
    temperature: f64,
    checkpointing: bool,
    logits_at_once: usize,
) -> Result<Vec<Vec<f32>>, TrainError> {
    let options = Forward {
        dropout: None,
        checkpointing,
    };
    let targets: Vec<u32> = examples
        .iter()
        .flat_map(|example| example.answer.iter().copied())
        .collect();
    let vocabulary = model.tokenizer().vocab_size();
    let cuts = cut(examples, logits_at_once / vocabulary.max(1));
    let below = match cuts.len() > 1 {
        true => model.forward_below(examples, &options)?,
        false => None,
    };
    let logprobs = match below {
        None => token_logprobs(
            model.forward(examples, &options)?.logits,
            &targets,
            temperature,
        ),
        Some(Below { rows, head, .. }) => {
            let mut first = 0;
            let of_part = |range: Range<usize>| {
                let count = tokens(&examples[range]);
                let logits = head(rows.clone().narrow(0, first, count));
                let logprobs = token_logprobs(logits, &targets[first..first + count], temperature);
                first += count;
                logprobs
            };
            Tensor::cat(cuts.into_iter().map(of_part).collect(), 0)
        }
    };
    let logprobs = read(&logprobs, "the log-probabilities before the updates")?;
    let lengths = examples.iter().map(|example| example.answer.len());
    Ok(cut_values(logprobs, lengths))
}

/// Loss and per-token numbers of some of a step's answers.
///
/// The loss is first differentiated in the logits alone, which shows how much each answer pulls, and that
/// gradient is what is sent back through the model.
pub(super) fn loss(config: &GrpoConfig, rows: &[&Row], seen: &Seen<'_>) -> Loss {
    let (device, temperature) = (seen.logits.device(), config.temperature);
    let leaf = seen.logits.clone().inner().autodiff().require_grad();
    let logprobs = token_logprobs(leaf.clone(), &seen.targets(), temperature);

    let advantages = tensor(seen.per_token(|row| rows[row].advantage), &device);
    let weights = seen.per_token(|row| rows[row].weight);
    let known = |values: fn(&Row) -> &Vec<f32>| {
        let known = rows.iter().all(|row| !values(row).is_empty());
        let values = || rows.iter().flat_map(|row| values(row).iter().copied());
        known.then(|| tensor(values().collect(), &device))
    };
    let (old, reference) = (known(|row| &row.old), known(|row| &row.reference));
    let token = token_loss(
        &config.objective(),
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
    let tensor = sent_back(seen.logits.clone(), pull.clone());
    let [squares, entropy] = [squares_of_rows(pull), entropy(leaf.inner(), temperature)];
    // As `Tokens::of` takes them apart.
    let mut record = vec![loss, logprobs, token.ratio, squares, entropy];
    record.extend(token.kl);
    Loss::new(tensor, record)
}

impl Tokens {
    /// From the values of the record that [`loss`] makes of these rows.
    pub(super) fn of(values: &[f32], round: &Rollout, rows: &[usize]) -> Self {
        let lengths = rows.iter().map(|&row| round.rows[row].example.answer.len());
        let count = lengths.sum::<usize>();
        let (loss, left) = values.split_at(1);
        let mut parts = left.chunks(count.max(1)).map(<[f32]>::to_vec);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            loss: f64::from(loss[0]),
            logprobs: next(),
            ratio: next(),
            pull: next(),
            entropy: next(),
            kl: parts.next(),
        }
    }

    /// Log-probabilities of each row's tokens.
    pub(super) fn logprobs_by_row(&self, round: &Rollout, rows: &[usize]) -> Vec<Vec<f32>> {
        let lengths = rows.iter().map(|&row| round.rows[row].example.answer.len());
        cut_values(self.logprobs.clone(), lengths)
    }

    /// Adds the numbers of `rows` to the round's record. Means are over all drawn tokens of all updates, those of the
    /// entropy over the ones trained on.
    pub(super) fn note(&self, config: &GrpoConfig, round: &mut Rollout, rows: &[usize]) {
        let objective = config.objective();
        let [drawn, trained] = [round.tokens, round.trained_tokens]
            .map(|tokens| (tokens * config.updates_per_batch) as f64);
        let record = &mut round.record;
        let mut first = 0;
        for row in rows.iter().map(|&row| &round.rows[row]) {
            let bin = &mut record.bins[row.bin];
            let copies = row.copies as f64;
            let mut squares = 0.0;
            for token in first..first + row.example.answer.len() {
                let ratio = self.ratio[token];
                squares += f64::from(self.pull[token]);
                let reward_slope = row.weight * policy_gradient(&objective, ratio, row.advantage);
                bin.advantage += f64::from(reward_slope.abs());
                match Clip::of(&objective, ratio, row.advantage) {
                    Some(Clip::Low) => record.clip_low += copies / drawn,
                    Some(Clip::High) => record.clip_high += copies / drawn,
                    None => {}
                }
                record.entropy += copies / trained * f64::from(self.entropy[token]);
                if let Some(kl) = &self.kl {
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

/// One number per token: `[tokens]`.
fn tensor(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    send(TensorData::new(values, [count]), device)
}

/// Cuts per-token values into those of answers of these lengths.
fn cut_values(values: Vec<f32>, lengths: impl Iterator<Item = usize>) -> Vec<Vec<f32>> {
    let mut values = values.into_iter();
    lengths
        .map(|length| values.by_ref().take(length).collect())
        .collect()
}

fn read(tensor: &Tensor<1>, what: &'static str) -> Result<Vec<f32>, TrainError> {
    floats(tensor.clone(), || what.to_owned())
}
