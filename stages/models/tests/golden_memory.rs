//! The estimate of memory against what a process really takes, on random weights large enough to outweigh the process
//! itself; on a device with a memory of its own (`DCSFT_TEST_DEVICE`), against what that device says is taken of it.
//! Tokenizer and processor are the golden checkpoint's.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stdout, reason = "the table is for people")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use std::sync::atomic::{AtomicU64, Ordering};

use burn::tensor::Device;
use dcsft_models::{
    Config, HubFootprint, HubModel, Precision, Quantize, SETTINGS, Settings, Texts,
};
use dcsft_tensor::device::test_device;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::memory::{
    Batch, Footprint, GRPO_LOSS, Generation, SFT_LOSS, Training, Update, generate, process, train,
};
use dcsft_vlm::model::{Example, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoTrainer};
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};
use serde_json::{Value, json};

use support::{golden, read_json};

/// As in the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a device's memory.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
static RESERVED: AtomicU64 = AtomicU64::new(0);
const PART: &str = "DCSFT_TEST_MEMORY_PART";
const FOLDER: &str = "DCSFT_TEST_MEMORY_FOLDER";
const THREADS: usize = 2;
/// Sides of images; of a device smaller ones, since one of software takes its time.
const SIDES: [u32; 2] = [224, 728];
const SIDES_ON_DEVICE: [u32; 2] = [112, 364];
const QUESTION: &str = "What is shown?";
const ANSWER: &str = "a dog";
const NEW_TOKENS: usize = 8;
const ANSWERS: usize = 4;
const QUESTIONS: usize = 8;
/// What the estimate promises.
const TOLERANCE: f64 = 0.25;

