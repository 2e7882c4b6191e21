//! The micro VLM through its public surface.

mod adapters;
mod files;
mod forward;
mod generation;
mod sizes;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::micro::{MicroConfig, MicroVlm};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::model::{Example, Forward, Prompt, RgbImage, Sampling, VisionLanguageModel};

fn model(config: MicroConfig) -> MicroVlm {
    MicroVlm::new(config, 7, &Device::flex()).unwrap()
}

fn prompt(id: &str, text: &str) -> Prompt {
    let mut stream = StreamKey::new("image", 0).text(id).stream();
    let pixels: Arc<[u8]> = (0..16 * 16 * 3).map(|_| stream.below(256) as u8).collect();
    Prompt::question(
        id,
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

fn prompts(count: usize) -> Vec<Prompt> {
    let texts = ["object?", "scene?", "caption", "<image>object?"];
    (0..count)
        .map(|index| prompt(&format!("sample {index}"), texts[index % texts.len()]))
        .collect()
}

fn example(model: &MicroVlm, prompt: Prompt, answer: &str) -> Example {
    let mut tokens = model.tokenizer().encode(answer).unwrap();
    tokens.push(model.tokenizer().eos());
    Example {
        prompt,
        answer: tokens.into(),
        earlier: 0,
    }
}

fn examples(model: &MicroVlm) -> Vec<Example> {
    let answers = ["disk", "box", "tri on sky", "a", ""];
    prompts(5)
        .into_iter()
        .zip(answers)
        .map(|(prompt, answer)| example(model, prompt, answer))
        .collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.inner().into_data().try_to_vec().unwrap()
}

fn logits(model: &dyn VisionLanguageModel, batch: &[Example]) -> Vec<f32> {
    values(model.forward(batch, &Forward::default()).unwrap().logits)
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        assert!(
            (left - right).abs() <= tolerance,
            "{index}: {left} and {right}"
        );
    }
}

/// Gives every adapter a part in the output.
fn stir_adapters(model: &mut MicroVlm) {
    for param in model
        .params_mut()
        .iter_mut()
        .filter(|param| param.name.contains(".lora_B."))
    {
        let shape = param.value.dims();
        let mut stream = StreamKey::new("stir", 0).text(&param.name).stream();
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| 0.2 * stream.normal() as f32)
            .collect();
        param.value = Tensor::from_data(TensorData::new(values, shape), &Device::flex())
            .autodiff()
            .require_grad();
    }
}

const GREEDY: Sampling = Sampling {
    temperature: 0.0,
    top_p: 1.0,
    top_k: 0,
    max_new_tokens: 8,
    repetition_penalty: 1.0,
    seed: 0,
};
