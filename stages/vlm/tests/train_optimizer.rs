//! AdamW against torch's, and the learning-rate schedule against the rates of a reference run.

use std::fs;
use std::path::PathBuf;

use burn::tensor::{Tensor, TensorData};
use dcsft_tensor::device::test_device;
use dcsft_tensor::params::{Param, ParamSet};
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::schedule::{LearningRate, Schedule};
use serde_json::Value;

const SETTINGS: AdamWSettings = AdamWSettings {
    betas: [0.9, 0.95],
    eps: 1e-8,
    weight_decay: 0.1,
    max_grad_norm: 2.0,
    offload: false,
};

fn tensor(values: &[f32]) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [1, values.len()]),
        &test_device(),
    )
}

fn param(name: &str, values: &[f32], trainable: bool, decay: bool) -> Param {
    let value = tensor(values).autodiff().set_require_grad(trainable);
    Param {
        name: name.to_owned(),
        value,
        trainable,
        decay,
    }
}

fn values(set: &ParamSet) -> Vec<Vec<f32>> {
    let read = |param: &Param| {
        param
            .value
            .clone()
            .inner()
            .into_data()
            .try_into_vec()
            .expect("floats")
    };
    set.iter().map(read).collect()
}

#[test]
fn updates_are_those_of_torch() {
    for offload in [false, true] {
        updates_with(AdamWSettings {
            offload,
            ..SETTINGS
        });
    }
}

fn updates_with(settings: AdamWSettings) {
    // torch 2.x: AdamW(betas=(0.9, 0.95), eps=1e-8), weight decay 0.1 on the first tensor and none on the second,
    // clip_grad_norm_(2.0) before each step. (rate, norm before clipping, first tensor, second tensor)
    let steps: [(f64, f64, [f32; 6], [f32; 3]); 4] = [
        (
            0.0,
            5.528345108032227,
            [0.5, -1.0, 2.0, 0.25, 0.0, -0.75],
            [0.1, -0.2, 0.3],
        ),
        (
            0.02,
            7.830231666564941,
            [
                0.479_192_47,
                -0.978_192_5,
                1.976_192_5,
                0.229_692_47,
                0.0,
                -0.728_692_5,
            ],
            [0.082_232_736, -0.182_232_68, 0.282_232_67],
        ),
        (
            0.01,
            11.428826332092285,
            [
                0.476_940_9,
                -0.975_441_93,
                1.972_443_9,
                0.227_690_4,
                0.0,
                -0.726_191_4,
            ],
            [0.074_381_67, -0.174_381_58, 0.274_381_58],
        ),
        (
            0.005,
            15.166266441345215,
            [
                0.474_525_36,
                -0.972_777_1,
                1.969_280_6,
                0.225_399_48,
                0.0,
                -0.723_651_23,
            ],
            [0.070_882_864, -0.170_882_86, 0.270_882_73],
        ),
    ];
    let mut set = ParamSet::default();
    set.push(param("w", &[0.5, -1.0, 2.0, 0.25, 0.0, -0.75], true, true));
    set.push(param("frozen", &[7.0], false, true));
    set.push(param("b", &[0.1, -0.2, 0.3], true, false));
    let mut optimizer = AdamW::new(settings);
    for (step, (rate, norm, w, b)) in steps.iter().enumerate() {
        let scale = (step + 1) as f32 * if step == 2 { -1.0 } else { 1.0 };
        let gradients = [
            tensor(&[3.0, -0.5, 0.25, 1.0, 0.0, -2.0].map(|value| value * scale)),
            tensor(&[0.01, -4.0, 0.5].map(|value| value / (step + 1) as f32)),
        ];
        let ours = optimizer
            .step(&mut [&mut set], gradients.map(Some).into(), *rate)
            .expect("a step");
        assert!(
            (ours - norm).abs() < 1e-5 * norm,
            "step {step}: norm {ours}, expected {norm}"
        );
        let now = values(&set);
        assert_eq!(now[1], [7.0], "a frozen weight stays");
        for (ours, theirs) in now[0].iter().zip(w).chain(now[2].iter().zip(b)) {
            assert!(
                (ours - theirs).abs() < 1e-6,
                "step {step}: {ours}, expected {theirs}"
            );
        }
    }
    assert_eq!(optimizer.steps(), 4);
}

#[test]
fn a_missing_gradient_counts_as_zeros() {
    let run = |gradient: Option<Tensor<2>>| {
        let mut set = ParamSet::default();
        set.push(param("w", &[1.0, -2.0], true, true));
        let mut optimizer = AdamW::new(SETTINGS);
        for gradient in [Some(tensor(&[0.5, 1.0])), gradient] {
            optimizer
                .step(&mut [&mut set], vec![gradient], 0.1)
                .expect("a step");
        }
        values(&set)
    };
    assert_eq!(run(None), run(Some(tensor(&[0.0, 0.0]))));
}

#[test]
fn a_gradient_that_is_no_number_updates_nothing() {
    let mut set = ParamSet::default();
    set.push(param("w", &[1.0, -2.0], true, true));
    let mut optimizer = AdamW::new(SETTINGS);
    let norm = optimizer
        .step(&mut [&mut set], vec![Some(tensor(&[f32::NAN, 1.0]))], 0.1)
        .expect("a step");
    assert!(norm.is_nan());
    assert_eq!(
        (values(&set), optimizer.steps()),
        (vec![vec![1.0, -2.0]], 0)
    );
}

#[test]
fn golden_learning_rates() {
    let set = std::env::var_os("DCSFT_GOLDEN").map(PathBuf::from);
    let shared =
        || std::env::var_os("DCSFT_SHARED").map(|shared| PathBuf::from(shared).join("golden"));
    let Some(folder) = set.or_else(shared) else {
        eprintln!("skipped: neither DCSFT_GOLDEN nor DCSFT_SHARED names the golden data");
        return;
    };
    let text = fs::read(folder.join("sft").join("sft.json")).expect("sft.json is readable");
    let sft: Value = serde_json::from_slice(&text).expect("sft.json is JSON");
    let optimizer = &sft["optimizer"];
    let schedule = optimizer["schedule"]
        .as_str()
        .expect("the schedule in words");
    assert!(schedule.contains("cosine"), "{schedule}");
    let argument = |name: &str| -> usize {
        let (_, rest) = schedule
            .split_once(&format!("{name}="))
            .unwrap_or_else(|| panic!("{name}: {schedule}"));
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    };
    let mut traces = vec![(&optimizer["lr"]["full"], &sft["full"]["adamw5"]["trace"])];
    for adapter in sft["lora"].as_object().expect("adapters").values() {
        traces.extend(
            adapter
                .get("adamw5")
                .map(|run| (&optimizer["lr"]["lora"], &run["trace"])),
        );
    }
    assert!(traces.len() > 1, "full and adapter runs");
    for (base, trace) in traces {
        let rate = LearningRate {
            base: base.as_f64().expect("a rate"),
            schedule: Schedule::Cosine,
            warmup: argument("num_warmup_steps"),
            total: argument("num_training_steps"),
            floor: 0.0,
        };
        for line in trace.as_array().expect("a trace") {
            let step = line["step"].as_u64().expect("a step") as usize;
            let used = line["lr_used"].as_f64().expect("a rate");
            assert!(
                (rate.at(step) - used).abs() <= 1e-12,
                "step {step}: {}, expected {used}",
                rate.at(step)
            );
        }
    }
}
