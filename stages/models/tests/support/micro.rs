//! A small micro VLM on a device, with prompts and examples.

use burn::tensor::{Device, Tensor, TensorData};
use dcsft_models::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::model::{Example, Prompt, RgbImage, VisionLanguageModel as _};

const SIDE: usize = 8;
const QUESTIONS: [&str; 3] = ["object?", "scene?", "caption"];
const ANSWERS: [&str; 4] = ["disk", "box", "tri on sky", "a"];

/// With a decoder of `layers` layers and random weights.
pub(crate) fn model(layers: usize, device: &Device) -> MicroVlm {
    let blocks = |layers| BlocksConfig {
        width: 16,
        layers,
        heads: 2,
        mlp_ratio: 2,
    };
    let config = MicroConfig {
        image_size: SIDE,
        vision: blocks(1),
        decoder: blocks(layers),
        ..MicroConfig::default()
    };
    MicroVlm::new(config, 5, device).unwrap()
}

pub(crate) fn prompts(count: usize) -> Vec<Prompt> {
    let prompt = |index: usize| {
        let mut noise = StreamKey::new("image", 0).number(index as u64).stream();
        let pixels: Vec<u8> = (0..SIDE * SIDE * 3)
            .map(|_| noise.below(256) as u8)
            .collect();
        let image = RgbImage {
            width: SIDE as u32,
            height: SIDE as u32,
            pixels: pixels.into(),
        };
        let question = QUESTIONS[index % QUESTIONS.len()];
        Prompt::question(
            format!("sample {index}"),
            vec![image.into()],
            None,
            question,
        )
    };
    (0..count).map(prompt).collect()
}

pub(crate) fn examples(model: &MicroVlm, count: usize) -> Vec<Example> {
    let answers = ANSWERS.iter().cycle();
    let example = |(prompt, answer): (Prompt, &&str)| Example {
        prompt,
        answer: model.tokenizer().encode_answer(answer).unwrap().into(),
        earlier: 0,
    };
    prompts(count)
        .into_iter()
        .zip(answers)
        .map(example)
        .collect()
}

/// Gives every adapter a part in the output.
pub(crate) fn stir_adapters(model: &mut MicroVlm, device: &Device) {
    let adapters = model.params_mut().iter_mut();
    for param in adapters.filter(|param| param.name.contains(".lora_B.")) {
        let shape = param.value.dims();
        let mut stream = StreamKey::new("stir", 0).text(&param.name).stream();
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| 0.2 * stream.normal() as f32)
            .collect();
        param.value = Tensor::from_data(TensorData::new(values, shape), device)
            .autodiff()
            .require_grad();
    }
}
