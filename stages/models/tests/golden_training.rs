//! Losses, gradients and optimiser steps, of all weights and of adapters, against PyTorch and PEFT.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use dcsft_models::{HubModel, Sequence, load_adapter};
use dcsft_vlm::model::VisionLanguageModel as _;
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::schedule::{LearningRate, Schedule};
use serde_json::Value;
use support::compare::{close, close_gradient, values};
use support::model::Golden;
use support::training::{by_name, in_file_layout, loss_and_gradients, norm, trainable};
use support::{Tensors, read_json};

const PEFT_PREFIX: &str = "base_model.model.";

/// Batches of the golden training set, of as many samples as its tensors have rows.
fn batches(golden: &Golden, model: &HubModel, facts: &Value) -> Vec<Vec<Sequence>> {
    let tensors = Tensors::read(&golden.dir.join("sft/sft.safetensors"));
    let samples = facts["samples"].as_array().unwrap();
    let sequences: Vec<Sequence> = samples
        .iter()
        .map(|sample| golden.sequence(model, &sample["messages"], false))
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

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// Loss, gradient norms and stored gradients of both batches; `prefix` goes before the names of the weights.
fn check_gradients(
    model: &HubModel,
    batches: &[Vec<Sequence>],
    facts: &Value,
    stored: &[(String, Vec<f32>)],
    prefix: &str,
    what: &str,
) {
    for (index, batch) in batches.iter().enumerate() {
        let facts = &facts[format!("batch{index}")];
        let (loss, gradients) = loss_and_gradients(model, batch, false);
        let expected = number(&facts["loss"]);
        println!(
            "{what} batch{index}: loss {loss}, reference {expected}, difference {:.1e}",
            (loss - expected).abs()
        );
        assert!((loss - expected).abs() < 2e-5);
        let ours = by_name(model, &gradients);
        let mut worst = 0f64;
        for (name, expected) in facts["grad_norm_per_param"].as_object().unwrap() {
            let name = name.strip_prefix(prefix).unwrap_or(name);
            let own = ours
                .get(name)
                .unwrap_or_else(|| panic!("{what}: no gradient of {name}"));
            let expected = number(expected);
            let error = (norm(own) - expected).abs() / expected.max(1e-6);
            assert!(
                error < 1e-4,
                "{what}: norm of the gradient of {name}: {} and {expected}",
                norm(own)
            );
            worst = worst.max(error);
        }
        let total = norm(&ours.values().flatten().copied().collect::<Vec<_>>());
        let key = ["grad_norm_all_params", "grad_norm"]
            .into_iter()
            .find_map(|key| facts[key].as_f64());
        assert!(
            (total / key.unwrap() - 1.0).abs() < 1e-5,
            "{what}: {total} and {key:?}"
        );
        println!("{what} batch{index}: norm {total}, of single weights at most {worst:.1e} off");
        let marker = format!("batch{index}.grad.");
        let mut most = (0f32, 0);
        for (name, reference) in stored {
            let Some(name) = name.split_once(&marker).map(|(_, name)| name) else {
                continue;
            };
            let name = name.strip_prefix(prefix).unwrap_or(name);
            most = (
                most.0.max(close_gradient(name, &ours[name], reference)),
                most.1 + 1,
            );
        }
        println!(
            "{what} batch{index}: {} stored gradients, largest difference {:.1e} of the largest value",
            most.1, most.0
        );
    }
}

/// All tensors of a file that have gradients in them.
fn gradients_in(tensors: &Tensors) -> Vec<(String, Vec<f32>)> {
    let names = tensors
        .names()
        .into_iter()
        .filter(|name| name.contains(".grad."));
    let read = |name: String| tensors.f32(&name).map(|(_, values)| (name, values));
    names.filter_map(read).collect()
}

/// An argument of the schedule, which the set describes as a call: `get_cosine_schedule_with_warmup(name=value, ...)`.
fn argument(optimizer: &Value, name: &str) -> usize {
    let schedule = optimizer["schedule"].as_str().unwrap();
    assert!(
        schedule.contains("get_cosine_schedule_with_warmup"),
        "{schedule}"
    );
    let (_, after) = schedule.split_once(&format!("{name}=")).unwrap();
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

/// Five steps of AdamW as the golden set's trace describes them.
fn five_steps(
    model: &mut HubModel,
    batches: &[Vec<Sequence>],
    facts: &Value,
    optimizer: &Value,
    lr: f64,
    what: &str,
) {
    let settings = &optimizer["torch.optim.AdamW"];
    let mut adamw = AdamW::new(AdamWSettings {
        betas: [number(&settings["betas"][0]), number(&settings["betas"][1])],
        eps: number(&settings["eps"]),
        weight_decay: number(&settings["weight_decay"]),
        max_grad_norm: number(&optimizer["max_grad_norm"]),
        offload: false,
    });
    let rate = LearningRate {
        base: lr,
        schedule: Schedule::Cosine,
        warmup: argument(optimizer, "num_warmup_steps"),
        total: argument(optimizer, "num_training_steps"),
        floor: 0.0,
    };
    for step in facts["trace"].as_array().unwrap() {
        let index = step["step"].as_u64().unwrap() as usize;
        let batch = &batches[step["batch"].as_u64().unwrap() as usize];
        let (loss, gradients) = loss_and_gradients(model, batch, false);
        let expected = number(&step["loss_before_step"]);
        assert!(
            (loss - expected).abs() < 5e-5,
            "{what} step {index}: loss {loss}, reference {expected}"
        );
        assert!(
            (rate.at(index) - number(&step["lr_used"])).abs() < 1e-12,
            "{what} step {index}: learning rate"
        );
        let norm = adamw
            .step(&mut [model.params_mut()], gradients, rate.at(index))
            .unwrap();
        let expected = number(&step["grad_norm_before_clip"]);
        assert!(
            (norm / expected - 1.0).abs() < 2e-5,
            "{what} step {index}: norm {norm}, reference {expected}"
        );
    }
    for (batch, expected) in batches
        .iter()
        .zip(facts["final_loss_batch0_batch1"].as_array().unwrap())
    {
        let (loss, _) = loss_and_gradients(model, batch, false);
        println!("{what}: loss after five steps {loss}, reference {expected}");
        assert!((loss - number(expected)).abs() < 5e-5);
    }
}

#[test]
fn golden_training_of_all_weights() {
    let Some(golden) = Golden::open() else { return };
    let facts = read_json(&golden.dir.join("sft/sft.json"));
    let tensors = Tensors::read(&golden.dir.join("sft/sft.safetensors"));
    let mut model = golden.model();
    let batches = batches(&golden, &model, &facts);
    let full = &facts["full"];
    check_gradients(&model, &batches, full, &gradients_in(&tensors), "", "full");

    let undecayed: Vec<&str> = model
        .params()
        .iter()
        .filter(|param| !param.decay)
        .map(|param| param.name.as_str())
        .collect();
    let mut undecayed: Vec<Value> = undecayed.into_iter().map(Value::from).collect();
    undecayed.sort_by_key(ToString::to_string);
    assert_eq!(
        Value::from(undecayed),
        full["adamw5"]["no_decay_parameters"]
    );

    let optimizer = &facts["optimizer"];
    let lr = number(&optimizer["lr"]["full"]);
    five_steps(&mut model, &batches, &full["adamw5"], optimizer, lr, "full");
    let mut compared = 0;
    for param in model.params().iter() {
        let own = in_file_layout(param, param.value.clone());
        if let Some((_, reference)) = tensors.f32(&format!("full.adamw5.param.{}", param.name)) {
            close(
                &format!("full: {} after five steps", param.name),
                &own,
                &reference,
                2e-5,
                0.0,
            );
            compared += 1;
        }
        let expected = number(&full["adamw5"]["param_l2_after"][&param.name]);
        assert!(
            (norm(&own) - expected).abs() < 1e-4 * expected.max(1.0),
            "{}: norm after five steps",
            param.name
        );
    }
    assert!(compared > 0);
}

/// The forward case that adapters were run on.
fn case_of(tensors: &Tensors) -> String {
    let names = tensors.names();
    let case = names
        .iter()
        .find_map(|name| name.strip_suffix(".logits_with_adapter_init"));
    case.unwrap().to_owned()
}

#[test]
fn golden_training_of_adapters() {
    let Some(golden) = Golden::open() else { return };
    let facts = read_json(&golden.dir.join("sft/sft.json"));
    for (name, lora) in facts["lora"].as_object().unwrap() {
        let dir = golden.dir.join("sft").join(name);
        let tensors = Tensors::read(&dir.join("lora.safetensors"));
        let mut model = golden.model();
        load_adapter(&mut model, &dir.join("adapter_init"))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            trainable(&model).count() as u64,
            lora["n_lora_tensors"].as_u64().unwrap(),
            "{name}: adapters"
        );
        let case = case_of(&tensors);
        let sequences = golden.case(&model, &case);
        let check_logits = |model: &HubModel, key: &str, tolerance: f32| {
            let key = format!("{case}.{key}");
            let (_, reference) = tensors.f32(&key).unwrap();
            close(
                &format!("{name}: {key}"),
                &values(model.logits(&sequences)),
                &reference,
                tolerance,
                0.0,
            );
        };
        check_logits(&model, "logits_with_adapter_init", 1e-4);
        let mut trained = golden.model();
        load_adapter(&mut trained, &dir.join("adapter_after_5_steps")).unwrap();
        check_logits(&trained, "logits_after_5_steps", 1e-4);
        trained.merge_lora().unwrap();
        check_logits(&trained, "logits_merged_after_5_steps", 1e-4);
        let batches = batches(&golden, &model, &facts);
        check_gradients(
            &model,
            &batches,
            lora,
            &gradients_in(&tensors),
            PEFT_PREFIX,
            name,
        );
        let optimizer = &facts["optimizer"];
        let lr = number(&optimizer["lr"]["lora"]);
        five_steps(&mut model, &batches, &lora["adamw5"], optimizer, lr, name);
        let after = Tensors::read(&dir.join("adapter_after_5_steps/adapter_model.safetensors"));
        let mut largest = 0f32;
        for param in trainable(&model) {
            let (_, reference) = after.f32(&format!("{PEFT_PREFIX}{}", param.name)).unwrap();
            let own = in_file_layout(param, param.value.clone());
            largest = largest.max(support::compare::largest(&own, &reference));
        }
        println!("{name}: adapters after five steps, largest difference {largest:.1e}");
        assert!(largest <= 2e-5);
        // Our own five steps end within 2e-5 of the reference's weights, so their logits are a little further apart.
        check_logits(&model, "logits_after_5_steps", 1e-3);
        model.merge_lora().unwrap();
        check_logits(&model, "logits_merged_after_5_steps", 1e-3);
        for param in model.params().iter() {
            if let Some((_, reference)) = tensors.f32(&format!("merged.{}", param.name)) {
                let own = in_file_layout(param, param.value.clone());
                close(
                    &format!("{name}: merged {}", param.name),
                    &own,
                    &reference,
                    2e-5,
                    0.0,
                );
            }
        }
    }
}

#[test]
fn golden_checkpointing_changes_no_gradient() {
    let Some(golden) = Golden::open() else { return };
    let facts = read_json(&golden.dir.join("sft/sft.json"));
    let mut models: BTreeMap<&str, HubModel> = [("full", golden.model())].into();
    for name in facts["lora"].as_object().unwrap().keys() {
        let mut model = golden.model();
        load_adapter(
            &mut model,
            &golden.dir.join("sft").join(name).join("adapter_init"),
        )
        .unwrap();
        models.insert(name, model);
    }
    for (name, model) in models {
        for batch in batches(&golden, &model, &facts) {
            let (loss, plain) = loss_and_gradients(&model, &batch, false);
            let (same, again) = loss_and_gradients(&model, &batch, true);
            assert_eq!(loss, same, "{name}: loss");
            let flat = |gradient: &Option<Tensor<2>>| gradient.clone().map(values);
            for ((plain, again), param) in plain.iter().zip(&again).zip(trainable(&model)) {
                let (plain, again) = (flat(plain), flat(again));
                // The tied embedding's two gradients are added in another order, which one may round differently.
                if param.name.ends_with("embed_tokens.weight") {
                    close(&param.name, &again.unwrap(), &plain.unwrap(), 1e-5, 1e-5);
                } else {
                    assert!(plain == again, "{name}: the gradient of {}", param.name);
                }
            }
        }
    }
}
