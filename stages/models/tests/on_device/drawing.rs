//! Tokens drawn on a device from given logits are the processor's, token for token.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::generate::{Asked, Decoder, Places, Step, TakenUp, Vocabulary, write};
use dcsft_vlm::model::{Completion, Sampling};

/// Gives logits that depend on the step alone, on a device.
struct Given<'a> {
    logits: &'a dyn Fn(usize, usize) -> Vec<f32>,
    /// Prompts that wait.
    waiting: Vec<Asked>,
    vocab: usize,
    step: usize,
    device: Device,
}

impl Given<'_> {
    fn next(&mut self, rows: usize) -> Tensor<2> {
        let logits = (self.logits)(self.step, rows);
        self.step += 1;
        Tensor::from_data(TensorData::new(logits, [rows, self.vocab]), &self.device)
    }
}

impl Decoder for Given<'_> {
    fn take_up(&mut self, _: &[usize], most: usize) -> Result<Option<TakenUp>, VlmError> {
        let asked: Vec<Asked> = self.waiting.drain(..most.min(self.waiting.len())).collect();
        Ok((!asked.is_empty()).then(|| TakenUp {
            logits: self.next(asked.len()),
            asked,
        }))
    }

    fn step(&mut self, steps: &[Step]) -> Tensor<2> {
        self.next(steps.len())
    }
}

const GENERATIONS: Range<u32> = 0..3;

fn answers(
    device: &Device,
    vocab: usize,
    logits: &dyn Fn(usize, usize) -> Vec<f32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let asked = |(id, tokens): (&str, Vec<u32>)| Asked {
        id: id.into(),
        position: tokens.len(),
        tokens: tokens.into(),
        room: 100,
    };
    let prompts = [
        ("a", vec![1, 2, 3]),
        ("b", vec![4]),
        ("c", vec![0, 6]),
        ("d", vec![2]),
    ];
    let mut decoder = Given {
        logits,
        waiting: prompts.map(asked).into(),
        vocab,
        step: 0,
        device: device.clone(),
    };
    let vocabulary = Vocabulary {
        size: vocab,
        stops: &[5],
    };
    // Two wait until the answers to another are at their end.
    let places = Places {
        prompts: 2,
        refill: 1,
    };
    write(&mut decoder, &vocabulary, places, GENERATIONS, sampling)
}

/// Logits of this spread; in steps of `grain`, so that some are equal.
fn random(vocab: usize, spread: f64, grain: f64) -> impl Fn(usize, usize) -> Vec<f32> {
    move |step, rows| {
        let key = StreamKey::new("logits", 7).number(step as u64);
        let mut stream = key.stream();
        let mut one = || ((stream.normal() * spread / grain).round() * grain) as f32;
        (0..rows * vocab).map(|_| one()).collect()
    }
}

fn settings() -> Vec<Sampling> {
    let mut settings = Vec::new();
    for (temperature, top_k, top_p, repetition_penalty) in [
        (1.0, 0, 1.0, 1.0),
        (0.0, 0, 1.0, 1.0),
        (0.0, 0, 1.0, 1.5),
        (0.7, 0, 0.9, 1.0),
        (1.0, 5, 1.0, 1.0),
        (1.0, 1, 1.0, 1.3),
        (1.3, 40, 0.5, 1.2),
        (1.0, 0, 0.001, 1.0),
        (1.0, 100_000, 0.999_999, 0.8),
    ] {
        settings.push(Sampling {
            temperature,
            top_k,
            top_p,
            repetition_penalty,
            max_new_tokens: 12,
            seed: 3,
        });
    }
    settings
}

#[test]
fn tokens_are_the_processors() {
    // Fewer tokens than units, not a multiple of them, and the size of a real vocabulary.
    for (vocab, spread, grain) in [
        (7, 1.0, 1e-6),
        (1000, 3.0, 1e-6),
        (1000, 3.0, 0.25),
        (1000, 0.0, 1.0),
        (151_936, 2.5, 1e-6),
        (151_936, 4.0, 0.0625),
    ] {
        let logits = random(vocab, spread, grain);
        for sampling in settings() {
            let on = |device: &Device| answers(device, vocab, &logits, &sampling).unwrap();
            let (ours, cpu) = (on(&test_device()), on(&Device::flex()));
            let what = format!("{vocab} tokens, spread {spread}, grain {grain}, {sampling:?}");
            for (ours, cpu) in ours.iter().flatten().zip(cpu.iter().flatten()) {
                assert_eq!(ours.tokens, cpu.tokens, "{what}");
                for (ours, cpu) in ours.logprobs.iter().zip(&cpu.logprobs) {
                    // The processor adds up a large vocabulary in 32 bits.
                    assert!((ours - cpu).abs() < 1e-4, "{what}: {ours} and {cpu}");
                }
            }
        }
    }
}

#[test]
fn logits_that_are_no_numbers_are_found_where_the_processor_finds_them() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let fine = random(300, 1.0, 1e-6);
        let logits = |step: usize, rows: usize| {
            let mut logits = fine(step, rows);
            if step == 2 {
                logits[300 + 299] = wrong;
            }
            logits
        };
        let sampling = Sampling {
            max_new_tokens: 12,
            ..Sampling::default()
        };
        let said = |device: &Device| {
            let answers = answers(device, 300, &logits, &sampling);
            answers.unwrap_err().to_string()
        };
        assert_eq!(said(&test_device()), said(&Device::flex()), "{wrong}");
    }
}
