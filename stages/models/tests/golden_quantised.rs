//! Quantised checkpoints (`quantize` in `dcsft.json`) against the same checkpoints whose weights were replaced by what the
//! quantised ones stand for.
#![allow(clippy::print_stdout, reason = "what was compared is shown")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;
use dcsft_models::{HubModel, Precision, Quantize, SETTINGS, Sequence, Settings, check_quantize};
use dcsft_tensor::device::{Device, computes_in, test_device, test_devices};
use dcsft_tensor::quant::{dequantised, is_quantised};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{Example, Prompt, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use support::compare::{close_gradient, largest, same, values};
use support::model::Golden;
use support::training::{by_name, in_file_layout, loss_and_gradients};

const WEIGHTS: &str = "model.safetensors";
const QUANTIZED: [Quantize; 2] = [Quantize::Eight, Quantize::Four];

fn settings(quantize: Quantize, precision: Precision) -> Settings {
    Settings {
        precision,
        quantize,
        ..Settings::default()
    }
}

/// A copy of a checkpoint's folder that is run under `settings`.
fn copy(from: &Path, settings: Settings) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let settings = serde_json::to_string(&settings).unwrap();
    std::fs::write(dir.path().join(SETTINGS), settings).unwrap();
    dir
}

fn load(dir: &Path) -> HubModel {
    HubModel::load(dir, &test_device()).unwrap_or_else(|error| panic!("{error}"))
}

/// The values of all quantised weights, by name, as files have them.
fn stood_for(model: &HubModel) -> BTreeMap<String, Vec<f32>> {
    let quantised = model.params().iter();
    let quantised = quantised.filter(|param| is_quantised(&param.value));
    quantised
        .map(|param| {
            let whole = dequantised(&param.value, DType::F32).autodiff();
            let names = model.config().kind.names;
            let name = names.published(&param.name);
            (name, in_file_layout(param, whole))
        })
        .collect()
}

/// Replaces tensors of a folder's weights.
fn replace(dir: &Path, values: &BTreeMap<String, Vec<f32>>) {
    let path = dir.join(WEIGHTS);
    let file = std::fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut found = 0;
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::F32);
            let bytes = match values.get(&name) {
                Some(values) => {
                    found += 1;
                    values
                        .iter()
                        .flat_map(|value| value.to_le_bytes())
                        .collect()
                }
                None => tensor.data().to_vec(),
            };
            assert_eq!(bytes.len(), tensor.data().len(), "{name}");
            (name, tensor.shape().to_vec(), bytes)
        })
        .collect();
    assert_eq!(found, values.len(), "tensors of these names");
    let views = all.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize_to_file(views, None, &path).unwrap();
}

fn cases(golden: &Golden, model: &HubModel) -> Vec<Vec<Sequence>> {
    let names = golden.case_names();
    names.iter().map(|name| golden.case(model, name)).collect()
}

fn logits(model: &HubModel, cases: &[Vec<Sequence>]) -> Vec<f32> {
    let logits = cases.iter().map(|case| values(model.logits(case)));
    logits.collect::<Vec<_>>().concat()
}

/// The root of the mean square difference, as a part of the right values' own.
fn apart(own: &[f32], right: &[f32]) -> f64 {
    assert_eq!(own.len(), right.len());
    let squares = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value).powi(2)).sum::<f64>()
    };
    let differences = own.iter().zip(right).map(|(own, right)| own - right);
    (squares(&mut differences.into_iter()) / squares(&mut right.iter().copied())).sqrt()
}

