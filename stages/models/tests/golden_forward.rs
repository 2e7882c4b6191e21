//! Logits, hidden states and vision features against what Transformers computed.

#![allow(
    clippy::print_stdout,
    reason = "the tables of differences are for people"
)]

mod support;

use burn::tensor::DType;
use dcsft_models::processor::Patches;
use dcsft_models::qwen2_5_vl::config::parse;
use dcsft_models::qwen2_5_vl::vision::VisionPlan;
use dcsft_models::{HubModel, Sequence};
use dcsft_tensor::device::{computes_in, test_device};
use support::compare::{close, same, values};
use support::model::Golden;
use support::{Tensors, read_json};

/// The rows of a padded `[batch, length, width]` tensor where the mask is 1.
fn real_rows(tensors: &Tensors, name: &str) -> Option<Vec<f32>> {
    let (shape, all) = tensors.f32(name)?;
    let width = *shape.last().unwrap();
    let (_, mask) = tensors.i64("attention_mask").unwrap();
    let rows = all.chunks_exact(width).zip(mask);
    Some(
        rows.filter(|(_, real)| *real == 1)
            .flat_map(|(row, _)| row)
            .copied()
            .collect(),
    )
}

/// Merged tokens from window order to the images' own order.
fn own_order(rows: &[f32], window_index: &[u32]) -> Vec<f32> {
    let width = rows.len() / window_index.len();
    let mut own = vec![0.0; rows.len()];
    for (row, &place) in rows.chunks_exact(width).zip(window_index) {
        own[place as usize * width..][..width].copy_from_slice(row);
    }
    own
}

/// The step of the vision tower's last layers.
const MERGER: &str = "model.visual.merger.";

/// For each merged token in window order its place in the images' own order.
fn window_index(golden: &Golden, sequences: &[Sequence]) -> Vec<u32> {
    let config = read_json(&golden.dir.join("ckpt/config.json"));
    let vision = parse(config.as_object().unwrap()).unwrap().vision;
    let images: Vec<&Patches> = sequences
        .iter()
        .flat_map(|sequence| &sequence.encoded.images)
        .collect();
    VisionPlan::new(&images, &vision).window_index
}

#[test]
fn golden_logits_and_vision_features_of_every_case() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    for name in golden.case_names() {
        let tensors = Tensors::read(&golden.dir.join(format!("forward/{name}.safetensors")));
        let sequences = golden.case(&model, &name);
        let logits = values(model.logits(&sequences));
        close(
            &format!("{name}: logits"),
            &logits,
            &real_rows(&tensors, "logits").unwrap(),
            1e-4,
            0.0,
        );
        let trace = model.trace(&sequences);
        if let Some((_, merged)) = trace.iter().find(|(step, _)| step == MERGER) {
            let window_index = window_index(&golden, &sequences);
            let own = own_order(&values(merged.x.clone()), &window_index);
            let (_, reference) = tensors.f32("visual.out").unwrap();
            close(&format!("{name}: visual.out"), &own, &reference, 3e-5, 1e-5);
            let (_, index) = tensors.i64("visual.window_index").unwrap();
            let index: Vec<u32> = index.into_iter().map(|place| place as u32).collect();
            assert_eq!(window_index, index, "{name}: window_index");
        }
    }
}

#[test]
fn golden_hidden_states_of_every_block() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let mut compared = 0;
    for name in golden.case_names() {
        let tensors = Tensors::read(&golden.dir.join(format!("forward/{name}.safetensors")));
        if tensors.f32("text.inputs_embeds").is_none() {
            continue;
        }
        let trace = model.trace(&golden.case(&model, &name));
        let mut check = |what: String, ours: Vec<f32>| {
            let (_, reference) = tensors
                .f32(&what)
                .unwrap_or_else(|| panic!("{name} has no {what}"));
            close(&format!("{name}: {what}"), &ours, &reference, 3e-5, 1e-5);
            compared += 1;
        };
        for (step, flow) in trace {
            let what = match step.strip_prefix("model.") {
                Some("visual.patch_embed.") => "visual.block0_in_window_order".into(),
                Some("visual.merger.") => "visual.merger_out_window_order".into(),
                Some("language_model.embed_tokens.") => "text.inputs_embeds".into(),
                Some("language_model.norm.") => "text.final_norm_out".into(),
                Some(layer) => match layer.rsplit_once("s.") {
                    Some(("visual.block", index)) => {
                        format!(
                            "visual.block{}_out_window_order",
                            index.trim_end_matches('.')
                        )
                    }
                    Some(("language_model.layer", index)) => {
                        format!("text.layer{}_out", index.trim_end_matches('.'))
                    }
                    _ => panic!("unknown step {step}"),
                },
                None => continue,
            };
            check(what, values(flow.x));
        }
    }
    assert!(compared > 0, "no case has hidden states");
}

