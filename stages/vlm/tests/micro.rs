//! The micro VLM through its public surface.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_vlm::model::{
    Completion, Example, Forward, Output, Prompt, RgbImage, Sampling, VisionLanguageModel,
};
use dcsft_vlm::ops::token_logprobs;
use dcsft_vlm::rng::StreamKey;

fn model(config: MicroConfig) -> MicroVlm {
    MicroVlm::new(config, 7, &Device::flex()).unwrap()
}

fn prompt(id: &str, text: &str) -> Prompt {
    let mut stream = StreamKey::new("image", 0).text(id).stream();
    let pixels: Arc<[u8]> = (0..16 * 16 * 3).map(|_| stream.below(256) as u8).collect();
    Prompt { id: id.into(), image: RgbImage { width: 16, height: 16, pixels }, text: text.into() }
}

fn prompts(count: usize) -> Vec<Prompt> {
    let texts = ["object?", "scene?", "caption", "<image>object?"];
    (0..count).map(|index| prompt(&format!("sample {index}"), texts[index % texts.len()])).collect()
}

fn example(model: &MicroVlm, prompt: Prompt, answer: &str) -> Example {
    let mut tokens = model.tokenizer().encode(answer).unwrap();
    tokens.push(model.tokenizer().eos());
    Example { prompt, answer: tokens.into() }
}

fn examples(model: &MicroVlm) -> Vec<Example> {
    let answers = ["disk", "box", "tri on sky", "a", ""];
    prompts(5).into_iter().zip(answers).map(|(prompt, answer)| example(model, prompt, answer)).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().try_to_vec().unwrap()
}

fn logits(model: &MicroVlm, batch: &[Example]) -> Vec<f32> {
    values(model.forward(batch, &Forward::default()).unwrap().logits)
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= tolerance, "{index}: {left} and {right}");
    }
}

/// Gives every adapter a part in the output.
fn stir_adapters(model: &mut MicroVlm) {
    for param in model.params_mut().iter_mut().filter(|param| param.name.contains(".lora_B.")) {
        let shape = param.value.dims();
        let mut stream = StreamKey::new("stir", 0).text(&param.name).stream();
        let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.2 * stream.normal() as f32).collect();
        param.value = Tensor::from_data(TensorData::new(values, shape), &Device::flex()).autodiff().require_grad();
    }
}

const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: 0, max_new_tokens: 8, seed: 0 };

#[test]
fn the_micro_worlds_model_has_the_recipes_number_of_parameters() {
    let model = model(MicroConfig::default());
    assert_eq!(model.tokenizer().vocab_size(), 32);
    // The recipe counts the auxiliary classifier of pre-training: 48 x 16 weights and 16 biases.
    assert_eq!(model.params().count() + 48 * 16 + 16, 86_688);
}

#[test]
fn adapters_go_on_eighteen_layers() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    let trainable: Vec<&str> =
        model.params().iter().filter(|param| param.trainable).map(|param| &*param.name).collect();
    assert_eq!(trainable.len(), 2 * 18);
    assert!(trainable.iter().all(|name| name.contains("lora_") && !name.starts_with("head")));
}

#[test]
fn logits_have_a_row_for_every_answer_token() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let output = model.forward(&batch, &Forward::default()).unwrap();
    let tokens: usize = batch.iter().map(|example| example.answer.len()).sum();
    assert_eq!(output.logits.dims(), [tokens, 32]);
    assert_eq!(output.pooled.dims(), [batch.len(), 48]);
}

#[test]
fn a_samples_logits_do_not_depend_on_its_batch() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let alone: Vec<f32> =
        batch.iter().flat_map(|example| logits(&model, std::slice::from_ref(example))).collect();
    assert_eq!(logits(&model, &batch), alone);
}

