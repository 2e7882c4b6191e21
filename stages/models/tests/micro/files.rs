//! Models on disk.

use burn::tensor::Device;
use dcsft_models::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::VisionLanguageModel;

use crate::{examples, logits, model, stir_adapters, values};

#[test]
fn a_saved_model_comes_back_bit_by_bit() {
    let dir = tempfile::tempdir().unwrap();
    let decoder = BlocksConfig {
        width: 32,
        layers: 1,
        heads: 2,
        mlp_ratio: 3,
    };
    let mut model = model(MicroConfig {
        decoder,
        ..Default::default()
    });
    let batch = examples(&model);
    for adapted in [false, true] {
        if adapted {
            model
                .add_lora(
                    &LoraConfig {
                        rank: 4,
                        ..Default::default()
                    },
                    0,
                )
                .unwrap();
            stir_adapters(&mut model);
        }
        let dir = dir.path().join(adapted.to_string());
        model.save(&dir).unwrap();
        let loaded = MicroVlm::load(&dir, &Device::flex()).unwrap();
        assert_eq!(loaded.config(), model.config());
        assert_eq!(loaded.lora(), model.lora());
        let pairs = loaded.params().iter().zip(model.params().iter());
        for (left, right) in pairs {
            assert_eq!(
                (&left.name, left.trainable, left.decay),
                (&right.name, right.trainable, right.decay)
            );
            assert_eq!(values(left.value.clone()), values(right.value.clone()));
        }
        assert_eq!(logits(&loaded, &batch), logits(&model, &batch));
        assert_eq!(dir.join("adapter_model.safetensors").exists(), adapted);
        let again = dir.join("again");
        loaded.save(&again).unwrap();
        for file in ["config.json", "tokenizer.json", "model.safetensors"] {
            assert_eq!(
                std::fs::read(dir.join(file)).unwrap(),
                std::fs::read(again.join(file)).unwrap(),
                "{file}"
            );
        }
    }
}

#[test]
fn damaged_models_are_refused_with_the_files_name() {
    let dir = tempfile::tempdir().unwrap();
    let model = model(MicroConfig::default());
    let spoil = |file: &str, content: &[u8]| {
        let dir = dir.path().join(content.len().to_string());
        model.save(&dir).unwrap();
        std::fs::write(dir.join(file), content).unwrap();
        let error = MicroVlm::load(&dir, &Device::flex())
            .err()
            .expect("an error")
            .to_string();
        assert!(error.contains(file), "{error}");
        error
    };
    spoil("config.json", b"{}");
    spoil("model.safetensors", b"short");
    let smaller = MicroVlm::new(
        MicroConfig {
            max_text_tokens: 5,
            ..Default::default()
        },
        0,
        &Device::flex(),
    );
    let other = tempfile::tempdir().unwrap();
    smaller.unwrap().save(other.path()).unwrap();
    let error = spoil(
        "model.safetensors",
        &std::fs::read(other.path().join("model.safetensors")).unwrap(),
    );
    assert!(
        error.contains("decoder.positions.weight") && error.contains("[27, 48]"),
        "{error}"
    );
}