#[test]
fn golden_logits_of_the_published_layout_in_bf16() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.checkpoint("ckpt_hub_bf16");
    let tensors = Tensors::read(&golden.dir.join("forward/hub_bf16_logits.safetensors"));
    let suffix = ".logits_f32_from_bf16_weights";
    let names = tensors.names();
    let cases: Vec<&str> = names
        .iter()
        .filter_map(|name| name.strip_suffix(suffix))
        .collect();
    assert!(!cases.is_empty());
    for case in cases {
        let (_, reference) = tensors.f32(&format!("{case}{suffix}")).unwrap();
        let logits = values(model.logits(&golden.case(&model, case)));
        close(
            &format!("{case}: logits of bf16 weights"),
            &logits,
            &reference,
            1e-4,
            0.0,
        );
    }
}

#[test]
fn golden_bf16_arithmetic_stays_near_the_reference() {
    let Some(golden) = Golden::open() else { return };
    let tensors = Tensors::read(&golden.dir.join("forward/hub_bf16_logits.safetensors"));
    // The same files with settings that ask for 16 bits.
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden.dir.join("ckpt_hub_bf16")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::write(dir.path().join("dcsft.json"), r#"{"precision": "bf16"}"#).unwrap();
    let model = HubModel::load(dir.path(), &test_device());
    if !computes_in(&test_device(), DType::BF16) {
        let error = model.err().expect("an error").to_string();
        assert!(error.contains("the model's precision is bf16"), "{error}");
        return;
    }
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    let suffix = ".logits_bf16_compute";
    for name in tensors.names() {
        let Some(case) = name.strip_suffix(suffix) else {
            continue;
        };
        let ours = values(model.logits(&golden.case(&model, case)));
        let (_, reference) = tensors.f32(&name).unwrap();
        let (_, exact) = tensors
            .f32(&format!("{case}.logits_f32_from_bf16_weights"))
            .unwrap();
        // Both are off the exact logits by the rounding of 16 bits; ours must not be further off than twice theirs.
        let (own, theirs) = (mean_square(&ours, &exact), mean_square(&reference, &exact));
        println!(
            "{case}: mean square off the exact logits: ours {own:.2e}, reference {theirs:.2e}"
        );
        assert!(
            own > 0.0 && own < 4.0 * theirs,
            "{case}: {own} and {theirs}"
        );
    }
}

fn mean_square(left: &[f32], right: &[f32]) -> f64 {
    assert_eq!(left.len(), right.len());
    let squares = left
        .iter()
        .zip(right)
        .map(|(a, b)| f64::from(a - b).powi(2));
    squares.sum::<f64>() / left.len() as f64
}

#[test]
fn golden_packing_changes_no_bit() {
    let Some(golden) = Golden::open() else { return };
    let model = golden.model();
    let all: Vec<Sequence> = golden
        .case_names()
        .iter()
        .flat_map(|name| golden.case(&model, name))
        .collect();
    let alone = |sequence: &Sequence| logits(&model, std::slice::from_ref(sequence));
    let apart: Vec<f32> = all.iter().flat_map(alone).collect();
    let packed = logits(&model, &all);
    same(
        "a sequence's logits depend on its neighbours",
        &packed,
        &apart,
    );
}

fn logits(model: &HubModel, sequences: &[Sequence]) -> Vec<f32> {
    values(model.logits(sequences))
}
