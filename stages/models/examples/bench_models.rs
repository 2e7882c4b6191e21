//! Speed and peak memory of a model on this machine, one part a process, as a line of JSON: `lora` (adapters of rank
//! 32 on decoder, vision tower and projector, or those of BENCH_TARGETS), `full` (all weights), both in samples/s of whole
//! steps, `rollout` (8 sampled answers of 32 tokens to each prompt) in tokens/s, or `grpo` (adapters learn from 8 such
//! answers to each prompt) in answers/s of whole steps. Batches of 8 samples (BENCH_BATCH) with an image each, after 2
//! that are not timed (BENCH_WARM_UP); BENCH_DROPOUT is the adapters' dropout, BENCH_PASS how many answers one pass of
//! `grpo` takes. What was copied to the device and from it is given per step, with `rollout` per token, and of the first step
//! how many kernels it launched for each layer of the decoder, with `rollout` for each token that the answers of a call
//! write at once. FOLDER is one that `bench/qwen_shape.py` or `bench/smolvlm_shape.py` makes.
//!
//! `cargo run --release -p dcsft-models --example bench_models FOLDER PART [SECONDS] [DEVICE] [f32|bf16] [random]`

#![expect(clippy::print_stdout, reason = "an example prints its result")]

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor};
use dcsft_models::{HubModel, Precision, Settings};
use dcsft_tensor::device::DeviceSpec;
use dcsft_tensor::host::{self, Transfers};
use dcsft_tensor::ops::token_logprobs;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{Example, Forward, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoRecord, GrpoTrainer};
use dcsft_vlm::train::{Observer, RunConfig};

/// As the program that the stages run in.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const QUESTION: &str =
    "Please provide the object name in the image. Output the answer using one word.";
