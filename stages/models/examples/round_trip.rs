//! Our side of `tests/python/round_trip.py`, which checks that Transformers and PEFT read what we write. GOLDEN is a
//! folder of golden data.
//!
//! - `round_trip export GOLDEN OUT` writes below OUT what the program can write: adapters, merged weights, all weights
//!   in both number types and in shards.
//! - `round_trip logits GOLDEN FOLDER OUT` writes token ids and logits of the golden conversations by the model of
//!   FOLDER, computed in 32 bits.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use dcsft_models::checkpoint::SINGLE;
use dcsft_models::export::write_weights;
use dcsft_models::processor::Encode;
use dcsft_models::{HubModel, Precision, Sequence, Settings, import, load_adapter};
use dcsft_vlm::model::{RgbImage, VisionLanguageModel};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use support::{Tensors, conversation, read_json};

#[path = "../tests/support/mod.rs"]
mod support;

type Failure = Box<dyn Error>;

/// Small enough that the golden checkpoint needs several files.
const SHARD_BYTES: usize = 200_000;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["export", golden, out] => export(Path::new(golden), Path::new(out)),
        ["logits", golden, folder, out] => {
            logits(Path::new(golden), Path::new(folder), Path::new(out))
        }
        _ => Err("export GOLDEN OUT, or logits GOLDEN FOLDER OUT".into()),
    }
}

fn export(golden: &Path, out: &Path) -> Result<(), Failure> {
    let device = Device::flex();
    let base = golden.join("ckpt");
    for name in ["lora_lm", "lora_all"] {
        let mut model = HubModel::load(&base, &device)?;
        load_adapter(
            &mut model,
            &golden.join("sft").join(name).join("adapter_after_5_steps"),
        )?;
        model.save(&out.join(format!("{name}.adapter")))?;
        model.merge_lora()?;
        model.save(&out.join(format!("{name}.merged")))?;
    }
    all_weights(&base, Precision::F32, &out.join("ckpt"))?;
    all_weights(
        &golden.join("ckpt_hub_bf16"),
        Precision::Bf16,
        &out.join("ckpt_hub_bf16"),
    )
}

/// Imports a checkpoint and writes all its weights anew: in one file, and in shards.
fn all_weights(from: &Path, precision: Precision, to: &Path) -> Result<(), Failure> {
    let settings = Settings {
        precision,
        ..Settings::default()
    };
    let imported = to.with_added_extension("imported");
    fs::create_dir_all(&imported)?;
    import(from, &imported, settings)?;
    let mut model = HubModel::load(&imported, &Device::flex())?;
    // Whoever may have changed the weights has them written, where they are linked otherwise.
    model.params_mut();
    model.save(&to.with_added_extension("whole"))?;
    let shards = to.with_added_extension("shards");
    model.save(&shards)?;
    fs::remove_file(shards.join(SINGLE))?;
    write_weights(&model, &shards, precision, SHARD_BYTES)?;
    Ok(())
}

fn logits(golden: &Path, folder: &Path, out: &Path) -> Result<(), Failure> {
    let scratch = tempfile::tempdir()?;
    import(folder, scratch.path(), Settings::default())?;
    let model = HubModel::load(scratch.path(), &Device::flex())?;
    let cases = read_json(&golden.join("forward/cases.json"));
    let cases = cases.get("cases").unwrap_or(&cases);
    let cases = cases.as_object().ok_or("cases.json has no cases")?;
    let mut tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)> = Vec::new();
    for (name, case) in cases {
        // Options of the processor are those of another folder.
        let options = case.get("processor_kwargs").and_then(Value::as_object);
        if options.is_some_and(|options| !options.is_empty()) {
            continue;
        }
        let members = case["messages"]
            .as_array()
            .ok_or("a case has no messages")?;
        for (index, messages) in members.iter().enumerate() {
            let (messages, paths) = conversation(messages);
            let images: Vec<RgbImage> = paths
                .iter()
                .map(|path| open(golden, path))
                .collect::<Result<_, _>>()?;
            let options = Encode {
                generation_prompt: true,
                ..Encode::default()
            };
            let encoded = model.processor().encode(&messages, &images, &options)?;
            let ids = encoded
                .ids
                .iter()
                .flat_map(|&id| i64::from(id).to_le_bytes())
                .collect();
            tensors.push((
                format!("{name}.{index}.ids"),
                vec![encoded.ids.len()],
                Dtype::I64,
                ids,
            ));
            let sequence = Sequence {
                id: "0".into(),
                encoded: Arc::new(encoded),
                answers: Vec::new(),
            };
            let logits = model.logits(&[sequence]);
            let shape = logits.dims().to_vec();
            let values = logits
                .inner()
                .into_data()
                .try_to_vec::<f32>()
                .map_err(|error| format!("{error:?}"))?;
            let bytes = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            tensors.push((format!("{name}.{index}.logits"), shape, Dtype::F32, bytes));
        }
    }
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, dtype, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<_, Failure>>()?;
    Ok(safetensors::serialize_to_file(views, None, out)?)
}

/// An image as Transformers decodes it: the pixels that are stored with the golden data, or those of the file.
fn open(golden: &Path, path: &str) -> Result<RgbImage, Failure> {
    let stored = Tensors::read(&golden.join("processor/images.safetensors"));
    let name = Path::new(path).file_stem().unwrap_or_default().display();
    let (width, height, pixels) = match stored.bytes(&format!("{name}.decoded_rgb_u8")) {
        Some((shape, pixels)) => (shape[1] as u32, shape[0] as u32, pixels),
        None => {
            let read = image::open(golden.join(path))?.into_rgb8();
            (read.width(), read.height(), read.into_raw())
        }
    };
    Ok(RgbImage {
        width,
        height,
        pixels: pixels.into(),
    })
}
