//! A golden set of one family: its model, its cases, and the checks that all families share. Every dimension comes from
//! the set's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::processor::Encode;
use dcsft_models::{HubModel, Sequence, load_adapter};
use dcsft_tensor::ops::{entropy, token_logprobs};
use dcsft_vlm::model::{
    Completion, Forward, Prompt, RgbImage, Sampling, Tokenizer as _, VisionLanguageModel as _,
};
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::grpo::loss::{LossType, Objective, answer_weights, token_loss};
use dcsft_vlm::train::schedule::{LearningRate, Schedule};
use serde_json::Value;

use super::compare::{close, largest, values};
use super::training::{add, by_name, in_file_layout, loss_and_gradients, norm, trainable};
use super::{Tensors, choose, conversation, images, numbers, read_json};

const PEFT_PREFIX: &str = "base_model.model.";

/// Where a family's set is, and what its numbers may differ by (its README).
pub(crate) struct Place {
    /// The variable that names another set of the same layout.
    pub(crate) variable: &'static str,
    /// The folder below `DCSFT_SHARED`.
    pub(crate) folder: &'static str,
    /// Largest difference of a logit.
    pub(crate) logits: f32,
}

/// A golden set with its images.
pub(crate) struct Set {
    pub(crate) dir: PathBuf,
    images: BTreeMap<String, RgbImage>,
    cases: Value,
    logits: f32,
}

impl Place {
    /// The set's folder, or none where there is none on this machine.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        let named = std::env::var_os(self.variable).map(PathBuf::from);
        let shared = || Some(PathBuf::from(std::env::var_os("DCSFT_SHARED")?).join(self.folder));
        let Some(folder) = named.or_else(shared) else {
            eprintln!(
                "skipped: neither {} nor DCSFT_SHARED names the golden data",
                self.variable
            );
            return None;
        };
        if !folder.is_dir() {
            eprintln!("skipped: {} does not exist", folder.display());
            return None;
        }
        Some(folder)
    }

    pub(crate) fn open(&self) -> Option<Set> {
        Some(self.open_at(self.find()?))
    }

    pub(crate) fn open_at(&self, dir: PathBuf) -> Set {
        Set {
            images: images(&dir),
            cases: read_json(&dir.join("forward/cases.json")),
            dir,
            logits: self.logits,
        }
    }
}

pub(crate) fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn load(dir: &Path) -> HubModel {
    HubModel::load(dir, &Device::flex()).unwrap_or_else(|error| panic!("{error}"))
}

impl Set {
    pub(crate) fn model(&self) -> HubModel {
        load(&self.dir.join("ckpt"))
    }

    pub(crate) fn json(&self, file: &str) -> Value {
        read_json(&self.dir.join(file))
    }

    pub(crate) fn tensors(&self, file: &str) -> Tensors {
        Tensors::read(&self.dir.join(file))
    }

    /// A conversation as the models' interface takes it.
    pub(crate) fn prompt(&self, id: &str, messages: &Value) -> Prompt {
        let (messages, paths) = conversation(messages);
        let images = choose(&self.images, &paths);
        Prompt {
            id: id.into(),
            messages,
            images: images.into_iter().map(Into::into).collect(),
        }
    }

    fn sequence(&self, model: &HubModel, messages: &Value, prompt: bool) -> Sequence {
        let (messages, paths) = conversation(messages);
        let options = Encode {
            generation_prompt: prompt,
            ..Encode::default()
        };
        let encoded = model
            .processor()
            .encode(&messages, &choose(&self.images, &paths), &options)
            .unwrap_or_else(|error| panic!("{error}"));
        Sequence {
            id: "golden".into(),
            encoded: encoded.into(),
            answers: Vec::new(),
        }
    }

