//! GRPO through the model: log-probabilities of policy and reference, losses and the gradients of adapters, against TRL.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use dcsft_models::{HubModel, Sequence, load_adapter};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::token_logprobs;
use dcsft_vlm::model::{Forward, VisionLanguageModel as _};
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::grpo::advantage::{ScaleRewards, advantages};
use dcsft_vlm::train::grpo::loss::{LossType, Objective, answer_weights, token_loss};
use serde_json::Value;

use support::compare::{close, close_gradient, values};
use support::model::Golden;
use support::training::{add, by_name, norm, trainable};
use support::{Tensors, read_json};

struct Set {
    golden: Golden,
    facts: Value,
    tensors: Tensors,
    /// Answer tokens of each group.
    answers: Vec<Vec<Arc<[u32]>>>,
    mask: Vec<bool>,
}

impl Set {
    fn open() -> Option<Self> {
        let golden = Golden::open()?;
        let facts = read_json(&golden.dir.join("grpo/grpo.json"));
        let tensors = Tensors::read(&golden.dir.join("grpo/grpo.safetensors"));
        let (shape, ids) = tensors.i64("completion_ids").unwrap();
        let (_, mask) = tensors.i64("completion_mask").unwrap();
        let mask: Vec<bool> = mask.into_iter().map(|real| real == 1).collect();
        let rows = ids.chunks_exact(shape[1]).zip(mask.chunks_exact(shape[1]));
        let real = |(ids, mask): (&[i64], &[bool])| -> Arc<[u32]> {
            ids.iter()
                .zip(mask)
                .filter(|(_, real)| **real)
                .map(|(id, _)| *id as u32)
                .collect()
        };
        let answers: Vec<Arc<[u32]>> = rows.map(real).collect();
        let generations = facts["num_generations"].as_u64().unwrap() as usize;
        Some(Self {
            answers: answers.chunks(generations).map(<[_]>::to_vec).collect(),
            golden,
            facts,
            tensors,
            mask,
        })
    }

    fn policy(&self) -> HubModel {
        let mut model = self.golden.model();
        load_adapter(&mut model, &self.golden.dir.join("grpo/policy_adapter")).unwrap();
        model
    }

    fn sequences(&self, model: &HubModel) -> Vec<Sequence> {
        let prompts = self.facts["prompts"].as_array().unwrap();
        let sequence = |(prompt, answers): (&Value, &Vec<Arc<[u32]>>)| {
            let messages = serde_json::json!([{"role": "user", "content": [
                {"type": "image", "image": prompt["image"]},
                {"type": "text", "text": prompt["text"]},
            ]}]);
            let sequence = self.golden.sequence(model, &messages, true);
            Sequence {
                answers: answers.clone(),
                ..sequence
            }
        };
        prompts.iter().zip(&self.answers).map(sequence).collect()
    }

    /// A padded `[answers, width]` tensor without its padding.
    fn tokens(&self, name: &str) -> Vec<f32> {
        let (_, all) = self
            .tensors
            .f32(name)
            .unwrap_or_else(|| panic!("no tensor {name}"));
        all.into_iter()
            .zip(&self.mask)
            .filter(|(_, real)| **real)
            .map(|(value, _)| value)
            .collect()
    }

    fn lengths(&self) -> Vec<usize> {
        self.answers
            .iter()
            .flatten()
            .map(|answer| answer.len())
            .collect()
    }

    /// Per-token advantages.
    fn advantages(&self) -> Tensor<1> {
        let (_, rewards) = self.tensors.f32("rewards").unwrap();
        let generations = self.answers[0].len();
        let all = advantages(&rewards, generations, ScaleRewards::Group);
        vector(spread(&all, &self.lengths()))
    }
}

fn spread(values: &[f32], lengths: &[usize]) -> Vec<f32> {
    values
        .iter()
        .zip(lengths)
        .flat_map(|(value, length)| vec![*value; *length])
        .collect()
}

fn vector(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &test_device().autodiff())
}

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn logprobs(model: &HubModel, sequences: &[Sequence], temperature: f64) -> Tensor<1> {
    let (output, targets) = model.labelled(sequences, &Forward::default());
    token_logprobs(output.logits, &targets, temperature)
}

#[test]
fn golden_policy_and_reference_log_probabilities() {
    let Some(set) = Set::open() else { return };
    let policy = set.policy();
    let reference = set.golden.model();
    let sequences = set.sequences(&policy);
    for name in set.tensors.names() {
        let Some(temperature) = name.strip_suffix(".policy_per_token_logps") else {
            continue;
        };
        let value: f64 = temperature.trim_start_matches('t').parse().unwrap();
        for (kind, model) in [("policy", &policy), ("ref", &reference)] {
            let ours = values(logprobs(model, &sequences, value));
            let name = format!("{temperature}.{kind}_per_token_logps");
            close(&name, &ours, &set.tokens(&name), 1e-4, 0.0);
        }
    }
}

