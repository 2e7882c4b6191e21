//! Writing answers.

use std::collections::BTreeSet;

use dcsft_models::micro::MicroConfig;
use dcsft_tensor::ops::token_logprobs;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Completion, Example, Forward, Sampling, VisionLanguageModel};

use crate::{GREEDY, assert_close, logits, model, prompt, prompts, stir_adapters, values};

#[test]
fn greedy_answers_are_the_teacher_forced_argmax() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    stir_adapters(&mut model);
    let prompts = prompts(12);
    let answers = model.generate(&prompts, 0..1, &GREEDY).unwrap();
    for (prompt, answers) in prompts.into_iter().zip(answers) {
        let Completion {
            tokens,
            logprobs,
            finished,
        } = answers.into_iter().next().unwrap();
        assert_eq!(finished, tokens.last() == Some(&model.tokenizer().eos()));
        assert!(finished || tokens.len() == GREEDY.max_new_tokens);
        let forced = logits(
            &model,
            &[Example {
                prompt,
                answer: tokens.clone().into(),
                earlier: 0,
            }],
        );
        for ((row, &token), &logprob) in forced.chunks(32).zip(&tokens).zip(&logprobs) {
            let best = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            assert!(
                best - row[token as usize] < 1e-4,
                "not the most likely token"
            );
            let total: f64 = row.iter().map(|&logit| f64::from(logit - best).exp()).sum();
            let right = f64::from(row[token as usize] - best) - total.ln();
            assert!(
                (f64::from(logprob) - right).abs() < 1e-4,
                "{logprob} for {right}"
            );
        }
    }
}

#[test]
fn sampled_logprobs_are_those_of_the_training_pass_at_that_temperature() {
    let model = model(MicroConfig::default());
    let prompts = prompts(6);
    let sampling = Sampling {
        temperature: 0.9,
        top_p: 0.8,
        top_k: 12,
        max_new_tokens: 6,
        repetition_penalty: 1.0,
        seed: 4,
    };
    let answers = model.generate(&prompts, 0..3, &sampling).unwrap();
    for (prompt, answers) in prompts.iter().zip(answers) {
        for answer in answers {
            let example = Example {
                prompt: prompt.clone(),
                answer: answer.tokens.clone().into(),
                earlier: 0,
            };
            let logits = model
                .forward(&[example], &Forward::default())
                .unwrap()
                .logits;
            assert_close(
                &values(token_logprobs(logits, &answer.tokens, 0.9)),
                &answer.logprobs,
                1e-4,
            );
        }
    }
}

#[test]
fn answers_do_not_depend_on_grouping_threads_or_other_generations() {
    let model = model(MicroConfig::default());
    let prompts = prompts(40);
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.95,
        top_k: 0,
        max_new_tokens: 7,
        repetition_penalty: 1.0,
        seed: 11,
    };
    let all = model.generate(&prompts, 0..4, &sampling).unwrap();
    for size in [1, 7] {
        let groups = prompts
            .chunks(size)
            .flat_map(|group| model.generate(group, 0..4, &sampling).unwrap());
        assert_eq!(groups.collect::<Vec<_>>(), all, "groups of {size}");
    }
    let later = model.generate(&prompts, 2..4, &sampling).unwrap();
    assert!(
        later
            .iter()
            .zip(&all)
            .all(|(later, all)| later[..] == all[2..])
    );
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        assert_eq!(
            pool.install(|| model.generate(&prompts, 0..4, &sampling))
                .unwrap(),
            all
        );
    }
    let other = Sampling {
        seed: 12,
        ..sampling
    };
    assert_ne!(model.generate(&prompts, 0..4, &other).unwrap(), all);
}

#[test]
fn top_k_and_top_p_leave_the_likely_tokens() {
    let model = model(MicroConfig::default());
    let prompts = prompts(3);
    let draw = |top_k, top_p, count| {
        let sampling = Sampling {
            temperature: 1.0,
            top_p,
            top_k,
            max_new_tokens: 1,
            repetition_penalty: 1.0,
            seed: 0,
        };
        let answers = model.generate(&prompts, 0..count, &sampling).unwrap();
        answers
            .iter()
            .map(|a| a.iter().map(|a| a.tokens[0]).collect::<BTreeSet<u32>>())
            .collect::<Vec<_>>()
    };
    for (prompt, (by_k, by_p)) in prompts
        .iter()
        .zip(draw(3, 1.0, 400).into_iter().zip(draw(0, 0.5, 400)))
    {
        let example = Example {
            prompt: prompt.clone(),
            answer: vec![1].into(),
            earlier: 0,
        };
        let row = logits(&model, &[example]);
        let mut order: Vec<u32> = (0..32).collect();
        order.sort_by(|&a, &b| row[b as usize].total_cmp(&row[a as usize]));
        assert_eq!(by_k, order[..3].iter().copied().collect());
        let weights: Vec<f64> = order
            .iter()
            .map(|&token| f64::from(row[token as usize]).exp())
            .collect();
        let half = weights.iter().sum::<f64>() / 2.0;
        let mut sum = 0.0;
        let nucleus = weights.iter().take_while(|&&weight| {
            let before = sum;
            sum += weight;
            before < half
        });
        let nucleus = nucleus.count();
        assert!(
            by_p.iter().all(|token| order[..nucleus].contains(token)),
            "{by_p:?}"
        );
        assert!(by_p.contains(&order[0]));
    }
}

#[test]
fn draws_follow_the_models_distribution() {
    let model = model(MicroConfig::default());
    let prompt = prompt("a", "object?");
    let sampling = Sampling {
        temperature: 1.3,
        top_p: 1.0,
        top_k: 0,
        max_new_tokens: 1,
        repetition_penalty: 1.0,
        seed: 5,
    };
    let count = 20_000;
    let answers = model
        .generate(std::slice::from_ref(&prompt), 0..count, &sampling)
        .unwrap();
    let row = logits(
        &model,
        &[Example {
            prompt,
            answer: vec![1].into(),
            earlier: 0,
        }],
    );
    let weights: Vec<f64> = row
        .iter()
        .map(|&logit| (f64::from(logit) / 1.3).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    for (token, weight) in weights.iter().enumerate() {
        let expected = weight / total;
        let hits = answers[0]
            .iter()
            .filter(|answer| answer.tokens[0] == token as u32)
            .count();
        let error = (hits as f64 / f64::from(count) - expected).abs();
        let deviation = (expected * (1.0 - expected) / f64::from(count)).sqrt();
        assert!(
            error < 5.0 * deviation + 1e-9,
            "token {token}: off by {} deviations",
            error / deviation
        );
    }
}

#[test]
fn answers_end_where_the_context_ends() {
    let model = model(MicroConfig {
        max_text_tokens: 3,
        ..Default::default()
    });
    let sampling = Sampling {
        temperature: 1.0,
        max_new_tokens: 50,
        ..GREEDY
    };
    let answers = model
        .generate(&[prompt("a", "object?")], 0..50, &sampling)
        .unwrap();
    assert!(answers[0].iter().all(|answer| answer.tokens.len() <= 3));
    let cut = answers[0]
        .iter()
        .filter(|answer| !answer.finished)
        .collect::<Vec<_>>();
    assert!(!cut.is_empty() && cut.iter().all(|answer| answer.tokens.len() == 3));
}
