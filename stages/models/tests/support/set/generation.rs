//! Greedy answers, and log-probabilities of given ones.

use std::sync::Arc;

use dcsft_models::Sequence;
use dcsft_tensor::ops::{entropy, token_logprobs};
use dcsft_vlm::model::{Completion, Forward, Prompt, Sampling, VisionLanguageModel as _};
use serde_json::Value;

use super::super::compare::{close, values};
use super::super::numbers;
use super::{Set, number, unpadded};

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
pub(super) fn rows_of(ids: &[i64], mask: &[i64], width: usize) -> Vec<Arc<[u32]>> {
    let rows = ids.chunks_exact(width).zip(mask.chunks_exact(width));
    let row = |(ids, mask): (&[i64], &[i64])| unpadded(ids, mask).into_iter();
    rows.map(|pair| row(pair).map(|id| id as u32).collect())
        .collect()
}