#[test]
fn answers_to_one_prompt_share_its_rows_and_change_nothing() {
    let model = model(MicroConfig::default());
    let [first, other] = [prompt("a", "object?"), prompt("b", "object?")];
    let answers = ["disk", "", "box", "disk on sky"];
    let mut batch: Vec<Example> = answers.iter().map(|answer| example(&model, first.clone(), answer)).collect();
    batch.push(example(&model, other, "a"));
    let targets: Vec<u32> = batch.iter().flat_map(|example| example.answer.to_vec()).collect();
    let together = model.forward(&batch, &Forward::default()).unwrap();
    let apart: Vec<_> = batch
        .iter()
        .map(|example| model.forward(std::slice::from_ref(example), &Forward::default()).unwrap())
        .collect();
    let [logits, pooled] = [0, 1].map(|part| {
        let pick = |output: &Output| if part == 0 { output.logits.clone() } else { output.pooled.clone() };
        (values(pick(&together)), apart.iter().flat_map(|output| values(pick(output))).collect::<Vec<f32>>())
    });
    assert_eq!(logits.0, logits.1);
    assert_eq!(pooled.0, pooled.1);

    let apart_logits = Tensor::cat(apart.iter().map(|output| output.logits.clone()).collect(), 0);
    let together = token_logprobs(together.logits, &targets, 1.0).sum().backward();
    let apart = token_logprobs(apart_logits, &targets, 1.0).sum().backward();
    for param in model.params().iter() {
        let [left, right] = [&together, &apart].map(|grads| values(param.value.grad(grads).unwrap()));
        let size = right.iter().fold(1f32, |size, value| size.max(value.abs()));
        assert_close(&left, &right, 1e-5 * size);
    }
}

#[test]
fn logits_depend_on_the_image_the_prompt_and_earlier_tokens_only() {
    let model = model(MicroConfig::default());
    let base = example(&model, prompt("a", "object?"), "disk");
    let right = logits(&model, &[base.clone()]);
    let other_end = example(&model, prompt("a", "object?"), "disc");
    let changed = logits(&model, &[other_end]);
    assert_eq!(right[..4 * 32], changed[..4 * 32], "the token to predict is not seen");
    assert_ne!(right[4 * 32..], changed[4 * 32..], "it is seen by what follows");
    for other in [prompt("b", "object?"), prompt("a", "scene?")] {
        assert_ne!(right[..32], logits(&model, &[example(&model, other, "disk")])[..32]);
    }
}

#[test]
fn all_weights_get_gradients() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let targets: Vec<u32> = batch.iter().flat_map(|example| example.answer.to_vec()).collect();
    let output = model.forward(&batch, &Forward::default()).unwrap();
    let grads = token_logprobs(output.logits, &targets, 1.0).mean().backward();
    for param in model.params().iter() {
        let gradient = param.value.grad(&grads).unwrap_or_else(|| panic!("{} has no gradient", param.name));
        assert!(values(gradient).iter().any(|&value| value != 0.0), "the gradient of {} is zero", param.name);
    }
}

#[test]
fn a_frozen_vision_tower_gets_no_gradients() {
    let mut model = model(MicroConfig::default());
    let targets = BTreeSet::from([ModuleGroup::Decoder]);
    model.add_lora(&LoraConfig { targets, ..Default::default() }, 0).unwrap();
    let batch = examples(&model);
    let targets: Vec<u32> = batch.iter().flat_map(|example| example.answer.to_vec()).collect();
    let output = model.forward(&batch, &Forward::default()).unwrap();
    assert!(!output.pooled.is_tracked(), "nothing before the decoder is recorded for the backward pass");
    let grads = token_logprobs(output.logits, &targets, 1.0).mean().backward();
    for param in model.params().iter() {
        assert_eq!(param.value.grad(&grads).is_some(), param.trainable, "{}", param.name);
        assert_eq!(param.trainable, param.name.starts_with("decoder.") && param.name.contains(".lora_"));
    }
}

