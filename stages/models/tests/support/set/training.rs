//! Fine-tuning, of all weights and of adapters.

use std::collections::BTreeMap;

use dcsft_models::{HubModel, Sequence, load_adapter};
use dcsft_vlm::model::VisionLanguageModel as _;
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::schedule::{LearningRate, Schedule};
use serde_json::Value;

use super::super::Tensors;
use super::super::compare::{close, largest, values};
use super::super::training::{by_name, in_file_layout, loss_and_gradients, norm, trainable};
use super::{PEFT_PREFIX, Set, close_gradient, load, number};

fn adamw(optimizer: &Value) -> AdamW {
    AdamW::new(AdamWSettings {
        betas: [
            number(&optimizer["betas"][0]),
            number(&optimizer["betas"][1]),
        ],
        eps: number(&optimizer["eps"]),
        weight_decay: number(&optimizer["weight_decay"]),
        max_grad_norm: first_number(&optimizer["max_grad_norm"]),
        offload: false,
    })
}

/// The number that a description begins with.
fn first_number(text: &Value) -> f64 {
    let text = text.as_str().unwrap();
    let (number, _) = text.split_once(':').unwrap();
    number.parse().unwrap()
}

/// Warm-up and length of the schedule that the set describes in words.
fn schedule(text: &Value, base: f64) -> LearningRate {
    let text = text.as_str().unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |word: &str| {
        let at = words.iter().position(|each| *each == word).unwrap();
        words[at + 1].parse().unwrap()
    };
    assert!(text.starts_with("cosine"), "{text}");
    LearningRate {
        base,
        schedule: Schedule::Cosine,
        warmup: after("warm-up"),
        total: after("of"),
        floor: 0.0,
    }
}

/// Batches of the golden training set, of as many samples as its tensors have rows.
fn batches(set: &Set, model: &HubModel, sft: &Value) -> Vec<Vec<Sequence>> {
    let tensors = set.tensors("sft/sft.safetensors");
    let samples = sft["samples"].as_array().unwrap().iter();
    let sequences: Vec<Sequence> = samples
        .map(|sample| set.sequence(model, &sample["messages"], false))
        .collect();
    let mut rest = &sequences[..];
    let mut batches = Vec::new();
    while let Some((shape, _)) = tensors.i64(&format!("batch{}.input_ids", batches.len())) {
        let (batch, after) = rest.split_at(shape[0]);
        batches.push(batch.to_vec());
        rest = after;
    }
    assert!(!batches.is_empty());
    batches
}

/// Loss, gradients and five steps of AdamW.
struct Training<'a> {
    what: &'a str,
    facts: &'a Value,
    batches: &'a [Vec<Sequence>],
    /// Weights whose gradient is rounding noise alone.
    noise: Vec<&'a str>,
}

