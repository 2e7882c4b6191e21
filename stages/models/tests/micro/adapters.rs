//! Adapters and their dropout.

use dcsft_models::micro::MicroConfig;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Forward, VisionLanguageModel};

use crate::{assert_close, examples, logits, model, stir_adapters, values};

#[test]
fn fresh_adapters_change_nothing_and_merged_ones_what_they_did_before() {
    let mut model = model(MicroConfig::default());
    let batch = examples(&model);
    let base = logits(&model, &batch);
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    assert_eq!(logits(&model, &batch), base);
    stir_adapters(&mut model);
    let adapted = logits(&model, &batch);
    assert_ne!(adapted, base);
    assert_close(&logits(&*model.frozen(), &batch), &adapted, 1e-4);
    let count = model.params().count();
    model.merge_lora().unwrap();
    assert!(model.params().count() < count && model.lora().is_none());
    assert!(model.params().iter().all(|param| param.trainable));
    assert_close(&logits(&model, &batch), &adapted, 1e-4);
}

#[test]
fn a_second_adapter_is_refused() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    assert!(matches!(
        model.add_lora(&LoraConfig::default(), 0),
        Err(VlmError::Config(_))
    ));
}

#[test]
fn dropout_depends_on_its_key_and_the_sample_alone() {
    let mut model = model(MicroConfig::default());
    model
        .add_lora(
            &LoraConfig {
                dropout: 0.3,
                ..Default::default()
            },
            0,
        )
        .unwrap();
    stir_adapters(&mut model);
    let batch = examples(&model);
    let with = |key: u64, batch: &[Example]| {
        let forward = Forward {
            dropout: Some(StreamKey::new("dropout", key)),
            ..Forward::default()
        };
        values(model.forward(batch, &forward).unwrap().logits)
    };
    let first = with(1, &batch);
    assert_eq!(first, with(1, &batch));
    assert_ne!(first, with(2, &batch));
    assert_ne!(first, logits(&model, &batch));
    let alone = with(1, &batch[1..2]);
    let start = batch[0].answer.len() * 32;
    assert_eq!(first[start..start + alone.len()], alone);
}
