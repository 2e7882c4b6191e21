//! What is drawn at random is the same on every device as on the CPU's: answers token for token, dropout input for input.

use burn::tensor::Device;
use dcsft_models::micro::MicroVlm;
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::device::test_device;
use dcsft_tensor::ops::token_logprobs;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Completion, Forward, Sampling, VisionLanguageModel};

use crate::support::compare::values;
use crate::support::micro;
use crate::support::model::Golden;

/// Settings that take every branch: plain, cut off by rank, by share, with a penalty, greedy.
fn settings() -> [Sampling; 4] {
    let plain = Sampling {
        max_new_tokens: 8,
        seed: 3,
        ..Sampling::default()
    };
    [
        Sampling {
            temperature: 0.9,
            top_p: 0.9,
            ..plain.clone()
        },
        Sampling {
            top_k: 6,
            repetition_penalty: 1.2,
            ..plain.clone()
        },
        Sampling {
            temperature: 0.0,
            ..plain.clone()
        },
        plain,
    ]
}

fn assert_same(ours: &[Vec<Completion>], cpu: &[Vec<Completion>], what: &str) {
    assert_eq!(ours.len(), cpu.len(), "{what}");
    for (ours, cpu) in ours.iter().flatten().zip(cpu.iter().flatten()) {
        assert_eq!(ours.tokens, cpu.tokens, "{what}");
        assert_eq!(ours.finished, cpu.finished, "{what}");
        for (ours, cpu) in ours.logprobs.iter().zip(&cpu.logprobs) {
            assert!((ours - cpu).abs() < 1e-4, "{what}: {ours} and {cpu}");
        }
    }
}

#[test]
fn answers_of_the_micro_model_are_the_cpus() {
    let on = |device: &Device| micro::model(2, device);
    let (ours, cpu) = (on(&test_device()), on(&Device::flex()));
    let prompts = micro::prompts(9);
    for sampling in settings() {
        let answer = |model: &MicroVlm| model.generate(&prompts, 0..3, &sampling).unwrap();
        assert_same(&answer(&ours), &answer(&cpu), &format!("{sampling:?}"));
    }
}

#[test]
fn golden_answers_of_a_checkpoint_are_the_cpus() {
    let Some(golden) = Golden::open() else { return };
    let open = |device: &Device| HubModel::load(&golden.dir.join("ckpt"), device).unwrap();
    let (ours, cpu) = (open(&test_device()), open(&Device::flex()));
    let names = golden.case_names();
    let prompts: Vec<Sequence> = names
        .iter()
        .take(4)
        .map(|name| Sequence {
            id: name.as_str().into(),
            ..golden.case(&cpu, name).remove(0)
        })
        .collect();
    for sampling in settings() {
        let answer = |model: &HubModel| model.write(&prompts, 0..2, &sampling).unwrap();
        assert_same(&answer(&ours), &answer(&cpu), &format!("{sampling:?}"));
    }
}

#[test]
fn a_pass_with_dropout_is_the_cpus() {
    let losses = |device: &Device, key: u64| {
        let mut model = micro::model(2, device);
        let config = LoraConfig {
            dropout: 0.3,
            ..LoraConfig::default()
        };
        model.add_lora(&config, 0).unwrap();
        micro::stir_adapters(&mut model, device);
        let examples = micro::examples(&model, 5);
        let targets: Vec<u32> = examples.iter().flat_map(|e| e.answer.to_vec()).collect();
        let forward = Forward {
            dropout: Some(StreamKey::new("dropout", key)),
            ..Forward::default()
        };
        let logits = model.forward(&examples, &forward).unwrap().logits;
        values(token_logprobs(logits, &targets, 1.0))
    };
    let farthest = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    let (ours, cpu) = (losses(&test_device(), 1), losses(&Device::flex(), 1));
    assert!(farthest(&ours, &cpu) < 1e-4, "{ours:?} and {cpu:?}");
    // Another draw of the masks shows.
    assert!(farthest(&losses(&test_device(), 2), &cpu) > 1e-2);
}
