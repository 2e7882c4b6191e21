//! Speed and peak memory of the micro VLM on this machine, one part a process, as a line of JSON:
//! `pretrain` (all weights, batch 64), `lora` (adapters, batch 16) or `rollout` (600 sampled answers at a time).
//!
//! `cargo run --release --workspace --example bench_micro PART [SECONDS]`

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use dcsft_models::micro::{MicroConfig, MicroVlm};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NAMES: [&str; 8] = ["disk", "box", "tri", "plus", "ex", "ring", "gem", "star"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // This thread works in the pool itself: entering the pool from outside costs as much as a small operation.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()?;
    let mut arguments = std::env::args().skip(1);
    let part = arguments
        .next()
        .ok_or("which part: pretrain, lora or rollout?")?;
    let seconds: f64 = arguments.next().map_or(Ok(3.0), |text| text.parse())?;
    let limit = Duration::from_secs_f64(seconds);
    let mut model = MicroVlm::new(MicroConfig::default(), 0, &Device::flex())?;
    let names = |index: usize| NAMES[index % NAMES.len()].to_owned();
    let rate = match part.as_str() {
        "pretrain" => {
            let batch = examples(&model, 64, names)?;
            training(&mut model, &batch, limit)?
        }
        "lora" => {
            let batch = examples(&model, 16, names)?;
            model.add_lora(&LoraConfig::default(), 0)?;
            training(&mut model, &batch, limit)?
        }
        "rollout" => generation(&model, limit)?,
        other => return Err(format!("no part {other:?}: pretrain, lora or rollout").into()),
    };
    let threads = rayon::current_num_threads();
    let peak = peak_mib().map_or("null".to_owned(), |mib| format!("{mib:.1}"));
    println!(
        r#"{{"part": "{part}", "threads": {threads}, "per_second": {rate:.1}, "peak_mib": {peak}}}"#
    );
    Ok(())
}

/// The most memory that this process held at once, where the system says.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Answers per second, sampled.
fn generation(model: &MicroVlm, limit: Duration) -> Result<f64, Box<dyn std::error::Error>> {
    let prompts: Vec<Prompt> = (0..75).map(|index| prompt(index, "object?")).collect();
    let sampling = Sampling {
        temperature: 0.9,
        top_p: 1.0,
        top_k: 0,
        max_new_tokens: 5,
        repetition_penalty: 1.0,
        seed: 0,
    };
    let mut answers = 0usize;
    let start = Instant::now();
    while start.elapsed() < limit {
        answers += model
            .generate(&prompts, 0..8, &sampling)?
            .iter()
            .map(Vec::len)
            .sum::<usize>();
    }
    Ok(answers as f64 / start.elapsed().as_secs_f64())
}

/// Samples per second of whole steps of the trainer: forward, backward, AdamW.
fn training(
    model: &mut MicroVlm,
    batch: &[Example],
    limit: Duration,
) -> Result<f64, Box<dyn std::error::Error>> {
    let config = SftConfig {
        batch_size: batch.len(),
        run: RunConfig {
            steps: Some(1_000_000),
            learning_rate: 1e-4,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, model, batch, None)?;
    let start = Instant::now();
    while start.elapsed() < limit {
        trainer.step()?;
    }
    let samples = trainer.steps_done() * batch.len();
    Ok(samples as f64 / start.elapsed().as_secs_f64())
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
            earlier: 0,
        });
    }
    Ok(examples)
}

fn prompt(index: usize, text: &str) -> Prompt {
    let mut stream = StreamKey::new("image", index as u64).stream();
    let pixels: Arc<[u8]> = (0..16 * 16 * 3).map(|_| stream.below(256) as u8).collect();
    Prompt::question(
        format!("sample {index}"),
        vec![
            RgbImage {
                width: 16,
                height: 16,
                pixels,
            }
            .into(),
        ],
        None,
        text,
    )
}