/// Tokens of an answer; with the end token five.
const ANSWER: usize = 4;
const GENERATIONS: u32 = 8;
const NEW_TOKENS: usize = 32;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    // This thread works in the pool itself: entering the pool from outside costs as much as a small operation.
    rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, part, options @ ..] = &arguments[..] else {
        return Err("which folder and part? FOLDER lora|full|rollout|grpo [SECONDS] [DEVICE] [f32|bf16] [random]".into());
    };
    let option =
        |index: usize, default: &'static str| options.get(index).map_or(default, String::as_str);
    let limit = Duration::from_secs_f64(option(0, "10").parse()?);
    let device = option(1, "cpu").parse::<DeviceSpec>()?.open()?;
    let precision = match option(2, "f32") {
        "f32" => Precision::F32,
        "bf16" => Precision::Bf16,
        other => return Err(format!("no precision {other:?}: f32 or bf16").into()),
    };
    let start = Instant::now();
    let mut model = open(
        Path::new(folder),
        &device,
        precision,
        option(3, "") == "random",
    )?;
    let layers = model.config().family.decoder().config.layers;
    let prompts = prompts(&Path::new(folder).join("images"))?;
    let loaded = memory("VmRSS:");
    eprintln!("loaded after {:.1} s", start.elapsed().as_secs_f64());
    let Timed {
        rate,
        steps,
        processors,
        copied,
        parts,
        launches,
    } = match part.as_str() {
        "lora" => {
            model.add_lora(&adapters()?, 0)?;
            training(&mut model, &prompts, limit)?
        }
        "full" => training(&mut model, &prompts, limit)?,
        "rollout" => rollouts(&model, &prompts, limit)?,
        "grpo" => {
            let reference = model.frozen();
            model.add_lora(&adapters()?, 0)?;
            grpo(&mut model, reference.as_ref(), &prompts, limit)?
        }
        other => return Err(format!("no part {other:?}: lora, full, rollout or grpo").into()),
    };
    println!(
        r#"{{"part": "{part}", "device": "{}", "threads": {}, "per_second": {rate:.3}, "timed": {steps}, {} {} {} {}}}"#,
        option(1, "cpu"),
        rayon::current_num_threads(),
        format_args!(r#""processors": {processors:.2}, "loaded_mib": {loaded:.0},"#),
        copies(copied, parts),
        launched(launches, layers),
        format_args!(r#""peak_mib": {:.0}"#, memory("VmHWM:")),
    );
    Ok(())
}

/// Launches per part and layer, as a field where any were counted.
fn launched(launches: f64, layers: usize) -> String {
    match launches > 0.0 {
        true => format!(r#""launches_a_layer": {:.1},"#, launches / layers as f64),
        false => String::new(),
    }
}

/// What `work` gives, and how many kernels it has launched.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn counted<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let (result, launches) = dcsft_tensor::device::launches(work);
    (result, launches.values().sum::<u64>() as f64)
}

/// What `work` gives; this build has no device with kernels.
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn counted<T>(work: impl FnOnce() -> T) -> (T, f64) {
    (work(), 0.0)
}

/// Copies per part, as fields.
fn copies(Transfers { up, down }: Transfers, parts: f64) -> String {
    let of = |name: &str, copies: host::Copies| {
        let [calls, bytes] = [copies.calls, copies.bytes].map(|total| total as f64 / parts);
        format!(r#""{name}_calls": {calls:.3}, "{name}_bytes": {bytes:.1},"#)
    };
    format!("{} {}", of("up", up), of("down", down))
}

fn open(
    folder: &Path,
    device: &Device,
    precision: Precision,
    random: bool,
) -> Result<HubModel, Failure> {
    let settings = Settings {
        precision,
        ..Settings::default()
    };
    Ok(match (random, precision) {
        (true, _) => HubModel::random(folder, settings, 0, device)?,
        (false, Precision::F32) => HubModel::load(folder, device)?,
        (false, Precision::Bf16) => {
            return Err("bf16 is measured with random weights: add `random`".into());
        }
    })
}

/// The adapters that are trained.
fn adapters() -> Result<LoraConfig, Failure> {
    Ok(LoraConfig {
        rank: 32,
        alpha: 64.0,
        dropout: variable("BENCH_DROPOUT", 0.0)?,
        targets: targets()?,
        ..LoraConfig::default()
    })
}

/// A number that a variable of the environment may name.
fn variable<T>(name: &str, default: T) -> Result<T, Failure>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    match std::env::var(name) {
        Ok(text) => Ok(text.parse().map_err(|error| format!("{name}: {error}"))?),
        Err(_) => Ok(default),
    }
}

/// The groups that BENCH_TARGETS names, separated by commas; without it all.
fn targets() -> Result<BTreeSet<ModuleGroup>, Failure> {
    let Ok(names) = std::env::var("BENCH_TARGETS") else {
        return Ok(LoraConfig::default().targets);
    };
    let group = |name: &str| serde_json::from_value(name.into());
    Ok(names.split(',').map(group).collect::<Result<_, _>>()?)
}

/// A line of this process's status in MiB, where the system says; else 0.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Processor time that this process has used so far, in seconds, where the system says; else 0.
fn processor_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold spaces, come state and 10 more fields, then time in user and in system mode.
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// What was measured.
struct Timed {
    /// Samples or tokens per second.
    rate: f64,
    /// Steps or batches that were timed.
    steps: usize,
    /// Processor time over time: below the number of threads where others used the processors too.
    processors: f64,
    /// What was copied meanwhile.
    copied: Transfers,
    /// What that is given for each of: steps, or tokens.
    parts: f64,
    /// Kernels that the first step launched, or of rollouts a token's share of them.
    launches: f64,
}

fn prompts(images: &Path) -> Result<Vec<Prompt>, Failure> {
    let prompt = |index: usize| {
        let path = images.join(format!("{index}.png"));
        let read = image::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let read = read.into_rgb8();
        Ok(Prompt::question(
            format!("sample {index}"),
            vec![
                RgbImage {
                    width: read.width(),
                    height: read.height(),
                    pixels: read.into_raw().into(),
                }
                .into(),
            ],
            None,
            QUESTION,
        ))
    };
    (0..variable("BENCH_BATCH", 8)?).map(prompt).collect()
}

/// Samples per second of whole steps: images and texts encoded, forward, backward, AdamW.
fn training(model: &mut HubModel, prompts: &[Prompt], limit: Duration) -> Result<Timed, Failure> {
    let examples: Vec<Example> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| {
            let first = 40 + index as u32;
            let tokens = (first..first + ANSWER as u32).chain([model.tokenizer().eos()]);
            Example {
                prompt: prompt.clone(),
                answer: tokens.collect(),
                earlier: 0,
            }
        })
        .collect();
    let targets: Vec<u32> = examples
        .iter()
        .flat_map(|example| example.answer.to_vec())
        .collect();
    let mut optimizer = AdamW::new(AdamWSettings {
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
        offload: false,
    });
    let dropout = model.lora().is_some_and(|lora| lora.dropout > 0.0);
    let mut step = 0;
    timed(limit, examples.len(), || {
        step += 1;
        let options = Forward {
            dropout: dropout.then(|| StreamKey::new("bench dropout", step)),
            ..Forward::default()
        };
        let logits = model.forward(&examples, &options)?.logits;
        let loss = token_logprobs(logits, &targets, 1.0).mean().neg();
        let mut gradients = loss.clone().backward();
        let trainable = model.params().iter().filter(|param| param.trainable);
        let gradients: Vec<Option<Tensor<2>>> = trainable
            .map(|param| param.value.grad_remove(&mut gradients))
            .collect();
        optimizer.step(&mut [model.params_mut()], gradients, 1e-5)?;
        // A GPU has done all of it when the loss of the step is there.
        host::values(loss)?;
        Ok(())
    })
}

