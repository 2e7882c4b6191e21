//! Speed of whole training runs of the micro VLM: SFT with adapters, and GRPO from the same start.
//!
//! `cargo run --release -p dcsft-vlm --example bench_trainers [steps]`

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::time::Instant;

use burn::tensor::Device;
use dcsft_models::micro::{MicroConfig, MicroVlm};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Prompt, RgbImage, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoTrainer};
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};

const NAMES: [&str; 8] = ["disk", "box", "tri", "plus", "ex", "ring", "gem", "star"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps: usize = std::env::args()
        .nth(1)
        .map_or(Ok(100), |text| text.parse())?;
    let mut model = MicroVlm::new(MicroConfig::default(), 0, &Device::flex())?;
    let examples = (0..600)
        .map(|index| example(&model, index))
        .collect::<Result<Vec<_>, _>>()?;

    let start = SftConfig {
        batch_size: 32,
        run: RunConfig {
            steps: Some(200),
            learning_rate: 3e-3,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let begin = Instant::now();
    SftTrainer::new(start, &mut model, &examples, None)?.run(&mut ())?;
    println!(
        "SFT, all weights, batch 32: {:.0} samples/s",
        200.0 * 32.0 / begin.elapsed().as_secs_f64()
    );

    let base = model.frozen();
    model.add_lora(&LoraConfig::default(), 0)?;
    let mut adapted = model.clone();
    let config = SftConfig {
        run: RunConfig {
            steps: Some(steps),
            learning_rate: 1e-3,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let begin = Instant::now();
    SftTrainer::new(config, &mut adapted, &examples, None)?.run(&mut ())?;
    let sft = begin.elapsed().as_secs_f64() / steps as f64;
    println!("SFT, adapters, batch 16: {:.0} samples/s", 16.0 / sft);

    let prompts: Vec<Prompt> = examples
        .iter()
        .map(|example| example.prompt.clone())
        .collect();
    let data = GrpoData {
        prompts: &prompts,
        difficulty: &[],
        bins: 1,
    };
    let reward = |index: usize, answer: &str| f32::from(u8::from(answer == name(index)));
    let config = GrpoConfig {
        max_new_tokens: 5,
        run: RunConfig {
            steps: Some(steps),
            learning_rate: 1e-3,
            ..RunConfig::default()
        },
        ..GrpoConfig::default()
    };
    let begin = Instant::now();
    let mut trainer = GrpoTrainer::new(config, &mut model, Some(&*base), data, &reward)?;
    trainer.run(&mut ())?;
    let grpo = begin.elapsed().as_secs_f64() / steps as f64;
    let summary = trainer.summary();
    let distinct: usize = trainer
        .log()
        .iter()
        .map(|record| record.distinct_answers)
        .sum();
    println!(
        "GRPO, adapters, 16 prompts x 8: {:.1} ms a step, {:.1} times an SFT step; {:.0} of 128 answers \
         distinct, {:.0}% of the groups without advantage, reward {:.2}",
        1000.0 * grpo,
        grpo / sft,
        distinct as f64 / steps as f64,
        100.0 * summary.zero_advantage,
        summary.reward,
    );
    Ok(())
}

fn name(index: usize) -> &'static str {
    NAMES[index % NAMES.len()]
}

/// A noisy image whose brightness tells the name.
fn example(model: &MicroVlm, index: usize) -> Result<Example, Box<dyn std::error::Error>> {
    let mut noise = StreamKey::new("image", 0).number(index as u64).stream();
    let level = 24 * (index % NAMES.len()) as u64;
    let pixels: Vec<u8> = (0..16 * 16 * 3)
        .map(|_| (level + noise.below(64)) as u8)
        .collect();
    let image = RgbImage {
        width: 16,
        height: 16,
        pixels: pixels.into(),
    };
    let mut answer = model.tokenizer().encode(name(index))?;
    answer.push(model.tokenizer().eos());
    let prompt = Prompt::question(
        format!("sample {index}"),
        vec![image.into()],
        None,
        "object?",
    );
    Ok(Example {
        prompt,
        answer: answer.into(),
        earlier: 0,
    })
}