    /// The checkpoint for a case: with the processor's options that the case names.
    fn model_for(&self, case: &str) -> HubModel {
        let options = &self.cases[case]["processor_kwargs"];
        let options = options.as_object().filter(|options| !options.is_empty());
        let Some(options) = options else {
            return self.model();
        };
        let dir = tempfile::tempdir().unwrap();
        copy_folder(&self.dir.join("ckpt"), dir.path());
        let path = dir.path().join("preprocessor_config.json");
        let mut settings = read_json(&path);
        for (name, value) in options {
            settings[name] = value.clone();
        }
        std::fs::write(&path, settings.to_string()).unwrap();
        load(dir.path())
    }

    pub(crate) fn case(&self, model: &HubModel, name: &str) -> Vec<Sequence> {
        let messages = self.cases[name]["messages"].as_array().unwrap();
        let sequence = |messages| self.sequence(model, messages, true);
        messages.iter().map(sequence).collect()
    }

    pub(crate) fn case_names(&self) -> Vec<String> {
        let cases = self.cases.as_object().unwrap();
        cases.keys().cloned().collect()
    }

    /// The conversation of a member of a generation.
    fn member(&self, name: &Value) -> Prompt {
        let name = name.as_str().unwrap();
        self.prompt(name, &self.cases[name]["messages"][0])
    }
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_folder(&path, &target),
            // Not the permissions: a set may be read-only.
            false => std::fs::write(&target, std::fs::read(&path).unwrap()).unwrap(),
        }
    }
}

/// A padded `[rows, width]` list without its padding.
fn unpadded<T: Copy>(values: &[T], mask: &[i64]) -> Vec<T> {
    assert_eq!(values.len(), mask.len());
    let pairs = values.iter().zip(mask);
    pairs
        .filter(|(_, real)| **real == 1)
        .map(|(value, _)| *value)
        .collect()
}

/// The rows of a padded `[batch, length, width]` tensor where the mask is 1.
fn real_rows(tensors: &Tensors, name: &str) -> Option<Vec<f32>> {
    let (shape, all) = tensors.f32(name)?;
    let (_, mask) = tensors.i64("attention_mask").unwrap();
    let rows = all.chunks_exact(*shape.last().unwrap()).zip(mask);
    Some(
        rows.filter(|(_, real)| *real == 1)
            .flat_map(|(row, _)| row)
            .copied()
            .collect(),
    )
}

/// The largest difference is at most 2e-4 of the largest value.
fn close_gradient(what: &str, left: &[f32], right: &[f32]) -> f32 {
    let size = right.iter().fold(0f32, |size, value| size.max(value.abs()));
    let difference = largest(left, right);
    assert!(
        difference <= 2e-4 * size,
        "{what}: differs by {difference}, and its largest value is {size}"
    );
    difference / size
}

/// Texts, templates, ids, labels: whatever is exact and needs no image's pixels.
pub(crate) fn texts(set: &Set) {
    let model = set.model();
    let tokenizer = model.processor().tokenizer();
    for case in set.json("processor/tokenizer_cases.json")["encode"]
        .as_array()
        .unwrap()
    {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, numbers::<u32>(&case["ids"]), "{text:?}");
        assert_eq!(
            tokenizer.decode_with_special(&ids),
            case["decoded"],
            "{text:?}"
        );
        assert_eq!(
            tokenizer.decode(&ids),
            case["decoded_skip_special"],
            "{text:?}"
        );
    }
    for case in set.json("processor/chat_cases.json").as_array().unwrap() {
        let (messages, _) = conversation(&case["messages"]);
        for (key, prompt, vision_id) in [
            ("with_generation_prompt", true, false),
            ("without_generation_prompt", false, false),
            ("with_vision_id", true, true),
        ] {
            let Some(expected) = case.get(key) else {
                continue;
            };
            let text = model
                .processor()
                .template()
                .render(&messages, prompt, vision_id);
            assert_eq!(text.unwrap(), *expected, "{key} of {messages:?}");
        }
    }
    let sft = set.json("sft/sft.json");
    for sample in sft["samples"].as_array().unwrap() {
        let encoded = set.sequence(&model, &sample["messages"], false).encoded;
        assert_eq!(encoded.ids, numbers::<u32>(&sample["input_ids"]));
        let labels = encoded.labels.iter();
        let labels: Vec<i64> = labels.map(|label| label.map_or(-100, i64::from)).collect();
        assert_eq!(labels, numbers::<i64>(&sample["labels"]));
    }
}

