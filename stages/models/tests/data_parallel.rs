//! A run on several devices has the bytes of a run on one. `DCSFT_TEST_DEVICE` names the device; where there is no second of
//! its class, two copies of the model are on the same.

mod support;

use burn::tensor::Device;
use dcsft_models::HubModel;
use dcsft_tensor::device::test_devices;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Example, Prompt, VisionLanguageModel};
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoTrainer};
use dcsft_vlm::train::sft::{AuxiliaryConfig, SftConfig, SftTrainer};
use dcsft_vlm::train::{Objective, RunConfig, Trainer};

use support::micro;
use support::model::Golden;

/// All weights, by name, as bytes.
type Bytes = Vec<(String, Vec<u8>)>;

fn bytes(model: &dyn VisionLanguageModel) -> Bytes {
    let read =
        |value: &burn::tensor::Tensor<2>| value.clone().inner().into_data().as_bytes().to_vec();
    let params = model.params().iter();
    params
        .map(|param| (param.name.clone(), read(&param.value)))
        .collect()
}

/// The first device's copy of a model, and what other devices there are: none, one, or three of which one is the first again.
fn teams() -> (Device, [Vec<Device>; 3]) {
    let [first, second] = test_devices();
    let all = vec![second.clone(), first.clone(), second.clone()];
    (first, [Vec::new(), vec![second], all])
}

/// The same run on one, two and four devices: log and weights.
fn same_bytes(what: &str, run: impl Fn(&Device, &[Device]) -> (String, Bytes)) {
    let (first, teams) = teams();
    let alone = run(&first, &teams[0]);
    for others in &teams[1..] {
        let spread = run(&first, others);
        let devices = 1 + others.len();
        assert_eq!(alone.0, spread.0, "{what}: log on {devices} devices");
        assert!(alone.1 == spread.1, "{what}: weights on {devices} devices");
    }
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 4,
        dropout: 0.1,
        ..LoraConfig::default()
    }
}

fn run(steps: usize) -> RunConfig {
    RunConfig {
        steps: Some(steps),
        learning_rate: 1e-2,
        seed: 4,
        ..RunConfig::default()
    }
}

fn steps<O: Objective>(trainer: &mut Trainer<'_, O>, others: &[Device]) {
    trainer.spread(others);
    trainer.run(&mut ()).unwrap();
}

fn log<R: serde::Serialize>(records: &[R]) -> String {
    serde_json::to_string(records).unwrap()
}

/// Two samples a pass: with five passes an update four devices take more than one turn.
fn sft() -> SftConfig {
    SftConfig {
        batch_size: 2,
        gradient_accumulation: 5,
        run: run(3),
        ..SftConfig::default()
    }
}

#[test]
fn sft_has_the_bytes_of_one_device() {
    for adapters in [true, false] {
        same_bytes(&format!("adapters: {adapters}"), |first, others| {
            let mut model = micro::model(2, first);
            if adapters {
                model.add_lora(&lora(), 1).unwrap();
            }
            let examples = micro::examples(&model, 12);
            let labels: Vec<u32> = (0..12).map(|index| index % 3).collect();
            let config = SftConfig {
                auxiliary: Some(AuxiliaryConfig {
                    label: "shape".to_owned(),
                    weight: 0.5,
                }),
                ..sft()
            };
            let labels = Some(&labels[..]);
            let mut trainer = SftTrainer::new(config, &mut model, &examples, labels).unwrap();
            steps(&mut trainer, others);
            (log(trainer.log()), bytes(&model))
        });
    }
}

/// The part of an answer's letters that are vowels.
fn vowels(_: usize, answer: &str) -> f32 {
    let letters = answer.chars().filter(|letter| "aeiou".contains(*letter));
    letters.count() as f32 / answer.chars().count().max(1) as f32
}

fn grpo() -> GrpoConfig {
    GrpoConfig {
        prompts_per_step: 5,
        generations: 4,
        max_new_tokens: 5,
        temperature: 1.0,
        forward_batch: 3,
        generation_batch: 2,
        steps_per_generation: 2,
        beta: 0.1,
        run: run(2),
        ..GrpoConfig::default()
    }
}

fn data(prompts: &[Prompt]) -> GrpoData<'_> {
    GrpoData {
        prompts,
        difficulty: &[],
        bins: 1,
    }
}

