//! Whole training runs of a tiny model: what they learn, what they log, and that a stopped run goes on with the
//! same bytes.

mod grpo;
mod minibatches;
mod rejection;
mod resume;
mod sft;

use std::error::Error;

use burn::tensor::Device;
use dcsft_models::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::train::{Checkpoint, Observer};

const ANSWERS: [&str; 4] = ["disk", "box", "tri", "moon"];

fn model() -> MicroVlm {
    let blocks = BlocksConfig {
        width: 16,
        layers: 1,
        heads: 2,
        mlp_ratio: 2,
    };
    let config = MicroConfig {
        image_size: 8,
        vision: blocks.clone(),
        decoder: blocks,
        ..MicroConfig::default()
    };
    MicroVlm::new(config, 5, &Device::flex()).expect("a model")
}

fn adapted() -> MicroVlm {
    let mut model = model();
    model
        .add_lora(
            &LoraConfig {
                rank: 4,
                dropout: 0.1,
                ..LoraConfig::default()
            },
            1,
        )
        .expect("adapters");
    model
}

/// `count` images of noise, each with one of the answers.
fn examples(model: &MicroVlm, count: usize) -> Vec<Example> {
    (0..count)
        .map(|index| {
            let mut noise = StreamKey::new("test image", 0)
                .number(index as u64)
                .stream();
            let pixels: Vec<u8> = (0..8 * 8 * 3).map(|_| noise.below(256) as u8).collect();
            let image = RgbImage {
                width: 8,
                height: 8,
                pixels: pixels.into(),
            };
            let mut answer = model
                .tokenizer()
                .encode(ANSWERS[index % 4])
                .expect("known letters");
            answer.push(model.tokenizer().eos());
            let prompt = Prompt::question(
                format!("sample-{index}"),
                vec![image.into()],
                None,
                "object?",
            );
            Example {
                prompt,
                answer: answer.into(),
                earlier: 0,
            }
        })
        .collect()
}

fn prompts(model: &MicroVlm, count: usize) -> Vec<Prompt> {
    examples(model, count)
        .into_iter()
        .map(|example| example.prompt)
        .collect()
}

fn accuracy(model: &dyn VisionLanguageModel, examples: &[Example]) -> f64 {
    let prompts: Vec<Prompt> = examples
        .iter()
        .map(|example| example.prompt.clone())
        .collect();
    let greedy = Sampling {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        max_new_tokens: 6,
        repetition_penalty: 1.0,
        seed: 0,
    };
    let answers = model.generate(&prompts, 0..1, &greedy).expect("answers");
    let right = answers
        .iter()
        .zip(examples)
        .filter(|(answer, example)| answer[0].tokens == *example.answer)
        .count();
    right as f64 / examples.len() as f64
}

fn weights(model: &dyn VisionLanguageModel) -> Vec<(String, Vec<u8>)> {
    let bytes =
        |value: &burn::tensor::Tensor<2>| value.clone().inner().into_data().as_bytes().to_vec();
    model
        .params()
        .iter()
        .map(|param| (param.name.clone(), bytes(&param.value)))
        .collect()
}

/// Stops a run after some steps; keeps what checkpoints it saw.
#[derive(Default)]
struct Watch {
    stop_after: Option<usize>,
    steps: usize,
    checkpoints: Vec<usize>,
}

impl<R> Observer<R> for Watch {
    fn step(&mut self, _total: usize, _record: &R) {
        self.steps += 1;
    }
    fn checkpoint(
        &mut self,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.checkpoints.push(checkpoint.step);
        Ok(())
    }
    fn should_stop(&mut self) -> bool {
        self.stop_after == Some(self.steps)
    }
}