/// Ids and positions of every case, and what `more` checks of it.
pub(crate) fn cases(set: &Set, more: impl Fn(&str, &HubModel, &[Sequence], &Tensors)) {
    for name in set.case_names() {
        let model = set.model_for(&name);
        let tensors = set.tensors(&format!("forward/{name}.safetensors"));
        let sequences = set.case(&model, &name);
        let (shape, ids) = tensors.i64("input_ids").unwrap();
        let (_, mask) = tensors.i64("attention_mask").unwrap();
        let width = shape[1];
        for (row, sequence) in sequences.iter().enumerate() {
            let part = row * width..(row + 1) * width;
            let expected = unpadded(&ids[part.clone()], &mask[part]);
            let own: Vec<i64> = sequence.encoded.ids.iter().map(|&id| id.into()).collect();
            assert_eq!(own, expected, "{name}[{row}]");
            // A count by sizes alone comes to the same.
            let messages = &set.cases[name.as_str()]["messages"][row];
            let (messages, paths) = conversation(messages);
            let sizes: Vec<(u32, u32)> = choose(&set.images, &paths)
                .iter()
                .map(|image| (image.width, image.height))
                .collect();
            let count = model
                .processor()
                .count_tokens(&messages, &sizes, &Encode::PROMPT);
            assert_eq!(count.unwrap(), own.len());
        }
        more(&name, &model, &sequences, &tensors);
    }
}

/// Logits of every case, alone and packed; `reference` gives a step's tensor in the set and ours in its order.
pub(crate) fn forward(
    set: &Set,
    reference: impl Fn(&str, &HubModel, &[Sequence], Vec<f32>) -> Option<(String, Vec<f32>)>,
) {
    let mut steps = 0;
    for name in set.case_names() {
        let model = set.model_for(&name);
        let tensors = set.tensors(&format!("forward/{name}.safetensors"));
        let sequences = set.case(&model, &name);
        let expected = real_rows(&tensors, "logits").unwrap();
        let logits = values(model.logits(&sequences));
        close(
            &format!("{name}: logits"),
            &logits,
            &expected,
            set.logits,
            0.0,
        );
        for (step, flow) in model.trace(&sequences) {
            let aside = flow.aside.into_iter().enumerate();
            let all = [(step.clone(), flow.x)].into_iter();
            for (step, x) in all.chain(aside.map(|(at, x)| (format!("{step}aside.{at}"), x))) {
                let Some((what, own)) = reference(&step, &model, &sequences, values(x)) else {
                    continue;
                };
                let Some((_, expected)) = tensors.f32(&what) else {
                    continue;
                };
                let (absolute, relative) = match what.as_str() {
                    "vision.out" => (3e-5, 0.0),
                    _ => (5e-5, 1e-5),
                };
                close(
                    &format!("{name}: {what}"),
                    &own,
                    &expected,
                    absolute,
                    relative,
                );
                steps += 1;
            }
        }
    }
    assert!(steps > 10, "{steps} steps compared");
    let hub = load(&set.dir.join("ckpt_hub_bf16"));
    let tensors = set.tensors("forward/hub_bf16_logits.safetensors");
    let mut compared = 0;
    for name in tensors.names() {
        let Some(case) = name.strip_suffix(".logits_f32_from_bf16_weights") else {
            continue;
        };
        let (_, expected) = tensors.f32(&name).unwrap();
        let logits = values(hub.logits(&set.case(&hub, case)));
        let what = format!("{case}: logits of bf16 weights");
        close(&what, &logits, &expected, set.logits, 0.0);
        compared += 1;
    }
    assert!(compared > 0);
    let all: Vec<Sequence> = ["single", "no_image", "two_images"]
        .iter()
        .flat_map(|name| set.case(&hub, name))
        .collect();
    let apart = all
        .iter()
        .flat_map(|one| values(hub.logits(std::slice::from_ref(one))));
    let packed = values(hub.logits(&all));
    assert!(
        apart.eq(packed),
        "a sequence's logits depend on its neighbours"
    );
}