#[test]
fn the_models_gradients_follow_finite_differences() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    stir_adapters(&mut model);
    let batch = examples(&model);
    let targets: Vec<u32> = batch.iter().flat_map(|example| example.answer.to_vec()).collect();
    let forward = Forward { dropout: Some(StreamKey::new("dropout", 3)) };
    let loss = |model: &MicroVlm| {
        token_logprobs(model.forward(&batch, &forward).unwrap().logits, &targets, 1.0).sum()
    };
    let grads = loss(&model).backward();
    let checked = ["vision.patch.lora_A.weight", "decoder.blocks.1.mlp.fc2.lora_B.weight", "projector.lora_B.weight"];
    for name in checked {
        let param = model.params().iter().find(|param| param.name == name).unwrap();
        let gradient = values(param.value.grad(&grads).unwrap());
        let start = values(param.value.clone());
        let shape = param.value.dims();
        let index = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap().0;
        let mut moved = |step: f32| {
            let mut data = start.clone();
            data[index] += step;
            let param = model.params_mut().iter_mut().find(|param| param.name == name).unwrap();
            param.value = Tensor::from_data(TensorData::new(data, shape), &Device::flex()).autodiff();
            values(loss(&model))[0]
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        moved(0.0);
        assert!((slope - gradient[index]).abs() < 2e-2 * slope.abs(), "{name}: {} for {slope}", gradient[index]);
    }
}

#[test]
fn fresh_adapters_change_nothing_and_merged_ones_what_they_did_before() {
    let mut model = model(MicroConfig::default());
    let batch = examples(&model);
    let base = logits(&model, &batch);
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    assert_eq!(logits(&model, &batch), base);
    stir_adapters(&mut model);
    let adapted = logits(&model, &batch);
    assert_ne!(adapted, base);
    assert_close(&logits(&model.frozen(), &batch), &adapted, 1e-4);
    let count = model.params().count();
    model.merge_lora();
    assert!(model.params().count() < count && model.lora().is_none());
    assert!(model.params().iter().all(|param| param.trainable));
    assert_close(&logits(&model, &batch), &adapted, 1e-4);
}

#[test]
fn a_second_adapter_is_refused() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    assert!(matches!(model.add_lora(&LoraConfig::default(), 0), Err(VlmError::Config(_))));
}

#[test]
fn dropout_depends_on_its_key_and_the_sample_alone() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig { dropout: 0.3, ..Default::default() }, 0).unwrap();
    stir_adapters(&mut model);
    let batch = examples(&model);
    let with = |key: u64, batch: &[Example]| {
        let forward = Forward { dropout: Some(StreamKey::new("dropout", key)) };
        values(model.forward(batch, &forward).unwrap().logits)
    };
    let first = with(1, &batch);
    assert_eq!(first, with(1, &batch));
    assert_ne!(first, with(2, &batch));
    assert_ne!(first, logits(&model, &batch));
    let alone = with(1, &batch[1..2]);
    let start = batch[0].answer.len() * 32;
    assert_eq!(first[start..start + alone.len()], alone);
}

#[test]
fn greedy_answers_are_the_teacher_forced_argmax() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    stir_adapters(&mut model);
    let prompts = prompts(12);
    let answers = model.generate(&prompts, 0..1, &GREEDY).unwrap();
    for (prompt, answers) in prompts.into_iter().zip(answers) {
        let Completion { tokens, logprobs, finished } = answers.into_iter().next().unwrap();
        assert_eq!(finished, tokens.last() == Some(&model.tokenizer().eos()));
        assert!(finished || tokens.len() == GREEDY.max_new_tokens);
        let forced = logits(&model, &[Example { prompt, answer: tokens.clone().into() }]);
        for ((row, &token), &logprob) in forced.chunks(32).zip(&tokens).zip(&logprobs) {
            let best = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            assert!(best - row[token as usize] < 1e-4, "not the most likely token");
            let total: f64 = row.iter().map(|&logit| f64::from(logit - best).exp()).sum();
            let right = f64::from(row[token as usize] - best) - total.ln();
            assert!((f64::from(logprob) - right).abs() < 1e-4, "{logprob} for {right}");
        }
    }
}

#[test]
fn sampled_logprobs_are_those_of_the_training_pass_at_that_temperature() {
    let model = model(MicroConfig::default());
    let prompts = prompts(6);
    let sampling = Sampling { temperature: 0.9, top_p: 0.8, top_k: 12, max_new_tokens: 6, seed: 4 };
    let answers = model.generate(&prompts, 0..3, &sampling).unwrap();
    for (prompt, answers) in prompts.iter().zip(answers) {
        for answer in answers {
            let example = Example { prompt: prompt.clone(), answer: answer.tokens.clone().into() };
            let logits = model.forward(&[example], &Forward::default()).unwrap().logits;
            assert_close(&values(token_logprobs(logits, &answer.tokens, 0.9)), &answer.logprobs, 1e-4);
        }
    }
}

