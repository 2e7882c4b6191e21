//! Generation and log-probabilities against what Transformers computed.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::ops::{entropy, token_logprobs};
use dcsft_vlm::generate::Places;
use dcsft_vlm::generate::sample::Sampler;
use dcsft_vlm::model::{Forward, Prompt, Sampling, VisionLanguageModel as _};
use serde_json::Value;

use support::compare::{close, same, values};
use support::model::Golden;
use support::{Tensors, numbers, read_json};

fn members(golden: &Golden, model: &HubModel, names: &Value) -> Vec<Sequence> {
    let names = names.as_array().unwrap().iter();
    let sequence = |name: &Value| golden.case(model, name.as_str().unwrap()).remove(0);
    names
        .map(|name| Sequence {
            id: name.as_str().unwrap().into(),
            ..sequence(name)
        })
        .collect()
}

#[test]
fn golden_greedy_answers_are_the_same_tokens() {
    let Some(golden) = Golden::open() else { return };
    let facts = read_json(&golden.dir.join("generate/generate.json"));
    let mut model = golden.model();
    let prompts = members(&golden, &model, &facts["members"]);
    let pad = facts["pad_token_id"].as_u64().unwrap() as u32;
    for (run, facts_of_run) in facts["runs"].as_object().unwrap() {
        model.set_stops(numbers(&facts_of_run["eos_token_id"]));
        let sampling = Sampling {
            temperature: 0.0,
            repetition_penalty: facts_of_run["repetition_penalty"].as_f64().unwrap(),
            max_new_tokens: facts["max_new_tokens"].as_u64().unwrap() as usize,
            ..Sampling::default()
        };
        let answers = model.write(&prompts, 0..1, &sampling).unwrap();
        for (row, (answer, expected)) in answers
            .iter()
            .zip(facts_of_run["tokens"].as_array().unwrap())
            .enumerate()
        {
            let mut tokens = answer[0].tokens.clone();
            // The reference pads rows that end early.
            tokens.resize(sampling.max_new_tokens, pad);
            assert_eq!(tokens, numbers::<u32>(expected), "{run}, row {row}");
        }
        println!(
            "{run}: {} rows of {} tokens equal",
            answers.len(),
            sampling.max_new_tokens
        );
    }
}

#[test]
fn golden_answers_of_later_groups_are_those_of_the_first() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let images: Vec<_> = golden.images.iter().take(2).collect();
    let prompt = |index: usize| {
        let (name, image) = images[index % 2];
        let image = vec![image.clone().into()];
        Prompt::question(name.clone(), image, None, "What is it?")
    };
    // Three groups of a device, and five of the processor.
    let prompts: Vec<Prompt> = (0..70).map(prompt).collect();
    let sampling = Sampling {
        max_new_tokens: 2,
        ..Sampling::default()
    };
    let answers = model.generate(&prompts, 0..1, &sampling).unwrap();
    assert_eq!(answers.len(), prompts.len());
    for (index, answer) in answers.iter().enumerate() {
        assert_eq!(answer[0].tokens, answers[index % 2][0].tokens, "{index}");
    }
    // What is wrong with a prompt of the last group is said, and nothing else.
    let mut wrong = prompts;
    wrong[69].messages.clear();
    assert!(model.generate(&wrong, 0..1, &sampling).is_err());
}

#[test]
fn golden_warped_distributions() {
    let Some(golden) = Golden::open() else { return };
    let tensors = Tensors::read(&golden.dir.join("generate/generate.safetensors"));
    let (shape, raw) = tensors.f32("rp1.0.raw_logits").unwrap();
    let (_, written) = tensors.i64("rp1.0.new_tokens").unwrap();
    let (_, ids) = tensors.i64("input_ids").unwrap();
    let (_, mask) = tensors.i64("attention_mask").unwrap();
    let [rows, steps, vocab] = shape[..] else {
        panic!("{shape:?}")
    };
    let width = ids.len() / rows;
    let mut compared = 0;
    for name in tensors
        .names()
        .iter()
        .filter(|name| name.starts_with("warp."))
    {
        let (shape, reference) = tensors.f32(name).unwrap();
        let sampling = settings(name);
        let mut ours = Vec::new();
        for row in 0..rows {
            // The reference's processor sees the padding too: those tokens are penalised with it.
            let prompt: Vec<u32> = ids[row * width..][..width]
                .iter()
                .map(|&id| id as u32)
                .collect();
            let real = mask[row * width..][..width]
                .iter()
                .filter(|&&real| real == 1)
                .count();
            assert!(real > 0);
            for step in 0..shape[1] {
                let before: Vec<u32> = written[row * steps..][..step]
                    .iter()
                    .map(|&id| id as u32)
                    .collect();
                let mut logits = raw[(row * steps + step) * vocab..][..vocab].to_vec();
                Sampler::new(&sampling).probabilities(&mut logits, [&prompt, &before]);
                ours.extend(logits);
            }
        }
        close(name, &ours, &reference, 2e-6, 1e-5);
        compared += 1;
    }
    assert!(compared > 0);
}

