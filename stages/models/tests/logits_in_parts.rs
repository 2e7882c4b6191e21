//! A loss whose logits are in memory a few at a time is the loss on all of them. `DCSFT_TEST_DEVICE` names the device.

mod support;

use dcsft_models::HubModel;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Forward, Prompt, VisionLanguageModel as _};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoTrainer};
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};

use support::compare::values;
use support::model::Golden;

/// Three questions about images of the golden set, the first with two answers.
fn examples(golden: &Golden, model: &HubModel) -> Vec<Example> {
    let answers = [
        (0, "a cat"),
        (0, "two dogs and a cat"),
        (1, "no"),
        (2, "a house"),
    ];
    let images: Vec<_> = golden.images.iter().take(3).collect();
    let example = |(image, answer): (usize, &str)| {
        let (name, image) = images[image];
        let question = "What is shown?";
        Example {
            prompt: Prompt::question(name.clone(), vec![image.clone().into()], None, question),
            answer: model.tokenizer().encode_answer(answer).unwrap().into(),
            earlier: 0,
        }
    };
    answers.map(example).into()
}

fn adapted(golden: &Golden) -> HubModel {
    let mut model = golden.model();
    let lora = LoraConfig {
        rank: 4,
        ..LoraConfig::default()
    };
    model.add_lora(&lora, 1).unwrap();
    model
}

fn run(steps: usize, gradient_checkpointing: bool) -> RunConfig {
    RunConfig {
        steps: Some(steps),
        learning_rate: 1e-3,
        gradient_checkpointing,
        // Where a gradient is next to nothing, AdamW would make a step of its rounding errors.
        eps: 1e-4,
        ..RunConfig::default()
    }
}

/// All weights.
fn weights(model: &HubModel) -> Vec<f32> {
    let params = model.params().iter();
    params
        .flat_map(|param| values(param.value.clone()))
        .collect()
}

fn assert_close(what: &str, whole: &[f64], parts: &[f64]) {
    assert_eq!(whole.len(), parts.len(), "{what}");
    for (whole, parts) in whole.iter().zip(parts) {
        let error = (whole - parts).abs() / whole.abs().max(1e-3);
        assert!(error < 1e-4, "{what}: {whole} and {parts}");
    }
}

fn assert_alike(what: &str, whole: &[f32], parts: &[f32]) {
    let most = whole.iter().zip(parts).map(|(a, b)| (a - b).abs());
    let most = most.fold(0.0, f32::max);
    assert!(most < 1e-5, "{what}: {most}");
}

#[test]
fn golden_the_head_gives_the_logits_of_the_whole_pass() {
    let Some(golden) = Golden::open() else { return };
    let model = adapted(&golden);
    let examples = examples(&golden, &model);
    for checkpointing in [false, true] {
        let forward = Forward {
            checkpointing,
            ..Forward::default()
        };
        let whole = values(model.forward(&examples, &forward).unwrap().logits);
        let below = model.forward_below(&examples, &forward).unwrap().unwrap();
        let parts = values((below.head)(below.rows.clone()));
        assert_eq!(whole.len(), parts.len());
        assert_alike("logits", &whole, &parts);
        assert_eq!(below.tape.is_some(), checkpointing);
    }
}

#[test]
fn golden_sft_learns_the_same_from_logits_in_parts() {
    let Some(golden) = Golden::open() else { return };
    for (adapters, checkpointing) in [(true, false), (true, true), (false, false), (false, true)] {
        let what = format!("adapters: {adapters}, checkpointing: {checkpointing}");
        let run = |tokens: Option<usize>| {
            let mut model = match adapters {
                true => adapted(&golden),
                false => golden.model(),
            };
            let vocabulary = model.tokenizer().vocab_size();
            let examples = examples(&golden, &model);
            let config = SftConfig {
                batch_size: 4,
                run: run(2, checkpointing),
                ..SftConfig::default()
            };
            let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
            if let Some(tokens) = tokens {
                trainer.set_logits_at_once(tokens * vocabulary);
            }
            trainer.run(&mut ()).unwrap();
            let log = trainer.log().iter();
            let log: Vec<f64> = log.flat_map(|step| [step.loss, step.grad_norm]).collect();
            (log, weights(&model))
        };
        let whole = run(None);
        // A sample at a time, and two.
        for tokens in [1, 7] {
            let parts = run(Some(tokens));
            assert_close(&what, &whole.0, &parts.0);
            assert_alike(&what, &whole.1, &parts.1);
        }
    }
}

#[test]
fn golden_grpo_learns_the_same_from_logits_in_parts() {
    let Some(golden) = Golden::open() else { return };
    let run = |tokens: Option<usize>| {
        let mut model = adapted(&golden);
        let reference = golden.model().frozen();
        let vocabulary = model.tokenizer().vocab_size();
        let examples = examples(&golden, &model);
        let prompts: Vec<Prompt> = examples[1..]
            .iter()
            .map(|each| each.prompt.clone())
            .collect();
        let config = GrpoConfig {
            prompts_per_step: 2,
            generations: 3,
            max_new_tokens: 4,
            // With a reference, and log-probabilities from before the updates.
            beta: 0.1,
            updates_per_batch: 2,
            run: run(2, false),
            ..GrpoConfig::default()
        };
        let data = GrpoData {
            prompts: &prompts,
            difficulty: &[],
            bins: 1,
        };
        let reward = |_: usize, text: &str| text.len() as f32;
        let reference = Some(reference.as_ref());
        let trainer = GrpoTrainer::new(config, &mut model, reference, data, &reward);
        let mut trainer = trainer.unwrap();
        if let Some(tokens) = tokens {
            trainer.set_logits_at_once(tokens * vocabulary);
        }
        trainer.run(&mut ()).unwrap();
        let log = trainer.log().iter();
        let log = log.flat_map(|step| {
            let kl = step.kl.expect("with a reference");
            [step.grad_norm, step.entropy, step.bins[0].gradient, kl]
        });
        (log.collect::<Vec<f64>>(), weights(&model))
    };
    let (whole, parts) = (run(None), run(Some(5)));
    assert_close("grpo", &whole.0, &parts.0);
    assert_alike("grpo", &whole.1, &parts.1);
}