/// Tokens per second, sampled.
fn rollouts(model: &HubModel, prompts: &[Prompt], limit: Duration) -> Result<Timed, Failure> {
    let mut sampling = Sampling {
        temperature: 0.9,
        max_new_tokens: NEW_TOKENS,
        ..Sampling::default()
    };
    let tokens = prompts.len() * GENERATIONS as usize * NEW_TOKENS;
    let mut written = (0, 0);
    let mut result = timed(limit, tokens, || {
        sampling.seed += 1;
        let answers = model.generate(prompts, 0..GENERATIONS, &sampling)?;
        let count: usize = answers
            .iter()
            .flatten()
            .map(|answer| answer.tokens.len())
            .sum();
        written = (written.0 + count, written.1 + tokens);
        Ok(())
    })?;
    // With random weights the end token is as rare as any other: nearly all answers have their full length.
    let share = written.0 as f64 / written.1 as f64;
    result.rate *= share;
    result.parts *= share * tokens as f64;
    result.launches /= NEW_TOKENS as f64;
    Ok(result)
}

/// Answers per second of whole steps: drawn, scored by the reference, learnt from.
fn grpo(
    model: &mut HubModel,
    reference: &dyn VisionLanguageModel,
    prompts: &[Prompt],
    limit: Duration,
) -> Result<Timed, Failure> {
    let config = GrpoConfig {
        prompts_per_step: prompts.len(),
        generations: GENERATIONS as usize,
        max_new_tokens: NEW_TOKENS,
        forward_batch: variable("BENCH_PASS", 0)?,
        run: RunConfig {
            steps: Some(usize::from(u16::MAX)),
            ..RunConfig::default()
        },
        ..GrpoConfig::default()
    };
    let data = GrpoData {
        prompts,
        difficulty: &[],
        bins: 1,
    };
    let mut watch = Watch {
        warm_up: variable("BENCH_WARM_UP", 2)?,
        limit,
        start: Instant::now(),
        used: 0.0,
        copied: Transfers::so_far(),
        steps: 0,
    };
    // Rewards that differ within a group, so that there is something to learn.
    let reward = |_: usize, text: &str| (text.len() % 3) as f32;
    let mut trainer = GrpoTrainer::new(config, model, Some(reference), data, &reward)?;
    let (first, launches) = counted(|| trainer.step().map(drop));
    first?;
    trainer.run(&mut watch)?;
    let seconds = watch.start.elapsed().as_secs_f64();
    Ok(Timed {
        rate: (watch.steps * prompts.len() * GENERATIONS as usize) as f64 / seconds,
        steps: watch.steps,
        processors: (processor_seconds() - watch.used) / seconds,
        copied: Transfers::so_far() - watch.copied,
        parts: watch.steps as f64,
        launches,
    })
}

/// Counts a trainer's steps after the first ones, until the time is over.
struct Watch {
    warm_up: usize,
    limit: Duration,
    start: Instant,
    used: f64,
    copied: Transfers,
    steps: usize,
}

impl Observer<GrpoRecord> for Watch {
    fn step(&mut self, _: usize, _: &GrpoRecord) {
        if self.warm_up > 0 {
            self.warm_up -= 1;
            eprintln!("warm-up: {:.2} s", self.start.elapsed().as_secs_f64());
            (self.start, self.used) = (Instant::now(), processor_seconds());
            self.copied = Transfers::so_far();
        } else {
            self.steps += 1;
        }
    }

    fn should_stop(&mut self) -> bool {
        self.warm_up == 0 && self.steps > 0 && self.start.elapsed() >= self.limit
    }
}

/// How fast `step` is, which does `amount` each time, after steps that are not timed.
fn timed(
    limit: Duration,
    amount: usize,
    mut step: impl FnMut() -> Result<(), Failure>,
) -> Result<Timed, Failure> {
    let mut launches = 0.0;
    for warm_up in 0..variable("BENCH_WARM_UP", 2)?.max(1) {
        let start = Instant::now();
        let (done, count) = counted(&mut step);
        done?;
        if warm_up == 0 {
            launches = count;
        }
        eprintln!("warm-up: {:.2} s", start.elapsed().as_secs_f64());
    }
    let (start, used, mut steps) = (Instant::now(), processor_seconds(), 0);
    let copied = Transfers::so_far();
    while start.elapsed() < limit {
        step()?;
        steps += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Timed {
        rate: (steps * amount) as f64 / seconds,
        steps,
        processors: (processor_seconds() - used) / seconds,
        copied: Transfers::so_far() - copied,
        parts: steps as f64,
        launches,
    })
}
