//! Speed of the micro VLM on this machine: full and LoRA training steps, and generation.
//!
//! `cargo run --release -p dcsft-vlm --example bench_micro [SECONDS [full] [lora] [generate]]`

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::micro::{MicroConfig, MicroVlm};
use dcsft_vlm::model::{Example, Forward, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::ops::token_logprobs;
use dcsft_vlm::rng::StreamKey;
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};

const NAMES: [&str; 8] = ["disk", "box", "tri", "plus", "ex", "ring", "gem", "star"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // This thread works in the pool itself: entering the pool from outside costs as much as a small operation.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()?;
    let mut arguments = std::env::args().skip(1);
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let limit = Duration::from_secs_f64(seconds);
    let which: Vec<String> = arguments.collect();
    let wanted = |name: &str| which.is_empty() || which.iter().any(|which| which == name);
    let mut model = MicroVlm::new(MicroConfig::default(), 0, &Device::flex())?;

    if wanted("full") {
        let captions = examples(&model, 64, |index| {
            format!("{} on sky", NAMES[index % NAMES.len()])
        })?;
        println!(
            "full training step, batch 64: {:.0} samples/s",
            training(&mut model, &captions, false, limit)?
        );
    }
    if wanted("lora") {
        let mut model = model.clone();
        model.add_lora(&LoraConfig::default(), 0)?;
        let names = examples(&model, 16, |index| NAMES[index % NAMES.len()].to_owned())?;
        println!(
            "LoRA training step, batch 16: {:.0} samples/s",
            training(&mut model, &names, true, limit)?
        );
    }
    if wanted("generate") {
        generation(&model, limit)?;
    }
    Ok(())
}

/// Answers per second, sampled.
fn generation(model: &MicroVlm, limit: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let prompts: Vec<Prompt> = (0..600).map(|index| prompt(index, "object?")).collect();
    let sampling = Sampling {
        temperature: 0.9,
        top_p: 1.0,
        top_k: 0,
        max_new_tokens: 5,
        seed: 0,
    };
    let (mut answers, mut tokens) = (0usize, 0usize);
    let start = Instant::now();
    while start.elapsed() < limit {
        for completion in model.generate(&prompts, 0..8, &sampling)?.iter().flatten() {
            answers += 1;
            tokens += completion.tokens.len();
        }
    }
    let rate = answers as f64 / start.elapsed().as_secs_f64();
    let length = tokens as f64 / answers as f64;
    println!("generation, 600 prompts x 8: {rate:.0} answers/s of {length:.1} tokens");
    Ok(())
}

/// Samples per second of whole steps: forward, backward, AdamW.
fn training(
    model: &mut MicroVlm,
    batch: &[Example],
    dropout: bool,
    limit: Duration,
) -> Result<f64, Box<dyn std::error::Error>> {
    let settings = AdamWSettings {
        betas: [0.9, 0.999],
        eps: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
    };
    let mut optimizer = AdamW::new(settings);
    let targets: Vec<u32> = batch
        .iter()
        .flat_map(|example| example.answer.iter().copied())
        .collect();
    let start = Instant::now();
    let mut steps = 0u64;
    while start.elapsed() < limit {
        let key = StreamKey::new("dropout", 0).number(steps);
        let output = model.forward(
            batch,
            &Forward {
                dropout: dropout.then_some(key),
            },
        )?;
        let loss = token_logprobs(output.logits, &targets, 1.0).mean().neg();
        let mut gradients = loss.backward();
        let trainable = model.params().iter().filter(|param| param.trainable);
        let gradients: Vec<Option<Tensor<2>>> = trainable
            .map(|param| param.value.grad_remove(&mut gradients))
            .collect();
        optimizer.step(&mut [model.params_mut()], gradients, 1e-3)?;
        steps += 1;
    }
    Ok(steps as f64 * batch.len() as f64 / start.elapsed().as_secs_f64())
}

fn examples(
    model: &MicroVlm,
    count: usize,
    answer: impl Fn(usize) -> String,
) -> Result<Vec<Example>, Box<dyn std::error::Error>> {
    let mut examples = Vec::new();
    for index in 0..count {
        let mut tokens = model.tokenizer().encode(&answer(index))?;
        tokens.push(model.tokenizer().eos());
        examples.push(Example {
            prompt: prompt(index, "object?"),
            answer: tokens.into(),
        });
    }
    Ok(examples)
}

fn prompt(index: usize, text: &str) -> Prompt {
    let mut stream = StreamKey::new("image", index as u64).stream();
    let pixels: Arc<[u8]> = (0..16 * 16 * 3).map(|_| stream.below(256) as u8).collect();
    Prompt {
        id: format!("sample {index}").into(),
        image: RgbImage {
            width: 16,
            height: 16,
            pixels,
        },
        text: text.into(),
    }
}