impl Training<'_> {
    /// Loss and gradients of the first batch, those with checkpointing being the same to the bit.
    fn gradients(&self, model: &HubModel, stored: &Tensors, prefix: &str) {
        let what = self.what;
        for (index, batch) in self.batches.iter().enumerate() {
            let facts = &self.facts[format!("batch{index}")];
            let (loss, gradients) = loss_and_gradients(model, batch, false);
            assert!(
                (loss - number(&facts["loss"])).abs() < 5e-5,
                "{what}: loss {loss}"
            );
            let ours = by_name(model, &gradients);
            let total = norm(&ours.values().flatten().copied().collect::<Vec<_>>());
            let expected = number(&facts["grad_norm"]);
            assert!(
                (total / expected - 1.0).abs() < 1e-5,
                "{what}: norm {total}, {expected}"
            );
            let each = facts["grad_norm_per_tensor"]
                .as_object()
                .into_iter()
                .flatten();
            for (name, expected) in each.filter(|(name, _)| !self.noise.contains(&name.as_str())) {
                let (own, expected) = (norm(&ours[name]), number(expected));
                let error = (own - expected).abs() / expected.max(1e-6);
                assert!(error < 2e-4, "{what}: norm of {name}: {own} and {expected}");
            }
            let (again, checkpointed) = loss_and_gradients(model, batch, true);
            assert!(loss == again, "{what}: {again} with checkpointing");
            for (name, other) in by_name(model, &checkpointed) {
                // The parts of a tied embedding, and of a block that puts its rows aside, are added in another order.
                let in_parts = name.ends_with("embed_tokens.weight") || name.contains(".visual.");
                let same = in_parts || ours[&name] == other;
                assert!(same, "{what}: {name} with checkpointing");
                close_gradient(&name, &other, &ours[&name]);
            }
            let marker = format!("batch{index}.grad.");
            let (mut worst, mut count) = (0f32, 0);
            for name in stored.names() {
                let Some((_, weight)) = name.split_once(&marker) else {
                    continue;
                };
                let weight = weight.strip_prefix(prefix).unwrap_or(weight);
                if self.noise.contains(&weight) {
                    continue;
                }
                let (_, expected) = stored.f32(&name).unwrap();
                let own = ours
                    .get(weight)
                    .unwrap_or_else(|| panic!("{what}: {weight}"));
                worst = worst.max(close_gradient(weight, own, &expected));
                count += 1;
            }
            println!(
                "{what} batch{index}: loss {loss}, {count} gradients, at most {worst:.1e} off"
            );
            assert!(index > 0 || count > 0);
        }
    }

    fn five_steps(&self, model: &mut HubModel, optimizer: &Value, lr: f64) {
        let (what, facts) = (self.what, &self.facts["adamw5"]);
        let mut adamw = adamw(optimizer);
        let rate = schedule(&optimizer["schedule"], lr);
        for step in facts["trace"].as_array().unwrap() {
            let index = step["step"].as_u64().unwrap() as usize;
            let batch = &self.batches[step["batch"].as_u64().unwrap() as usize];
            let (loss, gradients) = loss_and_gradients(model, batch, false);
            let expected = number(&step["loss_before_step"]);
            assert!(
                (loss - expected).abs() < 5e-5,
                "{what} step {index}: {loss}, {expected}"
            );
            assert!((rate.at(index) - number(&step["lr_used"])).abs() < 1e-9);
            let norm = adamw
                .step(&mut [model.params_mut()], gradients, rate.at(index))
                .unwrap();
            let expected = number(&step["grad_norm_before_clip"]);
            assert!(
                (norm / expected - 1.0).abs() < 2e-5,
                "{what} step {index}: {norm}"
            );
        }
        let finals = facts["final_loss_batch0_batch1"].as_array().unwrap();
        for (batch, expected) in self.batches.iter().zip(finals) {
            let (loss, _) = loss_and_gradients(model, batch, false);
            assert!(
                (loss - number(expected)).abs() < 5e-5,
                "{what}: {loss}, {expected}"
            );
        }
    }
}

/// Weights by name, as the set stores them.
fn stored_weights(model: &HubModel) -> BTreeMap<String, Vec<f32>> {
    let params = model.params().iter();
    params
        .map(|param| {
            (
                param.name.clone(),
                in_file_layout(param, param.value.clone()),
            )
        })
        .collect()
}

