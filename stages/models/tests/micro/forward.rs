//! The teacher-forced pass and its gradients.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::micro::{MicroConfig, MicroVlm};
use dcsft_tensor::ops::token_logprobs;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::{LoraConfig, ModuleGroup};
use dcsft_vlm::model::{
    Example, Forward, ImageSource, Output, Picture, RgbImage, VisionLanguageModel,
};

use crate::{
    GREEDY, assert_close, example, examples, logits, model, prompt, stir_adapters, values,
};

#[test]
fn logits_have_a_row_for_every_answer_token() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let output = model.forward(&batch, &Forward::default()).unwrap();
    let tokens: usize = batch.iter().map(|example| example.answer.len()).sum();
    assert_eq!(output.logits.dims(), [tokens, 32]);
    assert_eq!(output.pooled.as_ref().unwrap().dims(), [batch.len(), 48]);
}

#[test]
fn a_samples_logits_do_not_depend_on_its_batch() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let alone: Vec<f32> = batch
        .iter()
        .flat_map(|example| logits(&model, std::slice::from_ref(example)))
        .collect();
    assert_eq!(logits(&model, &batch), alone);
}

/// An image that someone else keeps.
#[derive(Debug)]
struct Elsewhere(RgbImage);

impl ImageSource for Elsewhere {
    fn size(&self) -> (u32, u32) {
        (self.0.width, self.0.height)
    }

    fn load(&self) -> Result<RgbImage, VlmError> {
        Ok(self.0.clone())
    }
}

#[test]
fn where_an_image_lies_changes_nothing() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let mut stored = batch.clone();
    for example in &mut stored {
        let image = example.prompt.images[0].load().unwrap().into_owned();
        example.prompt.images[0] = Picture::Stored(Arc::new(Elsewhere(image)));
    }
    assert_eq!(logits(&model, &stored), logits(&model, &batch));
    let ask = |batch: &[Example]| {
        let prompts: Vec<_> = batch.iter().map(|example| example.prompt.clone()).collect();
        model.generate(&prompts, 0..2, &GREEDY).unwrap()
    };
    assert_eq!(ask(&stored), ask(&batch));
    // Both answers to one question share its rows.
    let twice = [stored[0].clone(), stored[0].clone()];
    assert_eq!(
        logits(&model, &twice).len(),
        2 * logits(&model, &twice[..1]).len()
    );
}

#[test]
fn answers_to_one_prompt_share_its_rows_and_change_nothing() {
    let model = model(MicroConfig::default());
    let [first, other] = [prompt("a", "object?"), prompt("b", "object?")];
    let answers = ["disk", "", "box", "disk on sky"];
    let mut batch: Vec<Example> = answers
        .iter()
        .map(|answer| example(&model, first.clone(), answer))
        .collect();
    batch.push(example(&model, other, "a"));
    let targets: Vec<u32> = batch
        .iter()
        .flat_map(|example| example.answer.to_vec())
        .collect();
    let together = model.forward(&batch, &Forward::default()).unwrap();
    let apart: Vec<_> = batch
        .iter()
        .map(|example| {
            model
                .forward(std::slice::from_ref(example), &Forward::default())
                .unwrap()
        })
        .collect();
    let [logits, pooled] = [0, 1].map(|part| {
        let pick = |output: &Output| {
            if part == 0 {
                output.logits.clone()
            } else {
                output.pooled.clone().unwrap()
            }
        };
        (
            values(pick(&together)),
            apart
                .iter()
                .flat_map(|output| values(pick(output)))
                .collect::<Vec<f32>>(),
        )
    });
    assert_eq!(logits.0, logits.1);
    assert_eq!(pooled.0, pooled.1);

    let apart_logits = Tensor::cat(
        apart.iter().map(|output| output.logits.clone()).collect(),
        0,
    );
    let together = token_logprobs(together.logits, &targets, 1.0)
        .sum()
        .backward();
    let apart = token_logprobs(apart_logits, &targets, 1.0).sum().backward();
    for param in model.params().iter() {
        let [left, right] =
            [&together, &apart].map(|grads| values(param.value.grad(grads).unwrap()));
        let size = right.iter().fold(1f32, |size, value| size.max(value.abs()));
        assert_close(&left, &right, 1e-5 * size);
    }
}