/// `warp.rp1.05_t0.9_k50_p1.0`
fn settings(name: &str) -> Sampling {
    let parts: Vec<&str> = name.trim_start_matches("warp.").split('_').collect();
    let number = |prefix: &str| -> f64 {
        let part = parts
            .iter()
            .find_map(|part| part.strip_prefix(prefix))
            .unwrap();
        part.parse().unwrap()
    };
    Sampling {
        temperature: number("t"),
        top_p: number("p"),
        top_k: number("k") as usize,
        repetition_penalty: number("rp"),
        ..Sampling::default()
    }
}

#[test]
fn golden_log_probabilities_of_completions() {
    let Some(golden) = Golden::open() else { return };
    let facts = read_json(&golden.dir.join("generate/completion_logprobs.json"));
    let tensors = Tensors::read(&golden.dir.join("generate/completion_logprobs.safetensors"));
    let model = golden.model();
    let (_, ids) = tensors.i64("completion_ids").unwrap();
    let (shape, mask) = tensors.i64("completion_mask").unwrap();
    let answers: Vec<Vec<u32>> = ids
        .chunks_exact(shape[1])
        .zip(mask.chunks_exact(shape[1]))
        .map(|(ids, mask)| {
            ids.iter()
                .zip(mask)
                .filter(|(_, real)| **real == 1)
                .map(|(id, _)| *id as u32)
                .collect()
        })
        .collect();
    let mut prompts = members(&golden, &model, &facts["members"]);
    for (prompt, answer) in prompts.iter_mut().zip(&answers) {
        prompt.answers = vec![answer.as_slice().into()];
    }
    let (output, targets) = model.labelled(&prompts, &Forward::default());
    assert_eq!(targets, answers.concat());
    let real = |name: &str| -> Vec<f32> {
        let (_, all) = tensors.f32(name).unwrap();
        all.into_iter()
            .zip(&mask)
            .filter(|(_, real)| **real == 1)
            .map(|(value, _)| value)
            .collect()
    };
    for name in tensors
        .names()
        .iter()
        .filter_map(|name| name.strip_prefix("logprobs_t"))
    {
        let temperature: f64 = name.parse().unwrap();
        let ours = values(token_logprobs(output.logits.clone(), &targets, temperature));
        close(
            &format!("log-probs at {name}"),
            &ours,
            &real(&format!("logprobs_t{name}")),
            1e-4,
            0.0,
        );
    }
    close(
        "entropy",
        &values(entropy(output.logits, 1.0)),
        &real("entropy_t1.0"),
        1e-4,
        0.0,
    );
}

#[test]
fn golden_answers_do_not_depend_on_company() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let facts = read_json(&golden.dir.join("generate/generate.json"));
    let prompts = members(&golden, &model, &facts["members"]);
    let sampling = Sampling {
        temperature: 0.9,
        top_k: 50,
        max_new_tokens: 12,
        seed: 3,
        ..Sampling::default()
    };
    let together = model.write(&prompts, 0..4, &sampling).unwrap();
    for (prompt, answers) in prompts.iter().zip(&together) {
        let alone = model
            .write(std::slice::from_ref(prompt), 1..3, &sampling)
            .unwrap();
        for (alone, together) in alone[0].iter().zip(&answers[1..3]) {
            assert_eq!(alone.tokens, together.tokens, "{}", prompt.id);
            same(&prompt.id, &alone.logprobs, &together.logprobs);
        }
    }
    // Prompts that wait until others are answered get the same answers.
    let mut in_turns = model.clone();
    in_turns.set_places(Places {
        prompts: 2,
        refill: 1,
    });
    let waited = in_turns.write(&prompts, 0..4, &sampling).unwrap();
    for (prompt, (waited, together)) in prompts.iter().zip(waited.iter().zip(&together)) {
        for (waited, together) in waited.iter().zip(together) {
            assert_eq!(waited.tokens, together.tokens, "{}", prompt.id);
            same(&prompt.id, &waited.logprobs, &together.logprobs);
        }
    }
    // What is drawn step by step has the log-probabilities of one pass over the whole answer.
    for (prompt, answers) in prompts.iter().zip(&together) {
        let answers: Vec<_> = answers.iter().collect();
        let sequence = Sequence {
            answers: answers
                .iter()
                .map(|answer| answer.tokens.as_slice().into())
                .collect(),
            ..prompt.clone()
        };
        let (output, targets) = model.labelled(&[sequence], &Forward::default());
        let whole = values(token_logprobs(
            output.logits,
            &targets,
            sampling.temperature,
        ));
        let stepwise: Vec<f32> = answers
            .iter()
            .flat_map(|answer| answer.logprobs.clone())
            .collect();
        close("stepwise log-probs", &stepwise, &whole, 1e-4, 0.0);
    }
}