#[test]
fn grpo_has_the_bytes_of_one_device() {
    for adapters in [true, false] {
        same_bytes(&format!("adapters: {adapters}"), |first, others| {
            let mut model = micro::model(1, first);
            let reference = model.frozen();
            if adapters {
                model.add_lora(&lora(), 1).unwrap();
            }
            let prompts = micro::prompts(6);
            let reference = Some(reference.as_ref());
            let data = data(&prompts);
            let trainer = GrpoTrainer::new(grpo(), &mut model, reference, data, &vowels);
            let mut trainer = trainer.unwrap();
            trainer.keep_completions();
            steps(&mut trainer, others);
            let answers = trainer.completions().unwrap().to_vec();
            let log = log(trainer.log()) + &String::from_utf8(answers).unwrap();
            (log, bytes(&model))
        });
    }
}

#[test]
fn a_stopped_run_goes_on_with_other_devices() {
    let (first, [none, one, three]) = teams();
    let run = |parts: [&[Device]; 2]| {
        let folder = tempfile::tempdir().unwrap();
        let mut done = None;
        for (part, others) in parts.into_iter().enumerate() {
            let mut model = micro::model(1, &first);
            model.add_lora(&lora(), 1).unwrap();
            let examples = micro::examples(&model, 12);
            let mut trainer = SftTrainer::new(sft(), &mut model, &examples, None).unwrap();
            trainer.spread(others);
            match part {
                0 => {
                    trainer.step().unwrap();
                    trainer.save_state(folder.path(), "a key").unwrap();
                }
                _ => {
                    trainer.restore(folder.path(), "a key").unwrap();
                    trainer.run(&mut ()).unwrap();
                    done = Some((log(trainer.log()), bytes(&model)));
                }
            }
        }
        done.unwrap()
    };
    let alone = run([&none, &none]);
    assert!(alone == run([&one, &three]), "two devices, then four");
    assert!(alone == run([&three, &none]), "four devices, then one");
}

/// The images of the golden set with questions and answers of our own.
fn examples(golden: &Golden, model: &HubModel) -> Vec<Example> {
    let images = golden.images.iter().take(4).enumerate();
    images
        .map(|(index, (name, image))| Example {
            prompt: Prompt::question(
                name.clone(),
                vec![image.clone().into()],
                None,
                "What is shown?",
            ),
            answer: model
                .tokenizer()
                .encode_answer(["a cat", "two dogs"][index % 2])
                .unwrap()
                .into(),
            earlier: 0,
        })
        .collect()
}

#[test]
fn golden_a_checkpoint_has_the_bytes_of_one_device() {
    let Some(golden) = Golden::open() else { return };
    for (adapters, checkpointing) in [(true, true), (false, true), (false, false)] {
        let what = format!("adapters: {adapters}, checkpointing: {checkpointing}");
        same_bytes(&what, |_, others| {
            let mut model = golden.model();
            if adapters {
                model.add_lora(&lora(), 1).unwrap();
            }
            let examples = examples(&golden, &model);
            let config = SftConfig {
                batch_size: 1,
                gradient_accumulation: 3,
                run: RunConfig {
                    gradient_checkpointing: checkpointing,
                    ..run(2)
                },
                ..SftConfig::default()
            };
            let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
            steps(&mut trainer, others);
            (log(trainer.log()), bytes(&model))
        });
    }
}

#[test]
fn what_the_optimiser_keeps_in_the_machines_memory_changes_no_step() {
    let (first, [none, one, _]) = teams();
    let run = |offload_optimizer, others: &[Device]| {
        let mut model = micro::model(1, &first);
        let examples = micro::examples(&model, 12);
        let config = SftConfig {
            run: RunConfig {
                offload_optimizer,
                ..run(3)
            },
            ..sft()
        };
        let mut trainer = SftTrainer::new(config, &mut model, &examples, None).unwrap();
        steps(&mut trainer, others);
        bytes(&model)
    };
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let values = bytes.as_chunks::<4>().0.iter();
        values.map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    let (there, here) = (run(false, &none), run(true, &none));
    assert!(here == run(true, &one), "on two devices");
    for ((name, there), (_, here)) in there.iter().zip(&here) {
        let (there, here) = (floats(there), floats(here));
        let size = there
            .iter()
            .fold(1e-3f32, |most, value| most.max(value.abs()));
        for (there, here) in there.iter().zip(&here) {
            assert!((there - here).abs() < 1e-4 * size, "{name}: {there} {here}");
        }
    }
    if first == Device::flex() {
        assert!(there == here, "the CPU makes the same updates");
    }
}