#[test]
fn golden_quantised_weights_compute_as_what_they_stand_for() {
    let Some(golden) = Golden::open() else { return };
    let from = golden.dir.join("ckpt");
    for precision in [Precision::F32, Precision::Bf16] {
        if !computes_in(&test_device(), precision.dtype()) {
            continue;
        }
        let whole = load(copy(&from, settings(Quantize::None, precision)).path());
        let cases = cases(&golden, &whole);
        let right = logits(&whole, &cases);
        let mut errors = Vec::new();
        for quantize in QUANTIZED {
            let dir = copy(&from, settings(quantize, precision));
            let quantised = load(dir.path());
            let stood_for = stood_for(&quantised);
            // Three layers of seven, four blocks of five, and the merger's two: neither embedding nor convolution.
            assert_eq!(stood_for.len(), 3 * 7 + 4 * 5 + 2);
            assert!(stood_for.keys().any(|name| name.contains("visual")));
            assert!(!stood_for.keys().any(|name| name.contains("embed")));
            let own = logits(&quantised, &cases);
            let same_weights = copy(&from, settings(Quantize::None, precision));
            replace(same_weights.path(), &stood_for);
            let reference = logits(&load(same_weights.path()), &cases);
            same(&format!("{quantize}, {precision}"), &own, &reference);
            let error = apart(&own, &right);
            println!(
                "{quantize}, {precision}: logits {error:.3} of their size from the whole model's"
            );
            errors.push(error);
        }
        let [eight, four] = errors[..] else {
            panic!("two errors")
        };
        assert!(0.0 < eight && 4.0 * eight < four, "{eight} and {four}");
        assert!(eight < 0.05 && four < 0.6, "{eight} and {four}");
    }
}

fn lora(rank: usize) -> LoraConfig {
    LoraConfig {
        rank,
        alpha: 8.0,
        dropout: 0.1,
        ..LoraConfig::default()
    }
}

/// Questions about the golden images, with answers that take turns.
fn examples(golden: &Golden, model: &HubModel) -> Vec<Example> {
    let images = golden.images.values().take(4).enumerate();
    images
        .map(|(index, image)| {
            let tokenizer = model.tokenizer();
            let mut answer = tokenizer.encode(["a cat", "a dog"][index % 2]).unwrap();
            answer.push(tokenizer.eos());
            Example {
                prompt: Prompt::question(
                    index.to_string(),
                    vec![image.clone().into()],
                    None,
                    "What is it?",
                ),
                answer: Arc::from(answer),
                earlier: 0,
            }
        })
        .collect()
}