/// Loss and gradients of one setting.
fn loss_and_gradients(
    set: &Set,
    policy: &HubModel,
    sequences: &[Sequence],
    run: &Value,
    old: Option<Vec<f32>>,
) -> (f64, Vec<Option<Tensor<2>>>) {
    let temperature = number(&run["temperature"]);
    let objective = Objective {
        epsilon: number(&set.facts["epsilon_low"]),
        epsilon_high: number(&set.facts["epsilon_high"]),
        beta: number(&run["beta"]),
        kl_bias_correction: run["use_bias_correction_kl"].as_bool().unwrap_or(false),
    };
    let reference = vector(set.tokens(&format!("t{temperature:?}.ref_per_token_logps")));
    let reference = (objective.beta != 0.0).then_some(reference);
    let own = logprobs(policy, sequences, temperature);
    let old = old.map(vector);
    let token = token_loss(
        &objective,
        &own,
        old.as_ref(),
        reference.as_ref(),
        &set.advantages(),
    );
    let loss_type: LossType = serde_json::from_value(run["loss_type"].clone()).unwrap();
    let lengths = set.lengths();
    let longest = set.facts["max_completion_length"].as_u64().unwrap() as usize;
    let weights: Vec<f32> = answer_weights(loss_type, &lengths, longest, lengths.iter().sum())
        .into_iter()
        .map(|weight| weight as f32)
        .collect();
    let weights = vector(spread(&weights, &lengths));
    let loss = (token.loss * weights).sum();
    let value = f64::from(values(loss.clone())[0]);
    let mut sum = vec![None; trainable(policy).count()];
    add(policy, loss.backward(), &mut sum);
    (value, sum)
}

#[test]
fn golden_grpo_losses_and_gradients_through_the_model() {
    let Some(set) = Set::open() else { return };
    let policy = set.policy();
    let sequences = set.sequences(&policy);
    let stored: Vec<String> = set.tensors.names();
    let mut largest = (0f64, 0f32, 0);
    for run in set.facts["runs"].as_array().unwrap() {
        let tag = run["tag"].as_str().unwrap();
        let old = (run["old_per_token_logps"] == "given").then(|| {
            set.tokens(&format!(
                "t{:?}.old_per_token_logps",
                number(&run["temperature"])
            ))
        });
        let (loss, gradients) = loss_and_gradients(&set, &policy, &sequences, run, old);
        let expected = number(&run["loss"]);
        assert!(
            (loss - expected).abs() < 2e-5,
            "{tag}: loss {loss}, reference {expected}"
        );
        largest.0 = largest.0.max((loss - expected).abs());
        let ours = by_name(&policy, &gradients);
        let total = norm(&ours.values().flatten().copied().collect::<Vec<_>>());
        let expected = number(&run["lora_grad_norm"]);
        assert!(
            (total / expected - 1.0).abs() < 1e-4,
            "{tag}: norm {total}, reference {expected}"
        );
        for name in &stored {
            let Some(weight) = name.strip_prefix(&format!("{tag}.grad.base_model.model.")) else {
                continue;
            };
            let (_, reference) = set.tensors.f32(name).unwrap();
            largest.1 = largest
                .1
                .max(close_gradient(name, &ours[weight], &reference));
            largest.2 += 1;
        }
    }
    let (loss, gradient, count) = largest;
    println!(
        "grpo: losses differ by at most {loss:.1e}, {count} gradients by {gradient:.1e} of their largest value"
    );
    assert!(count > 0);
}

#[test]
fn golden_grpo_steps_of_adamw() {
    let Some(set) = Set::open() else { return };
    let mut policy = set.policy();
    let sequences = set.sequences(&policy);
    let run = &set.facts["three_adamw_steps"];
    let temperature = number(&run["temperature"]);
    let old = set.tokens(&format!("t{temperature:?}.policy_per_token_logps"));
    let mut adamw = AdamW::new(AdamWSettings {
        betas: [number(&run["betas"][0]), number(&run["betas"][1])],
        eps: number(&run["eps"]),
        weight_decay: number(&run["weight_decay"]),
        max_grad_norm: number(&run["max_grad_norm"]),
        offload: false,
    });
    for step in run["trace"].as_array().unwrap() {
        let (loss, gradients) =
            loss_and_gradients(&set, &policy, &sequences, run, Some(old.clone()));
        let expected = number(&step["loss_before_step"]);
        println!(
            "grpo step {}: loss {loss}, reference {expected}",
            step["step"]
        );
        assert!((loss - expected).abs() < 2e-5);
        let norm = adamw
            .step(&mut [policy.params_mut()], gradients, number(&run["lr"]))
            .unwrap();
        let off = (norm / number(&step["grad_norm_before_clip"]) - 1.0).abs();
        assert!(off < 1e-4);
    }
    let (loss, _) = loss_and_gradients(&set, &policy, &sequences, run, Some(old));
    assert!(
        (loss - number(&run["loss_after"])).abs() < 2e-5,
        "loss after: {loss}"
    );
    let after = values(logprobs(&policy, &sequences, temperature));
    close(
        "grpo: log-probs after three steps",
        &after,
        &set.tokens("three_adamw_steps.policy_per_token_logps_after"),
        1e-4,
        0.0,
    );
}