/// Full fine-tuning.
pub(crate) fn sft_full(set: &Set) {
    let sft = set.json("sft/sft.json");
    let tensors = set.tensors("sft/sft.safetensors");
    let mut model = set.model();
    let (batches, facts) = (batches(set, &model, &sft), &sft["full"]);
    let names = |key: &str| -> Vec<&str> {
        let names = facts["adamw5"][key].as_array().into_iter().flatten();
        names.map(|name| name.as_str().unwrap()).collect()
    };
    let training = Training {
        what: "full",
        facts,
        batches: &batches,
        noise: names("noise_only_parameters"),
    };
    training.gradients(&model, &tensors, "");
    let mut undecayed: Vec<&str> = model
        .params()
        .iter()
        .filter(|param| !param.decay)
        .map(|param| param.name.as_str())
        .collect();
    let mut expected = names("no_decay_parameters");
    undecayed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(undecayed, expected);
    training.five_steps(
        &mut model,
        &sft["optimizer"],
        number(&facts["adamw5"]["lr"]),
    );
    let mut compared = 0;
    for (name, own) in stored_weights(&model) {
        let (_, expected) = tensors.f32(&format!("full.adamw5.param.{name}")).unwrap();
        if !training.noise.contains(&name.as_str()) {
            let difference = largest(&own, &expected);
            assert!(difference <= 1e-4, "{name}: {difference} after five steps");
            compared += 1;
        }
    }
    println!("full: {compared} weights after five steps");
}

/// LoRA on the language model and on all parts: PEFT's files in and out, gradients, steps, merging.
pub(crate) fn sft_lora(set: &Set) {
    let sft = set.json("sft/sft.json");
    for (name, facts) in sft["lora"].as_object().unwrap() {
        let dir = set.dir.join("sft").join(name);
        let tensors = Tensors::read(&dir.join("lora.safetensors"));
        let case = tensors
            .names()
            .into_iter()
            .find_map(|each| Some(each.strip_suffix(".logits_merged")?.to_owned()))
            .unwrap();
        let logits = |what: &str, model: &HubModel| {
            let key = format!("{case}.{what}");
            let (shape, expected) = tensors.f32(&key).unwrap();
            assert_eq!(shape[0], 1);
            let own = values(model.logits(&set.case(model, &case)));
            close(&format!("{name} {key}"), &own, &expected, set.logits, 0.0);
        };
        let mut model = set.model();
        load_adapter(&mut model, &dir.join("adapter_init")).unwrap();
        assert_eq!(
            trainable(&model).count() as u64,
            facts["n_tensors"].as_u64().unwrap()
        );
        logits("logits_with_adapter_init", &model);
        let batches = batches(set, &model, &sft);
        let training = Training {
            what: name,
            facts,
            batches: &batches,
            noise: Vec::new(),
        };
        training.gradients(&model, &tensors, PEFT_PREFIX);
        training.five_steps(&mut model, &sft["optimizer"], number(&facts["lr"]));
        let after = Tensors::read(&dir.join("adapter_after_5_steps/adapter_model.safetensors"));
        for param in trainable(&model) {
            let (_, expected) = after.f32(&format!("{PEFT_PREFIX}{}", param.name)).unwrap();
            let difference = largest(&in_file_layout(param, param.value.clone()), &expected);
            assert!(difference <= 1e-4, "{name} {}: {difference}", param.name);
        }
        let mut trained = set.model();
        load_adapter(&mut trained, &dir.join("adapter_after_5_steps")).unwrap();
        logits("logits_after_5_steps", &trained);
        check_adapter_file(&trained, &after);
        trained.merge_lora().unwrap();
        logits("logits_merged", &trained);
        let merged = stored_weights(&trained);
        for each in tensors.names() {
            let Some(weight) = each.strip_prefix("merged.") else {
                continue;
            };
            let (_, expected) = tensors.f32(&each).unwrap();
            close(&each, &merged[weight], &expected, 1e-5, 1e-5);
        }
    }
}

/// What we save of an adapter has PEFT's names and bits.
fn check_adapter_file(model: &HubModel, expected: &Tensors) {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let own = Tensors::read(&dir.path().join("adapter_model.safetensors"));
    let (mut left, mut right) = (own.names(), expected.names());
    left.sort();
    right.sort();
    assert_eq!(left, right);
    for name in left {
        assert_eq!(own.bytes(&name), expected.bytes(&name), "{name}");
    }
    let again = load(dir.path());
    assert_eq!(again.lora(), model.lora());
}