/// Trains a model for some steps; gives the loss of each.
fn train(model: &mut HubModel, examples: &[Example], checkpointing: bool) -> Vec<f64> {
    let config = SftConfig {
        batch_size: 4,
        run: RunConfig {
            steps: Some(6),
            learning_rate: 5e-3,
            gradient_checkpointing: checkpointing,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, model, examples, None).unwrap();
    trainer.run(&mut ()).unwrap();
    trainer.log().iter().map(|record| record.loss).collect()
}

fn file(dir: &Path, name: &str) -> Vec<u8> {
    std::fs::read(dir.join(name)).unwrap()
}

#[test]
fn golden_adapters_are_trained_beside_quantised_weights() {
    let Some(golden) = Golden::open() else { return };
    for quantize in QUANTIZED {
        let dir = copy(&golden.dir.join("ckpt"), settings(quantize, Precision::F32));
        let run = |checkpointing: bool| {
            let mut model = load(dir.path());
            model.add_lora(&lora(4), 1).unwrap();
            let before = stood_for(&model);
            let examples = examples(&golden, &model);
            let losses = train(&mut model, &examples, checkpointing);
            assert_eq!(stood_for(&model), before, "the base stays as it is");
            let saved = tempfile::tempdir().unwrap();
            model.save(saved.path()).unwrap();
            (model, losses, saved)
        };
        let (model, losses, saved) = run(false);
        println!("{quantize}: losses {losses:?}");
        assert!(losses[5] < 0.8 * losses[0], "{losses:?}");
        // The base is the checkpoint's own file.
        assert!(file(saved.path(), WEIGHTS) == file(dir.path(), WEIGHTS));
        let (_, _, again) = run(false);
        let adapter = |dir: &Path| file(dir, "adapter_model.safetensors");
        assert!(
            adapter(saved.path()) == adapter(again.path()),
            "the same bytes"
        );
        let (_, checkpointed, _) = run(true);
        let losses: Vec<f32> = losses.iter().map(|&loss| loss as f32).collect();
        let checkpointed: Vec<f32> = checkpointed.iter().map(|&loss| loss as f32).collect();
        same("losses with checkpointing", &checkpointed, &losses);
        // What was saved computes what was trained, and so does a frozen copy.
        let cases = cases(&golden, &model);
        let trained = logits(&model, &cases);
        assert_eq!(logits(&load(saved.path()), &cases), trained);
        let frozen = model.frozen();
        assert!(frozen.is_quantised() && frozen.lora().is_some());
        assert!(frozen.params().iter().all(|param| !param.trainable));
        let example = examples(&golden, &model);
        let of = |model: &dyn VisionLanguageModel| {
            let output = model.forward(&example, &Default::default()).unwrap();
            values(output.logits)
        };
        assert_eq!(of(&*frozen), of(&model));
        assert_ne!(
            of(&load(dir.path())),
            of(&model),
            "the adapters have an effect"
        );
    }
}

#[test]
fn golden_gradients_beside_quantised_weights_are_those_of_the_weights_they_stand_for() {
    let Some(golden) = Golden::open() else { return };
    for quantize in QUANTIZED {
        let from = golden.dir.join("ckpt");
        let dir = copy(&from, settings(quantize, Precision::F32));
        let mut own = load(dir.path());
        let replaced = copy(&from, settings(Quantize::None, Precision::F32));
        replace(replaced.path(), &stood_for(&own));
        let mut reference = load(replaced.path());
        let adapters = LoraConfig {
            dropout: 0.0,
            ..lora(4)
        };
        for model in [&mut own, &mut reference] {
            model.add_lora(&adapters, 1).unwrap();
            // Fresh adapters have no gradient of their first factor.
            let examples = examples(&golden, model);
            train(model, &examples, false);
        }
        let mut sequence = golden.case(&own, &golden.case_names()[0]).remove(0);
        sequence.answers = vec![Arc::from([5u32, 9, 7])];
        let sequences = [sequence];
        let (_, left) = loss_and_gradients(&own, &sequences, false);
        let (_, right) = loss_and_gradients(&reference, &sequences, false);
        let (left, right) = (by_name(&own, &left), by_name(&reference, &right));
        assert!(left.len() > 40 && left.keys().eq(right.keys()));
        for (name, gradient) in &left {
            close_gradient(name, gradient, &right[name]);
        }
        let (_, checkpointed) = loss_and_gradients(&own, &sequences, true);
        for (name, gradient) in by_name(&own, &checkpointed) {
            same(&name, &gradient, &left[&name]);
        }
    }
}

#[test]
fn golden_a_quantised_model_learns_the_same_on_two_devices() {
    let Some(golden) = Golden::open() else { return };
    let [_, second] = test_devices();
    for quantize in QUANTIZED {
        let dir = copy(&golden.dir.join("ckpt"), settings(quantize, Precision::F32));
        let run = |others: &[Device]| {
            let mut model = load(dir.path());
            model.add_lora(&lora(4), 1).unwrap();
            let examples = examples(&golden, &model);
            let config = SftConfig {
                batch_size: 1,
                gradient_accumulation: 4,
                run: RunConfig {
                    steps: Some(2),
                    learning_rate: 5e-3,
                    ..RunConfig::default()
                },
                ..SftConfig::default()
            };
            let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
            trainer.spread(others);
            trainer.run(&mut ()).unwrap();
            let adapters = model.params().iter().filter(|param| param.trainable);
            let bits = |value: f32| value.to_bits();
            adapters
                .flat_map(|param| values(param.value.clone()).into_iter().map(bits))
                .collect::<Vec<u32>>()
        };
        assert!(run(&[]) == run(std::slice::from_ref(&second)), "{quantize}");
    }
}

fn problem(error: VlmError) -> String {
    error.to_string()
}

#[test]
fn golden_what_a_quantised_model_cannot_do_is_said() {
    let Some(golden) = Golden::open() else { return };
    let dir = copy(
        &golden.dir.join("ckpt"),
        settings(Quantize::Four, Precision::F32),
    );
    let mut model = load(dir.path());
    assert!(model.is_quantised() && model.params().iter().all(|param| !param.trainable));
    let error = problem(model.freeze(&[ModuleGroup::Vision].into()).unwrap_err());
    assert!(
        error.contains("quantize: 4bit") && error.contains("lora.targets"),
        "{error}"
    );
    let examples = examples(&golden, &model);
    let error = match SftTrainer::new(SftConfig::default(), &mut model.clone(), &examples, None) {
        Ok(_) => panic!("nothing is trained"),
        Err(error) => error.to_string(),
    };
    assert!(
        error.contains("quantised") && error.contains("adapters"),
        "{error}"
    );
    // Without adapters nothing is merged, and nothing is wrong.
    model.merge_lora().unwrap();
    model.add_lora(&lora(4), 1).unwrap();
    let error = problem(model.merge_lora().unwrap_err());
    assert!(error.contains("quantize: 4bit"), "{error}");
    // Weights that are marked to be trained all the same are not written as if they were the checkpoint's.
    for param in model.params_mut().iter_mut() {
        param.set_trainable(true);
    }
    model.params_mut();
    let error = problem(model.save(tempfile::tempdir().unwrap().path()).unwrap_err());
    assert!(error.contains("quantised"), "{error}");
}

#[test]
fn golden_adapters_of_a_quantised_model_go_on_being_trained() {
    let Some(golden) = Golden::open() else { return };
    let dir = copy(
        &golden.dir.join("ckpt"),
        settings(Quantize::Eight, Precision::F32),
    );
    let mut model = load(dir.path());
    model.add_lora(&lora(4), 1).unwrap();
    let examples = examples(&golden, &model);
    train(&mut model, &examples, false);
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path()).unwrap();
    let mut again = load(saved.path());
    let cases = cases(&golden, &model);
    for (config, named) in [
        (lora(8), "lora.rank is 8"),
        (
            LoraConfig {
                alpha: 3.0,
                ..lora(4)
            },
            "lora.alpha is 3",
        ),
        (
            LoraConfig {
                targets: [ModuleGroup::Decoder].into(),
                ..lora(4)
            },
            "lora.targets",
        ),
    ] {
        let error = problem(again.add_lora(&config, 2).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
    let other_dropout = LoraConfig {
        dropout: 0.0,
        ..lora(4)
    };
    again.add_lora(&other_dropout, 2).unwrap();
    assert_eq!(again.lora(), Some(&other_dropout));
    assert_eq!(
        logits(&again, &cases),
        logits(&model, &cases),
        "they are the same adapters"
    );
    let count = |model: &HubModel| {
        model
            .params()
            .iter()
            .filter(|param| param.trainable)
            .count()
    };
    assert_eq!(count(&again), count(&model));
    let before = logits(&again, &cases);
    train(&mut again, &examples, false);
    assert_ne!(logits(&again, &cases), before);
    // A whole copy of the folder takes them into the weights that the checkpoint has.
    let mut whole = HubModel::load_whole(saved.path(), &test_device()).unwrap();
    assert!(!whole.is_quantised());
    let beside = logits(&whole, &cases);
    whole.merge_lora().unwrap();
    assert!(largest(&logits(&whole, &cases), &beside) < 1e-4);
    assert!(largest(&beside, &logits(&model, &cases)) > 0.0);
}

#[test]
fn golden_layers_that_are_no_whole_blocks_are_named() {
    let Some(golden) = Golden::open() else { return };
    let from = golden.dir.join("ckpt");
    let dir = copy(&from, settings(Quantize::Eight, Precision::F32));
    check_quantize(dir.path(), Quantize::Eight).unwrap();
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["text_config"]["hidden_size"] = 72.into();
    config["vision_config"]["out_hidden_size"] = 72.into();
    config["text_config"]["intermediate_size"] = 100.into();
    config["text_config"]["num_attention_heads"] = 2.into();
    config["text_config"]["rope_parameters"]["mrope_section"] = serde_json::json!([6, 6, 6]);
    std::fs::write(&path, config.to_string()).unwrap();
    check_quantize(dir.path(), Quantize::None).unwrap();
    let error = problem(check_quantize(dir.path(), Quantize::Four).unwrap_err());
    for word in ["quantize: 4bit", "layers.0", "multiple of 32"] {
        assert!(error.contains(word), "{error}");
    }
}