fn greedy(facts: &Value, run: &Value) -> Sampling {
    Sampling {
        temperature: 0.0,
        repetition_penalty: number(&run["repetition_penalty"]),
        max_new_tokens: facts["max_new_tokens"].as_u64().unwrap() as usize,
        ..Sampling::default()
    }
}

/// Greedy generations through the models' interface, and log-probabilities of given answers.
pub(crate) fn generation(set: &Set) {
    let facts = set.json("generate/generate.json");
    let tensors = set.tensors("generate/generate.safetensors");
    let prompts: Vec<Prompt> = facts["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| set.member(name))
        .collect();
    for (run, settings) in facts["runs"].as_object().unwrap() {
        let mut model = set.model();
        model.set_stops(numbers::<u32>(&settings["eos_token_id"]));
        let drawn = model
            .generate(&prompts, 0..1, &greedy(&facts, settings))
            .unwrap();
        let (shape, tokens) = tensors.i64(&format!("{run}.new_tokens")).unwrap();
        let (_, after) = tensors.i64(&format!("{run}.after_eos")).unwrap();
        let rows = tokens
            .chunks_exact(shape[1])
            .zip(after.chunks_exact(shape[1]));
        for ((answers, (tokens, after)), prompt) in drawn.iter().zip(rows).zip(&prompts) {
            let before: Vec<i64> = after.iter().map(|after| 1 - after).collect();
            let own: Vec<i64> = answers[0]
                .tokens
                .iter()
                .map(|&token| token.into())
                .collect();
            assert_eq!(own, unpadded(tokens, &before), "{run}: {}", prompt.id);
        }
        if let Some((shape, logits)) = tensors.f32(&format!("{run}.logits")) {
            check_logprobs(run, &drawn, &logits, shape[1] * shape[2], shape[2]);
        }
    }
    completions(set);
}

/// The log-probabilities of what was drawn, by the reference's logits.
fn check_logprobs(run: &str, drawn: &[Vec<Completion>], logits: &[f32], row: usize, vocab: usize) {
    for (answers, logits) in drawn.iter().zip(logits.chunks_exact(row)) {
        let answer = &answers[0];
        let tokens = answer.tokens.iter().zip(logits.chunks_exact(vocab));
        let expected: Vec<f32> = tokens
            .map(|(&token, logits)| {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
                (f64::from(logits[token as usize] - most) - sum.ln()) as f32
            })
            .collect();
        close(
            &format!("{run}: log-probs"),
            &answer.logprobs,
            &expected,
            1e-4,
            0.0,
        );
    }
}

fn completions(set: &Set) {
    let facts = set.json("generate/completion_logprobs.json");
    let tensors = set.tensors("generate/completion_logprobs.safetensors");
    let model = set.model();
    let (shape, ids) = tensors.i64("completion_ids").unwrap();
    let (_, mask) = tensors.i64("completion_mask").unwrap();
    let answers = rows_of(&ids, &mask, shape[1]);
    let members = facts["members"].as_array().unwrap().iter();
    let sequences: Vec<Sequence> = members
        .zip(answers)
        .map(|(member, answer)| Sequence {
            id: "golden".into(),
            encoded: model.encode(&set.member(member)).unwrap().into(),
            answers: vec![answer],
        })
        .collect();
    for temperature in [1.0, 0.9] {
        let (output, targets) = model.labelled(&sequences, &Forward::default());
        let real = |name: &str| unpadded(&tensors.f32(name).unwrap().1, &mask);
        let own = values(token_logprobs(output.logits.clone(), &targets, temperature));
        let what = format!("logprobs_t{temperature:?}");
        close(&what, &own, &real(&what), 1e-4, 0.0);
        let what = format!("entropy_t{temperature:?}");
        let own = values(entropy(output.logits, temperature));
        close(&what, &own, &real(&what), 2e-4, 0.0);
    }
}

/// Rows of a padded list of ids, without padding.
fn rows_of(ids: &[i64], mask: &[i64], width: usize) -> Vec<Arc<[u32]>> {
    let rows = ids.chunks_exact(width).zip(mask.chunks_exact(width));
    let row = |(ids, mask): (&[i64], &[i64])| unpadded(ids, mask).into_iter();
    rows.map(|pair| row(pair).map(|id| id as u32).collect())
        .collect()
}

fn adamw(optimizer: &Value) -> AdamW {
    AdamW::new(AdamWSettings {
        betas: [
            number(&optimizer["betas"][0]),
            number(&optimizer["betas"][1]),
        ],
        eps: number(&optimizer["eps"]),
        weight_decay: number(&optimizer["weight_decay"]),
        max_grad_norm: first_number(&optimizer["max_grad_norm"]),
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
        trained.merge_lora();
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

/// Import and export of all weights in both layouts: the same names, shapes, types and bits.
pub(crate) fn export(set: &Set) {
    for (name, precision) in [("ckpt", "f32"), ("ckpt_hub_bf16", "bf16")] {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("in");
        copy_folder(&set.dir.join(name), &folder);
        let settings = format!(r#"{{"precision": "{precision}"}}"#);
        std::fs::write(folder.join("dcsft.json"), settings).unwrap();
        let mut model = load(&folder);
        // Whoever may have changed the weights has them written.
        model.params_mut();
        let out = dir.path().join("out");
        model.save(&out).unwrap();
        let own = Tensors::read(&out.join("model.safetensors"));
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_none_or(|ending| ending != "safetensors")
            {
                continue;
            }
            let given = Tensors::read(&path);
            for tensor in given.names() {
                assert_eq!(own.bytes(&tensor), given.bytes(&tensor), "{name}: {tensor}");
                count += 1;
            }
        }
        assert_eq!(count, own.names().len(), "{name}");
        let (given, written) = (folder.join("config.json"), out.join("config.json"));
        assert_eq!(read_json(&given), read_json(&written), "{name}");
    }
}

fn vector(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &Device::flex().autodiff())
}

fn spread(values: &[f32], lengths: &[usize]) -> Vec<f32> {
    let pairs = values.iter().zip(lengths);
    pairs
        .flat_map(|(value, length)| vec![*value; *length])
        .collect()
}

/// GRPO: log-probabilities of policy and reference, losses, gradients of the adapters.
pub(crate) fn grpo(set: &Set) {
    let facts = set.json("grpo/grpo.json");
    let tensors = set.tensors("grpo/grpo.safetensors");
    let mut policy = set.model();
    load_adapter(&mut policy, &set.dir.join("grpo/policy_adapter")).unwrap();
    let reference = set.model();
    let (shape, ids) = tensors.i64("completion_ids").unwrap();
    let (_, mask) = tensors.i64("completion_mask").unwrap();
    let answers = rows_of(&ids, &mask, shape[1]);
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.len()).collect();
    let generations = facts["num_generations"].as_u64().unwrap() as usize;
    let prompts = facts["prompts"].as_array().unwrap().iter();
    let sequences: Vec<Sequence> = prompts
        .zip(answers.chunks(generations))
        .map(|(messages, answers)| Sequence {
            id: "golden".into(),
            encoded: policy
                .encode(&set.prompt("golden", messages))
                .unwrap()
                .into(),
            answers: answers.to_vec(),
        })
        .collect();
    let real = |name: &str| unpadded(&tensors.f32(name).unwrap().1, &mask);
    let logprobs = |model: &HubModel, temperature: f64| {
        let (output, targets) = model.labelled(&sequences, &Forward::default());
        token_logprobs(output.logits, &targets, temperature)
    };
    let (_, advantages) = tensors.f32("advantages").unwrap();
    let objective = Objective {
        epsilon: number(&facts["epsilon"]),
        epsilon_high: number(&facts["epsilon"]),
        beta: number(&facts["beta"]),
        kl_bias_correction: false,
    };
    let loss_type: LossType = serde_json::from_value(facts["loss_type"].clone()).unwrap();
    for (run, expected) in facts["runs"].as_object().unwrap() {
        let (name, old) = run.rsplit_once('.').unwrap();
        let temperature: f64 = name.trim_start_matches('t').parse().unwrap();
        let kept = values(logprobs(&reference, temperature));
        close(run, &kept, &real(&format!("{name}.ref_logps")), 1e-4, 0.0);
        let own = logprobs(&policy, temperature);
        let drawn = real(&format!("{name}.policy_logps"));
        close(run, &values(own.clone()), &drawn, 1e-4, 0.0);
        let old = (old == "old_given").then(|| vector(real(&format!("{name}.old_logps"))));
        let kept = vector(real(&format!("{name}.ref_logps")));
        let given = vector(spread(&advantages, &lengths));
        let token = token_loss(&objective, &own, old.as_ref(), Some(&kept), &given);
        if let Some((_, loss)) = tensors.f32(&format!("{run}.per_token_loss")) {
            let loss = unpadded(&loss, &mask);
            close(run, &values(token.loss.clone()), &loss, 2e-4, 1e-4);
        }
        let total = lengths.iter().sum();
        let weights = answer_weights(loss_type, &lengths, shape[1], total).into_iter();
        let weights: Vec<f32> = weights.map(|weight| weight as f32).collect();
        let loss = (token.loss * vector(spread(&weights, &lengths))).sum();
        let value = f64::from(values(loss.clone())[0]);
        assert!(
            (value - number(&expected["loss"])).abs() < 5e-5,
            "{run}: loss {value}"
        );
        let mut gradients = vec![None; trainable(&policy).count()];
        add(&policy, loss.backward(), &mut gradients);
        let ours = by_name(&policy, &gradients);
        let norm = norm(&ours.values().flatten().copied().collect::<Vec<_>>());
        assert!(
            (norm / number(&expected["grad_norm"]) - 1.0).abs() < 1e-4,
            "{run}: {norm}"
        );
        let marker = format!("{run}.grad.{PEFT_PREFIX}");
        let mut count = 0;
        for each in tensors.names() {
            let Some(weight) = each.strip_prefix(&marker) else {
                continue;
            };
            close_gradient(&each, &ours[weight], &tensors.f32(&each).unwrap().1);
            count += 1;
        }
        println!("{run}: loss {value}, {count} gradients");
    }
}

/// Changes a number in the middle of a file's tensor.
pub(crate) fn damage(file: &Path, tensor: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let range = numbers::<usize>(&table[tensor]["data_offsets"]);
    let place = 8 + header + (range[0] + range[1]) / 8 * 4;
    // A bit of the exponent, or of an integer.
    bytes[place + 3] ^= 1;
    bytes[place] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

/// A check of a set fails on a copy in which one tensor has another number.
pub(crate) fn notices(place: &Place, file: &str, tensor: &str, check: impl Fn(&Set)) {
    let Some(dir) = place.find() else { return };
    check(&place.open_at(dir.clone()));
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&dir, copy.path());
    damage(&copy.path().join(file), tensor);
    let set = place.open_at(copy.path().to_owned());
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&set)));
    assert!(
        found.is_err(),
        "nobody noticed the damage to {tensor} in {file}"
    );
}