/// A folder with random weights in a shape of some 20 million parameters.
fn folder(golden: &Path, dir: &Path) {
    let from = golden.join("ckpt");
    for entry in std::fs::read_dir(&from).expect("the checkpoint") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("a name");
        if path
            .extension()
            .is_some_and(|extension| extension == "safetensors")
        {
            continue;
        }
        std::fs::copy(&path, dir.join(name)).expect("a copy");
    }
    let path = dir.join("config.json");
    let mut config = read_json(&path);
    let set = |section: &mut Value, values: Value| {
        for (name, value) in values.as_object().expect("an object") {
            section[name] = value.clone();
        }
    };
    let text = json!({"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "vocab_size": 4096,
                      "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 64, "layer_types": null});
    set(&mut config["text_config"], text);
    let rope =
        json!({"mrope_section": [8, 12, 12], "rope_theta": 1_000_000.0, "rope_type": "default"});
    config["text_config"]["rope_parameters"] = rope;
    let vision = json!({"hidden_size": 320, "intermediate_size": 768, "depth": 6, "num_heads": 5,
                        "out_hidden_size": 384, "fullatt_block_indexes": [2, 5]});
    set(&mut config["vision_config"], vision);
    std::fs::write(&path, config.to_string()).expect("a file");
    let model = HubModel::random(dir, Settings::default(), 0, &Device::flex())
        .unwrap_or_else(|error| panic!("{error}"));
    let saved = tempfile::tempdir().expect("a folder");
    model.save(saved.path()).expect("saved");
    for entry in std::fs::read_dir(saved.path()).expect("files") {
        let path = entry.expect("a file").path();
        std::fs::copy(&path, dir.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

fn prompts(count: usize, side: u32) -> Vec<Prompt> {
    let prompt = |index: usize| {
        let mut stream = StreamKey::new("noise", index as u64).stream();
        let pixels: Arc<[u8]> = (0..3 * side * side)
            .map(|_| stream.below(256) as u8)
            .collect();
        Prompt::question(
            index.to_string(),
            vec![
                RgbImage {
                    width: side,
                    height: side,
                    pixels,
                }
                .into(),
            ],
            None,
            QUESTION,
        )
    };
    (0..count).map(prompt).collect()
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 16,
        ..LoraConfig::default()
    }
}

fn sft_config(batch_size: usize, gradient_checkpointing: bool) -> SftConfig {
    SftConfig {
        batch_size,
        run: RunConfig {
            steps: Some(2),
            gradient_checkpointing,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    }
}

fn sft(model: &mut HubModel, config: SftConfig, side: u32) {
    let tokenizer = model.tokenizer();
    let mut answer = tokenizer.encode(ANSWER).expect("tokens");
    answer.push(tokenizer.eos());
    let answer: Arc<[u32]> = answer.into();
    let example = |prompt| Example {
        prompt,
        answer: answer.clone(),
        earlier: 0,
    };
    let examples: Vec<Example> = prompts(config.batch_size, side)
        .into_iter()
        .map(example)
        .collect();
    let mut trainer = SftTrainer::new(config, model, &examples, None).expect("a trainer");
    trainer.run(&mut ()).expect("two steps");
    keep_reserved();
}

/// Keeps what a device has been asked for, while what was computed with is still there.
fn keep_reserved() {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if let Some(bytes) = dcsft_tensor::device::reserved(&test_device()) {
        RESERVED.store(bytes, Ordering::Relaxed);
    }
}

fn sides() -> [u32; 2] {
    match on_gpu() {
        false => SIDES,
        true => SIDES_ON_DEVICE,
    }
}

/// What is measured.
fn work(part: &str, dir: &Path) {
    let [side, large_side] = sides();
    let load = || HubModel::load(dir, &test_device()).unwrap_or_else(|error| panic!("{error}"));
    let adapted = || {
        let mut model = load();
        model.add_lora(&lora(), 0).expect("adapters");
        model
    };
    let frozen = |groups: &[ModuleGroup]| {
        let mut model = load();
        let groups = groups.iter().copied().collect();
        model.freeze(&groups).expect("something to train");
        sft(&mut model, sft_config(2, false), side);
    };
    match part {
        "load" => {
            let model = load();
            keep_reserved();
            drop(model);
        }
        "sft" => sft(&mut load(), sft_config(2, false), side),
        "sft frozen decoder" => frozen(&[ModuleGroup::Decoder]),
        "sft frozen vision" => frozen(&[ModuleGroup::Vision]),
        "sft lora" => sft(&mut adapted(), sft_config(4, false), side),
        "sft lora checkpointing" => sft(&mut adapted(), sft_config(4, true), side),
        "sft lora large image" => sft(&mut adapted(), sft_config(1, false), large_side),
        "grpo lora" => {
            let prompts = prompts(2, side);
            let config = GrpoConfig {
                prompts_per_step: 2,
                generations: ANSWERS,
                max_new_tokens: NEW_TOKENS,
                temperature: 1.0,
                run: RunConfig {
                    steps: Some(2),
                    ..RunConfig::default()
                },
                ..GrpoConfig::default()
            };
            let reference = load().frozen();
            let mut model = adapted();
            let data = GrpoData {
                prompts: &prompts,
                difficulty: &[],
                bins: 1,
            };
            let reward = |_: usize, text: &str| (text.len() % 3) as f32;
            let reference = (config.beta != 0.0).then_some(reference.as_ref());
            let mut trainer =
                GrpoTrainer::new(config, &mut model, reference, data, &reward).expect("a trainer");
            trainer.run(&mut ()).expect("two steps");
            keep_reserved();
        }
        "rollout" => {
            let sampling = Sampling {
                max_new_tokens: NEW_TOKENS,
                ..Sampling::default()
            };
            let model = load();
            let answers = model.generate(&prompts(QUESTIONS, side), 0..ANSWERS as u32, &sampling);
            assert_eq!(answers.expect("answers").len(), QUESTIONS);
            keep_reserved();
        }
        other => panic!("no part {other}"),
    }
}

fn on_gpu() -> bool {
    test_device() != Device::flex()
}

/// Bytes of the whole process, or of a device's memory.
fn estimate(part: &str, model: &HubFootprint) -> f64 {
    let [side, large_side] = sides();
    let tokens_of = |side: u32| {
        let pixels = f64::from(side * side);
        model.tokens(pixels, QUESTION.len() as f64, ANSWER.len() as f64)
    };
    let tokens = tokens_of(side);
    let lora = lora();
    let update = |questions: usize, lora| Update {
        batch: Batch {
            questions: questions as f64,
            answers: 1.0,
            tokens,
            on_gpu: on_gpu(),
        },
        training: Training {
            lora,
            dropout: true,
            ..Training::WHOLE
        },
        checkpointing: false,
        accumulates: false,
        offload: false,
        loss: SFT_LOSS,
    };
    let written = dcsft_vlm::memory::Tokens {
        answer: NEW_TOKENS as f64,
        ..tokens
    };
    let asked = |questions: usize| Generation {
        questions: questions as f64,
        answers: ANSWERS as f64,
        tokens: written,
        threads: THREADS as f64,
        on_gpu: on_gpu(),
        adapters: None,
    };
    let process = |threads: f64, activations: f64| match on_gpu() {
        true => 0.0,
        false => process(threads, activations),
    };
    let loading = if on_gpu() { 0.0 } else { model.loading() };
    let trained = |update: &Update<'_>| {
        let peak = train(model, update, None);
        process(THREADS as f64, peak.activations) + peak.peak
    };
    let frozen = |groups: BTreeSet<ModuleGroup>| {
        let mut update = update(2, None);
        update.training.frozen = &groups;
        trained(&update)
    };
    match part {
        "load" => process(THREADS as f64, 0.0) + model.weights(None) + loading,
        "sft" => trained(&update(2, None)),
        "sft frozen decoder" => frozen([ModuleGroup::Decoder].into()),
        "sft frozen vision" => frozen([ModuleGroup::Vision].into()),
        "sft lora" => trained(&update(4, Some(&lora))),
        "sft lora checkpointing" => {
            let update = Update {
                checkpointing: true,
                ..update(4, Some(&lora))
            };
            trained(&update)
        }
        "sft lora large image" => {
            let mut update = update(1, Some(&lora));
            update.batch.tokens = tokens_of(large_side);
            trained(&update)
        }
        "grpo lora" => {
            // With dropout each answer has a question's rows of its own.
            let batch = Batch {
                questions: (2 * ANSWERS) as f64,
                answers: 1.0,
                tokens: written,
                on_gpu: on_gpu(),
            };
            let update = Update {
                batch,
                loss: GRPO_LOSS,
                ..update(2, Some(&lora))
            };
            // This test reads the reference from its file; the stage shares the policy's weights with it.
            let reference = model.weights(None);
            let drawing = generate(model, &asked(2));
            let drawn = process(THREADS as f64, drawing) + model.weights(Some(&lora)) + drawing;
            trained(&update).max(drawn) + reference
        }
        "rollout" => {
            let writing = generate(model, &asked(QUESTIONS));
            process(THREADS as f64, writing) + model.weights(None) + writing.max(loading)
        }
        other => panic!("no part {other}"),
    }
}

/// What `freeze` may name, in parts.
fn frozen_groups() -> [BTreeSet<ModuleGroup>; 4] {
    use ModuleGroup::{Decoder, Projector, Vision};
    [
        [Vision].into(),
        [Decoder].into(),
        [Vision, Projector].into(),
        [Projector, Decoder].into(),
    ]
}

fn trainable(model: &HubModel) -> usize {
    let trained = model.params().iter().filter(|param| param.trainable);
    trained
        .map(|param| param.value.dims().iter().product::<usize>())
        .sum()
}

/// Bytes of the process.
fn peak(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// On a device in this process, which has its kernels compiled already.
#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn measure_on_device(part: &str, dir: &Path) -> f64 {
    let device = test_device();
    dcsft_tensor::device::give_back(&device).expect("a device");
    let before = dcsft_tensor::device::reserved(&device).expect("a device");
    work(part, dir);
    (RESERVED.load(Ordering::Relaxed) - before) as f64
}

fn measure(part: &str, dir: &Path) -> f64 {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if on_gpu() {
        return measure_on_device(part, dir);
    }
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_part_of_the_measurement", "--nocapture"])
        .env(PART, part)
        .env(FOLDER, dir)
        .env("RAYON_NUM_THREADS", THREADS.to_string())
        .output()
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    peak(&text).unwrap_or_else(|| panic!("{part}: {text}\n{errors}"))
}

/// Does nothing in a plain run of the tests; [`measure`] runs it in processes of their own.
#[test]
fn a_part_of_the_measurement() {
    let (Ok(part), Some(dir)) = (std::env::var(PART), std::env::var_os(FOLDER)) else {
        return;
    };
    work(&part, &PathBuf::from(dir));
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    println!("\n{status}");
}

#[test]
fn golden_memory_is_as_estimated() {
    let Some(golden) = golden() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    folder(&golden, dir.path());
    let settings = Settings::default();
    let config = Config::load(dir.path()).expect("a configuration");
    let processor = config.processor(dir.path(), &settings);
    let texts = Texts::of(dir.path(), &processor.expect("a processor")).expect("a conversation");
    let model = HubFootprint::new(config, Precision::F32, texts);

    let mut loaded = HubModel::load(dir.path(), &Device::flex()).expect("a model");
    assert_eq!(loaded.params().count() as f64, model.parameters());
    loaded.add_lora(&lora(), 0).expect("adapters");
    let trained = trainable(&loaded);
    let adapters = lora();
    assert_eq!(trained as f64, model.trained(Training::adapters(&adapters)));
    drop(loaded);
    for frozen in frozen_groups() {
        let mut loaded = HubModel::load(dir.path(), &Device::flex()).expect("a model");
        loaded.freeze(&frozen).expect("something to train");
        let training = Training {
            frozen: &frozen,
            ..Training::WHOLE
        };
        assert_eq!(
            trainable(&loaded) as f64,
            model.trained(training),
            "{frozen:?}"
        );
    }

    let mut wrong = Vec::new();
    println!("| part | estimate MiB | measured MiB | ratio |");
    for part in [
        "load",
        "sft",
        "sft frozen decoder",
        "sft frozen vision",
        "sft lora",
        "sft lora checkpointing",
        "sft lora large image",
        "grpo lora",
        "rollout",
    ] {
        if !is_as_estimated(part, part, &model, dir.path()) {
            wrong.push(part.to_owned());
        }
    }
    for quantize in [Quantize::Eight, Quantize::Four] {
        let settings = Settings {
            quantize,
            ..Settings::default()
        };
        let text = serde_json::to_string(&settings).expect("settings");
        std::fs::write(dir.path().join(SETTINGS), text).expect("a file");
        let model = model.clone().with_quantize(quantize, on_gpu());
        for part in ["load", "sft lora", "sft lora checkpointing", "rollout"] {
            let named = format!("{part}, {quantize}");
            if !is_as_estimated(&named, part, &model, dir.path()) {
                wrong.push(named);
            }
        }
    }
    assert!(wrong.is_empty(), "more than {TOLERANCE} off: {wrong:?}");
}

/// Shows estimate and measurement of a part.
fn is_as_estimated(named: &str, part: &str, model: &HubFootprint, dir: &Path) -> bool {
    let (estimate, measured) = (estimate(part, model), measure(part, dir));
    let ratio = estimate / measured;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    println!(
        "| {named} | {:.0} | {:.0} | {ratio:.2} |",
        mib(estimate),
        mib(measured)
    );
    (ratio - 1.0).abs() <= TOLERANCE
}