#[test]
fn answers_do_not_depend_on_grouping_threads_or_other_generations() {
    let model = model(MicroConfig::default());
    let prompts = prompts(40);
    let sampling = Sampling { temperature: 1.0, top_p: 0.95, top_k: 0, max_new_tokens: 7, seed: 11 };
    let all = model.generate(&prompts, 0..4, &sampling).unwrap();
    for size in [1, 7] {
        let groups = prompts.chunks(size).flat_map(|group| model.generate(group, 0..4, &sampling).unwrap());
        assert_eq!(groups.collect::<Vec<_>>(), all, "groups of {size}");
    }
    let later = model.generate(&prompts, 2..4, &sampling).unwrap();
    assert!(later.iter().zip(&all).all(|(later, all)| later[..] == all[2..]));
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| model.generate(&prompts, 0..4, &sampling)).unwrap(), all);
    }
    let other = Sampling { seed: 12, ..sampling };
    assert_ne!(model.generate(&prompts, 0..4, &other).unwrap(), all);
}

#[test]
fn top_k_and_top_p_leave_the_likely_tokens() {
    let model = model(MicroConfig::default());
    let prompts = prompts(3);
    let draw = |top_k, top_p, count| {
        let sampling = Sampling { temperature: 1.0, top_p, top_k, max_new_tokens: 1, seed: 0 };
        let answers = model.generate(&prompts, 0..count, &sampling).unwrap();
        answers.iter().map(|a| a.iter().map(|a| a.tokens[0]).collect::<BTreeSet<u32>>()).collect::<Vec<_>>()
    };
    for (prompt, (by_k, by_p)) in prompts.iter().zip(draw(3, 1.0, 400).into_iter().zip(draw(0, 0.5, 400))) {
        let example = Example { prompt: prompt.clone(), answer: vec![1].into() };
        let row = logits(&model, &[example]);
        let mut order: Vec<u32> = (0..32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        assert_eq!(by_k, order[..3].iter().copied().collect());
        let weights: Vec<f64> = order.iter().map(|&token| f64::from(row[token as usize]).exp()).collect();
        let half = weights.iter().sum::<f64>() / 2.0;
        let mut sum = 0.0;
        let nucleus = weights.iter().take_while(|&&weight| { let before = sum; sum += weight; before < half });
        let nucleus = nucleus.count();
        assert!(by_p.iter().all(|token| order[..nucleus].contains(token)), "{by_p:?}");
        assert!(by_p.contains(&order[0]));
    }
}

#[test]
fn draws_follow_the_models_distribution() {
    let model = model(MicroConfig::default());
    let prompt = prompt("a", "object?");
    let sampling = Sampling { temperature: 1.3, top_p: 1.0, top_k: 0, max_new_tokens: 1, seed: 5 };
    let count = 20_000;
    let answers = model.generate(std::slice::from_ref(&prompt), 0..count, &sampling).unwrap();
    let row = logits(&model, &[Example { prompt, answer: vec![1].into() }]);
    let weights: Vec<f64> = row.iter().map(|&logit| (f64::from(logit) / 1.3).exp()).collect();
    let total: f64 = weights.iter().sum();
    for (token, weight) in weights.iter().enumerate() {
        let expected = weight / total;
        let hits = answers[0].iter().filter(|answer| answer.tokens[0] == token as u32).count();
        let error = (hits as f64 / f64::from(count) - expected).abs();
        let deviation = (expected * (1.0 - expected) / f64::from(count)).sqrt();
        assert!(error < 5.0 * deviation + 1e-9, "token {token}: off by {} deviations", error / deviation);
    }
}

#[test]
fn answers_end_where_the_context_ends() {
    let model = model(MicroConfig { max_text_tokens: 3, ..Default::default() });
    let sampling = Sampling { temperature: 1.0, max_new_tokens: 50, ..GREEDY };
    let answers = model.generate(&[prompt("a", "object?")], 0..50, &sampling).unwrap();
    assert!(answers[0].iter().all(|answer| answer.tokens.len() <= 3));
    let cut = answers[0].iter().filter(|answer| !answer.finished).collect::<Vec<_>>();
    assert!(!cut.is_empty() && cut.iter().all(|answer| answer.tokens.len() == 3));
}

#[test]
fn a_saved_model_comes_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let decoder = BlocksConfig { width: 32, layers: 1, heads: 2, mlp_ratio: 3 };
    let mut model = model(MicroConfig { decoder, ..Default::default() });
    let batch = examples(&model);
    for adapted in [false, true] {
        if adapted {
            model.add_lora(&LoraConfig { rank: 4, ..Default::default() }, 0).unwrap();
            stir_adapters(&mut model);
        }
        let dir = dir.path().join(adapted.to_string());
        model.save(&dir).unwrap();
        let loaded = MicroVlm::load(&dir, &Device::flex()).unwrap();
        assert_eq!(loaded.config(), model.config());
        assert_eq!(loaded.lora(), model.lora());
        let pairs = loaded.params().iter().zip(model.params().iter());
        for (left, right) in pairs {
            assert_eq!((&left.name, left.trainable, left.decay), (&right.name, right.trainable, right.decay));
            assert_eq!(values(left.value.clone()), values(right.value.clone()));
        }
        assert_eq!(logits(&loaded, &batch), logits(&model, &batch));
        assert_eq!(dir.join("adapter_model.safetensors").exists(), adapted);
        let again = dir.join("again");
        loaded.save(&again).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(std::fs::read(dir.join(file)).unwrap(), std::fs::read(again.join(file)).unwrap(), "{file}");
        }
    }
}

