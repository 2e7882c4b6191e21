//! Sizes, names and what does not fit.

use burn::tensor::Device;
use dcsft_models::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Prompt, Sampling, VisionLanguageModel};

use crate::{GREEDY, model, prompt, values};

#[test]
fn the_micro_worlds_model_has_the_recipes_number_of_parameters() {
    let model = model(MicroConfig::default());
    assert_eq!(model.tokenizer().vocab_size(), 32);
    // The recipe counts the auxiliary classifier of pre-training: 48 x 16 weights and 16 biases.
    assert_eq!(model.params().count() + 48 * 16 + 16, 86_688);
}

#[test]
fn adapters_go_on_eighteen_layers() {
    let mut model = model(MicroConfig::default());
    model.add_lora(&LoraConfig::default(), 0).unwrap();
    let trainable: Vec<&str> = model
        .params()
        .iter()
        .filter(|param| param.trainable)
        .map(|param| &*param.name)
        .collect();
    assert_eq!(trainable.len(), 2 * 18);
    assert!(
        trainable
            .iter()
            .all(|name| name.contains("lora_") && !name.starts_with("head"))
    );
}

#[test]
fn what_does_not_fit_the_model_is_named() {
    let model = model(MicroConfig::default());
    let check = |prompt: Prompt, answer: &[u32]| model.check(&prompt, answer).unwrap_err();
    assert!(matches!(
        check(prompt("a", "What is it?"), &[1]),
        VlmError::Vocabulary { .. }
    ));
    let long = check(prompt("a", "object?"), &[5; 12]);
    assert!(
        matches!(
            long,
            VlmError::TooLong {
                needed: 12,
                room: 11,
                ..
            }
        ),
        "{long}"
    );
    assert!(
        check(prompt("a", "object?"), &[])
            .to_string()
            .contains("end token")
    );
    assert!(
        check(prompt("a", "object?"), &[32])
            .to_string()
            .contains("ends at 31")
    );
    assert!(
        check(prompt("a", "<image><image>object?"), &[1])
            .to_string()
            .contains("one image")
    );
    let mut broken = prompt("a", "object?");
    let mut image = broken.images[0].load().unwrap().into_owned();
    image.width = 17;
    broken.images[0] = image.into();
    assert!(check(broken, &[1]).to_string().contains("17 x 16"));
    for sizes in [
        MicroConfig {
            patch_size: 5,
            ..Default::default()
        },
        MicroConfig {
            image_size: 0,
            ..Default::default()
        },
        MicroConfig {
            vision: BlocksConfig {
                heads: 5,
                ..Default::default()
            },
            ..Default::default()
        },
    ] {
        assert!(matches!(
            MicroVlm::new(sizes, 0, &Device::flex()),
            Err(VlmError::Config(_))
        ));
    }
}

#[test]
fn impossible_sampling_settings_are_named() {
    let model = model(MicroConfig::default());
    let error = |sampling: Sampling| {
        let answers = model.generate(&[prompt("a", "object?")], 0..1, &sampling);
        answers.expect_err("impossible settings").to_string()
    };
    for temperature in [-1.0, 1e-300, f64::NAN, f64::INFINITY] {
        let message = error(Sampling {
            temperature,
            ..GREEDY
        });
        assert!(message.starts_with("temperature must be"), "{message}");
    }
    for top_p in [0.0, 1.5, f64::NAN] {
        assert!(error(Sampling { top_p, ..GREEDY }).starts_with("top_p must be"));
    }
    assert!(
        error(Sampling {
            max_new_tokens: 0,
            ..GREEDY
        })
        .starts_with("max_new_tokens")
    );
}

#[test]
fn the_seed_makes_the_weights() {
    let first = |seed| {
        values(
            MicroVlm::new(MicroConfig::default(), seed, &Device::flex())
                .unwrap()
                .params()
                .iter()
                .next()
                .unwrap()
                .value
                .clone(),
        )
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}