#[test]
fn logits_depend_on_the_image_the_prompt_and_earlier_tokens_only() {
    let model = model(MicroConfig::default());
    let base = example(&model, prompt("a", "object?"), "disk");
    let right = logits(&model, std::slice::from_ref(&base));
    let other_end = example(&model, prompt("a", "object?"), "disc");
    let changed = logits(&model, &[other_end]);
    assert_eq!(
        right[..4 * 32],
        changed[..4 * 32],
        "the token to predict is not seen"
    );
    assert_ne!(
        right[4 * 32..],
        changed[4 * 32..],
        "it is seen by what follows"
    );
    for other in [prompt("b", "object?"), prompt("a", "scene?")] {
        assert_ne!(
            right[..32],
            logits(&model, &[example(&model, other, "disk")])[..32]
        );
    }
}

#[test]
fn all_weights_get_gradients() {
    let model = model(MicroConfig::default());
    let batch = examples(&model);
    let targets: Vec<u32> = batch
        .iter()
        .flat_map(|example| example.answer.to_vec())
        .collect();
    let output = model.forward(&batch, &Forward::default()).unwrap();
    let grads = token_logprobs(output.logits, &targets, 1.0)
        .mean()
        .backward();
    for param in model.params().iter() {
        let gradient = param
            .value
            .grad(&grads)
            .unwrap_or_else(|| panic!("{} has no gradient", param.name));
        assert!(
            values(gradient).iter().any(|&value| value != 0.0),
            "the gradient of {} is zero",
            param.name
        );
    }
}

#[test]
fn a_frozen_vision_tower_gets_no_gradients() {
    let mut model = model(MicroConfig::default());
    let targets = BTreeSet::from([ModuleGroup::Decoder]);
    model
        .add_lora(
            &LoraConfig {
                targets,
                ..Default::default()
            },
            0,
        )
        .unwrap();
    let batch = examples(&model);
    let targets: Vec<u32> = batch
        .iter()
        .flat_map(|example| example.answer.to_vec())
        .collect();
    let output = model.forward(&batch, &Forward::default()).unwrap();
    assert!(
        !output.pooled.unwrap().is_tracked(),
        "nothing before the decoder is recorded for the backward pass"
    );
    let grads = token_logprobs(output.logits, &targets, 1.0)
        .mean()
        .backward();
    for param in model.params().iter() {
        assert_eq!(
            param.value.grad(&grads).is_some(),
            param.trainable,
            "{}",
            param.name
        );
        assert_eq!(
            param.trainable,
            param.name.starts_with("decoder.") && param.name.contains(".lora_")
        );
    }
}

#[test]
fn the_models_gradients_follow_finite_differences() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    stir_adapters(&mut model);
    let batch = examples(&model);
    let targets: Vec<u32> = batch
        .iter()
        .flat_map(|example| example.answer.to_vec())
        .collect();
    let forward = Forward {
        dropout: Some(StreamKey::new("dropout", 3)),
        ..Forward::default()
    };
    let loss = |model: &MicroVlm| {
        token_logprobs(
            model.forward(&batch, &forward).unwrap().logits,
            &targets,
            1.0,
        )
        .sum()
    };
    let grads = loss(&model).backward();
    let checked = [
        "vision.patch.lora_A.weight",
        "decoder.blocks.1.mlp.fc2.lora_B.weight",
        "projector.lora_B.weight",
    ];
    for name in checked {
        let param = model
            .params()
            .iter()
            .find(|param| param.name == name)
            .unwrap();
        let gradient = values(param.value.grad(&grads).unwrap());
        let start = values(param.value.clone());
        let shape = param.value.dims();
        let index = gradient
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
            .unwrap()
            .0;
        let mut moved = |step: f32| {
            let mut data = start.clone();
            data[index] += step;
            let param = model
                .params_mut()
                .iter_mut()
                .find(|param| param.name == name)
                .unwrap();
            param.value =
                Tensor::from_data(TensorData::new(data, shape), &Device::flex()).autodiff();
            values(loss(&model))[0]
        };
        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        moved(0.0);
        assert!(
            (slope - gradient[index]).abs() < 2e-2 * slope.abs(),
            "{name}: {} for {slope}",
            gradient[index]
        );
    }
}