#[test]
fn damaged_models_are_refused_with_the_files_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(MicroConfig::default());
    let spoil = |file: &str, content: &[u8]| {
        model.save(dir.path()).unwrap();
        std::fs::write(dir.path().join(file), content).unwrap();
        let error = MicroVlm::load(dir.path(), &Device::flex()).err().expect("an error").to_string();
        assert!(error.contains(file), "{error}");
        error
    };
    spoil("config.json", b"{}");
    spoil("model.safetensors", b"short");
    let smaller = MicroVlm::new(MicroConfig { max_text_tokens: 5, ..Default::default() }, 0, &Device::flex());
    let other = tempfile::tempdir().unwrap();
    smaller.unwrap().save(other.path()).unwrap();
    let error = spoil("model.safetensors", &std::fs::read(other.path().join("model.safetensors")).unwrap());
    assert!(error.contains("decoder.positions.weight") && error.contains("[27, 48]"), "{error}");
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let model = model(MicroConfig::default());
    let check = |prompt: Prompt, answer: &[u32]| model.check(&prompt, answer).unwrap_err();
    assert!(matches!(check(prompt("a", "What is it?"), &[1]), VlmError::Vocabulary { .. }));
    let long = check(prompt("a", "object?"), &[5; 12]);
    assert!(matches!(long, VlmError::TooLong { needed: 12, room: 11, .. }), "{long}");
    assert!(check(prompt("a", "object?"), &[]).to_string().contains("end token"));
    assert!(check(prompt("a", "object?"), &[32]).to_string().contains("ends at 31"));
    assert!(check(prompt("a", "<image><image>object?"), &[1]).to_string().contains("one image"));
    let mut broken = prompt("a", "object?");
    broken.image.width = 17;
    assert!(check(broken, &[1]).to_string().contains("17 x 16"));
    for sizes in [
        MicroConfig { patch_size: 5, ..Default::default() },
        MicroConfig { image_size: 0, ..Default::default() },
        MicroConfig { vision: BlocksConfig { heads: 5, ..Default::default() }, ..Default::default() },
    ] {
        assert!(matches!(MicroVlm::new(sizes, 0, &Device::flex()), Err(VlmError::Config(_))));
    }
    let hot = Sampling { temperature: -1.0, ..GREEDY };
    assert!(matches!(model.generate(&[prompt("a", "object?")], 0..1, &hot), Err(VlmError::Config(_))));
}

#[test]
fn the_seed_makes_the_weights() {
    let first = |seed| values(MicroVlm::new(MicroConfig::default(), seed, &Device::flex()).unwrap().params().iter().next().unwrap().value.clone());
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}
