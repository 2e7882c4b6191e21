//! Whole training runs of a tiny model: what they learn, what they log, and that a stopped run goes on with the
//! same bytes.

use std::error::Error;
use std::path::Path;

use burn::tensor::Device;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::micro::{BlocksConfig, MicroConfig, MicroVlm};
use dcsft_vlm::model::{Example, Prompt, RgbImage, Sampling, VisionLanguageModel};
use dcsft_vlm::rng::StreamKey;
use dcsft_vlm::train::augment::Augment;
use dcsft_vlm::train::grpo::loss::LossType;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoData, GrpoRecord, GrpoTrainer};
use dcsft_vlm::train::schedule::Schedule;
use dcsft_vlm::train::sft::{AuxiliaryConfig, SftConfig, SftRecord, SftTrainer};
use dcsft_vlm::train::{Checkpoint, Observer, STATE_FILE};

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
            let prompt = Prompt {
                id: format!("sample-{index}").into(),
                image: image.into(),
                text: "object?".into(),
            };
            Example {
                prompt,
                answer: answer.into(),
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
    checkpoints: Vec<(usize, bool)>,
}

impl<R> Observer<R> for Watch {
    fn step(&mut self, _total: usize, _record: &R) {
        self.steps += 1;
    }
    fn checkpoint(
        &mut self,
        checkpoint: &Checkpoint<'_>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.checkpoints.push((checkpoint.step, checkpoint.last));
        Ok(())
    }
    fn should_stop(&mut self) -> bool {
        self.stop_after == Some(self.steps)
    }
}

fn sft_config(steps: usize) -> SftConfig {
    SftConfig {
        steps: Some(steps),
        batch_size: 4,
        gradient_accumulation: 2,
        learning_rate: 5e-3,
        augment: Augment {
            flip: true,
            shift: 1,
        },
        auxiliary: Some(AuxiliaryConfig {
            label: "class".to_owned(),
            weight: 0.5,
        }),
        save_steps: 4,
        seed: 3,
        ..SftConfig::default()
    }
}

fn labels(count: u32) -> Vec<u32> {
    (0..count).map(|index| index % 4).collect()
}

#[test]
fn sft_learns_sixteen_samples_by_heart() {
    let mut model = model();
    let examples = examples(&model, 16);
    assert!(accuracy(&model, &examples) < 0.5);
    let config = SftConfig {
        steps: Some(150),
        batch_size: 16,
        learning_rate: 1e-2,
        weight_decay: 0.0,
        schedule: Schedule::Constant,
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
    let summary = trainer.run(&mut ()).expect("a run");
    assert!(summary.finished && summary.loss < 0.05, "{summary:?}");
    assert_eq!(trainer.log().len(), 150);
    assert_eq!(accuracy(trainer.model(), &examples), 1.0);
}

#[test]
fn adapters_learn_while_the_base_stays_as_it_was() {
    let mut model = adapted();
    let before = weights(&model);
    let examples = examples(&model, 16);
    let config = SftConfig {
        steps: Some(60),
        learning_rate: 1e-2,
        weight_decay: 0.0,
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let log = trainer.log();
    assert!(
        log[59].loss < 0.5 * log[0].loss,
        "{} -> {}",
        log[0].loss,
        log[59].loss
    );
    let changed: Vec<bool> = weights(&model)
        .iter()
        .zip(&before)
        .map(|(now, then)| now != then)
        .collect();
    let trainable: Vec<bool> = model.params().iter().map(|param| param.trainable).collect();
    assert_eq!(changed, trainable);
}

#[test]
fn micro_batches_give_the_loss_and_gradient_of_the_whole_batch() {
    let run = |batch_size, gradient_accumulation| {
        let mut model = model();
        // Answers of different lengths: a mean of means would be another loss.
        let examples = examples(&model, 8);
        let labels = labels(8);
        let config = SftConfig {
            batch_size,
            gradient_accumulation,
            ..sft_config(3)
        };
        let mut trainer =
            SftTrainer::new(config, &mut model, &examples, Some(&labels)).expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.log().to_vec()
    };
    let (whole, parts) = (run(8, 1), run(2, 4));
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!(
            (whole.loss - parts.loss).abs() < 1e-5,
            "{} {}",
            whole.loss,
            parts.loss
        );
        assert!((whole.grad_norm - parts.grad_norm).abs() < 1e-4 * whole.grad_norm);
        assert_eq!((whole.samples, whole.tokens), (parts.samples, parts.tokens));
        let auxiliary = |record: &SftRecord| record.auxiliary_loss.expect("an auxiliary loss");
        assert!((auxiliary(whole) - auxiliary(parts)).abs() < 1e-5);
    }
}

#[test]
fn checkpoints_come_at_every_save_step_and_at_the_end() {
    let mut model = model();
    let examples = examples(&model, 8);
    let labels = labels(8);
    let mut watch = Watch::default();
    let mut trainer =
        SftTrainer::new(sft_config(10), &mut model, &examples, Some(&labels)).expect("a trainer");
    trainer.run(&mut watch).expect("a run");
    assert_eq!(watch.checkpoints, [(4, false), (8, false), (10, true)]);
}

/// Trains in one go, or stopped after `stops` steps and restored into a fresh model each time.
fn sft_run(
    fresh: fn() -> MicroVlm,
    config: &SftConfig,
    stops: &[usize],
    dir: &Path,
) -> (Vec<(String, Vec<u8>)>, Vec<SftRecord>) {
    let mut made = 0;
    for (part, stop) in stops.iter().copied().map(Some).chain([None]).enumerate() {
        let mut model = fresh();
        let examples = examples(&model, 12);
        let labels = labels(12);
        let mut trainer = SftTrainer::new(config.clone(), &mut model, &examples, Some(&labels))
            .expect("a trainer");
        if part > 0 {
            trainer.restore(dir).expect("a state");
        }
        assert_eq!(trainer.steps_done(), made);
        let mut watch = Watch {
            stop_after: stop.map(|stop| stop - made),
            ..Watch::default()
        };
        let summary = trainer.run(&mut watch).expect("a run");
        made = trainer.steps_done();
        if stop.is_none() {
            assert!(summary.finished);
            let log = trainer.log().to_vec();
            return (weights(&model), log);
        }
        assert!(!summary.finished);
        trainer.save_state(dir).expect("a saved state");
    }
    unreachable!("the last part returns")
}

#[test]
fn a_stopped_sft_run_ends_with_the_same_bytes() {
    for (fresh, seed) in [(model as fn() -> MicroVlm, 0), (adapted, 1), (model, 2)] {
        let config = sft_config(12);
        let dir = tempfile::tempdir().expect("a folder");
        let straight = sft_run(fresh, &config, &[], dir.path());
        let mut random = StreamKey::new("stops", seed).stream();
        let first = 1 + random.below(9) as usize;
        let stops = [first, first + 1 + random.below(11 - first as u64) as usize];
        let stopped = sft_run(fresh, &config, &stops, dir.path());
        assert_eq!(straight.1, stopped.1, "logs, stopped after {stops:?}");
        assert!(straight.0 == stopped.0, "weights, stopped after {stops:?}");
    }
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a pool");
        pool.install(|| {
            let dir = tempfile::tempdir().expect("a folder");
            let sft = sft_run(adapted, &sft_config(4), &[], dir.path());
            let mut model = adapted();
            let reference = model.frozen();
            let prompts = prompts(&model, 7);
            let mut trainer = GrpoTrainer::new(
                grpo_config(3),
                &mut model,
                Some(&*reference),
                data(&prompts),
                &reward_a,
            )
            .expect("a trainer");
            trainer.run(&mut ()).expect("a run");
            let log = trainer.log().to_vec();
            (sft, weights(&model), log)
        })
    };
    let (one, three) = (run(1), run(3));
    assert_eq!((&one.0.1, &one.2), (&three.0.1, &three.2), "logs");
    assert!((one.0.0, one.1) == (three.0.0, three.1), "weights");
}

#[test]
fn a_run_can_be_made_longer_where_its_schedule_allows() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = |steps, schedule| SftConfig {
        schedule,
        warmup_steps: Some(2),
        ..sft_config(steps)
    };
    let examples = examples(&model(), 12);
    let labels = labels(12);
    for (schedule, allowed) in [(Schedule::Constant, true), (Schedule::Cosine, false)] {
        let mut short = model();
        let mut trainer =
            SftTrainer::new(config(5, schedule), &mut short, &examples, Some(&labels))
                .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.save_state(dir.path()).expect("a saved state");
        let mut long = model();
        let mut trainer = SftTrainer::new(config(9, schedule), &mut long, &examples, Some(&labels))
            .expect("a trainer");
        let restored = trainer.restore(dir.path());
        assert_eq!(restored.is_ok(), allowed, "{schedule:?}: {restored:?}");
        if let Err(error) = restored {
            assert!(error.to_string().contains("learning rate"), "{error}");
            continue;
        }
        trainer.run(&mut ()).expect("a run");
        let mut straight = model();
        let mut whole =
            SftTrainer::new(config(9, schedule), &mut straight, &examples, Some(&labels))
                .expect("a trainer");
        whole.run(&mut ()).expect("a run");
        assert!(weights(trainer.model()) == weights(whole.model()));
    }
}

#[test]
fn a_state_of_another_run_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut source, mut other) = (model(), adapted());
    let examples = examples(&source, 12);
    let labels = labels(12);
    let mut trainer =
        SftTrainer::new(sft_config(2), &mut source, &examples, Some(&labels)).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    trainer.save_state(dir.path()).expect("a saved state");
    let refused =
        |config: SftConfig, model: &mut MicroVlm, examples: &[Example], labels: &[u32]| {
            let mut trainer =
                SftTrainer::new(config, model, examples, Some(labels)).expect("a trainer");
            let before = weights(trainer.model());
            let error = trainer
                .restore(dir.path())
                .expect_err("the state is refused")
                .to_string();
            assert!(
                weights(trainer.model()) == before,
                "a refused state changes nothing"
            );
            assert!(error.contains(STATE_FILE), "{error}");
            error
        };
    let mut same = model();
    let betas = SftConfig {
        betas: [0.5, 0.9],
        ..sft_config(2)
    };
    assert!(refused(betas, &mut same, &examples, &labels).contains("`betas` = [0.9,0.999]"));
    assert!(refused(sft_config(2), &mut same, &examples[..8], &labels[..8]).contains("other data"));
    assert!(refused(sft_config(2), &mut other, &examples, &labels).contains("another model"));
    assert!(refused(sft_config(1), &mut same, &examples, &labels).contains("2 steps"));
    let path = dir.path().join(STATE_FILE);
    let bytes = std::fs::read(&path).expect("the state");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("half a state");
    assert!(refused(sft_config(2), &mut same, &examples, &labels).contains("no trainer state"));
}

#[test]
fn bad_settings_and_data_are_named() {
    let mut model = model();
    let mut good = examples(&model, 8);
    let mut error = |config: SftConfig, examples: &[Example], labels: Option<&[u32]>| {
        SftTrainer::new(config, &mut model, examples, labels)
            .err()
            .expect("refused")
            .to_string()
    };
    let plain = SftConfig {
        steps: Some(1),
        ..SftConfig::default()
    };
    let with = |change: fn(&mut SftConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        config
    };
    for (config, field) in [
        (
            with(|config| config.learning_rate = -1.0),
            "`learning_rate` is -1",
        ),
        (with(|config| config.batch_size = 0), "`batch_size` is 0"),
        (with(|config| config.betas = [0.9, 1.0]), "`betas` is 1"),
        (
            with(|config| config.epochs = Some(2.0)),
            "`epochs` is given too",
        ),
        (
            with(|config| config.warmup_ratio = 1.5),
            "`warmup_ratio` is 1.5",
        ),
    ] {
        let error = error(config, &good, None);
        assert!(error.contains(field), "{error}");
    }
    assert!(error(plain.clone(), &[], None).contains("no samples"));
    assert!(error(sft_config(1), &good, Some(&[0, 1])).contains("2 labels for 8 samples"));
    good[3].answer = [].into();
    assert!(error(plain, &good, None).contains("sample-3"));
}

/// The part of an answer's letters that are an `a`.
fn reward_a(_: usize, answer: &str) -> f32 {
    answer.chars().filter(|letter| *letter == 'a').count() as f32
        / answer.chars().count().max(4) as f32
}

fn grpo_config(steps: usize) -> GrpoConfig {
    GrpoConfig {
        steps: Some(steps),
        prompts_per_step: 4,
        generations: 6,
        max_new_tokens: 4,
        temperature: 1.0,
        learning_rate: 1e-2,
        weight_decay: 0.0,
        schedule: Schedule::Constant,
        seed: 2,
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
fn grpo_raises_the_reward() {
    for loss_type in [
        LossType::Grpo,
        LossType::DrGrpo,
        LossType::Dapo,
        LossType::Bnpo,
    ] {
        let mut model = model();
        let reference = model.frozen();
        let prompts = prompts(&model, 8);
        let config = GrpoConfig {
            loss_type,
            ..grpo_config(60)
        };
        let mut trainer = GrpoTrainer::new(
            config,
            &mut model,
            Some(&*reference),
            data(&prompts),
            &reward_a,
        )
        .expect("a trainer");
        let summary = trainer.run(&mut ()).expect("a run");
        let log = trainer.log();
        let start = log[..6].iter().map(|record| record.reward).sum::<f64>() / 6.0;
        assert!(
            summary.reward > start + 0.4,
            "{loss_type:?}: {start} -> {}",
            summary.reward
        );
        let kl = |record: &GrpoRecord| record.kl.expect("a KL estimate");
        assert!(
            kl(&log[0]).abs() < 1e-6 && kl(&log[59]) > 0.1,
            "{} {}",
            kl(&log[0]),
            kl(&log[59])
        );
    }
}

#[test]
fn the_kl_term_holds_the_policy_to_the_reference() {
    let run = |beta| {
        let mut model = model();
        let reference = model.frozen();
        let prompts = prompts(&model, 8);
        let config = GrpoConfig {
            beta,
            ..grpo_config(40)
        };
        let mut trainer = GrpoTrainer::new(
            config,
            &mut model,
            Some(&*reference),
            data(&prompts),
            &reward_a,
        )
        .expect("a trainer");
        trainer.run(&mut ()).expect("a run").reward
    };
    let (loose, tight) = (run(0.0), run(5.0));
    assert!(loose > tight + 0.3, "{loose} {tight}");
}

#[test]
fn groups_of_equal_rewards_teach_nothing() {
    let mut model = model();
    let before = weights(&model);
    let prompts = prompts(&model, 8);
    let constant = |index: usize, _: &str| if index < 4 { 1.0 } else { 0.0 };
    let difficulty = [0, 0, 0, 0, 1, 1, 1, 1];
    let data = GrpoData {
        prompts: &prompts,
        difficulty: &difficulty,
        bins: 2,
    };
    let config = GrpoConfig {
        beta: 0.0,
        prompts_per_step: 8,
        ..grpo_config(3)
    };
    let mut trainer =
        GrpoTrainer::new(config, &mut model, None, data, &constant).expect("a trainer");
    let summary = trainer.run(&mut ()).expect("a run");
    for record in trainer.log() {
        assert_eq!(
            (record.groups, record.all_right, record.all_wrong),
            (8, 4, 4)
        );
        assert_eq!(
            (record.loss, record.grad_norm, record.distinct_answers),
            (0.0, 0.0, 0)
        );
        assert_eq!(
            (record.kl, record.reward, record.reward_std),
            (None, 0.5, 0.0)
        );
    }
    assert_eq!(summary.zero_advantage, 1.0);
    assert!(
        weights(&model) == before,
        "zero gradients and no decay leave the weights alone"
    );
}

#[test]
fn the_gradient_is_laid_to_the_bin_it_comes_from() {
    let mut model = model();
    let reference = model.frozen();
    let prompts = prompts(&model, 9);
    let difficulty: Vec<usize> = (0..9).map(|index| index % 3).collect();
    // Bin 0 is always right, bin 2 always wrong, and bin 1 depends on the answer.
    let reward = |index: usize, answer: &str| match index % 3 {
        0 => 1.0,
        1 => f32::from(u8::from(answer.starts_with(|letter: char| letter < 'n'))),
        _ => 0.0,
    };
    let data = GrpoData {
        prompts: &prompts,
        difficulty: &difficulty,
        bins: 3,
    };
    let config = GrpoConfig {
        prompts_per_step: 9,
        ..grpo_config(6)
    };
    let mut trainer =
        GrpoTrainer::new(config, &mut model, Some(&*reference), data, &reward).expect("a trainer");
    let summary = trainer.run(&mut ()).expect("a run");
    let shares = |value: fn(&dcsft_vlm::train::grpo::BinShare) -> f64| -> Vec<f64> {
        summary.bins.iter().map(value).collect()
    };
    assert_eq!(shares(|bin| bin.group_share), [1.0 / 3.0; 3]);
    assert_eq!(shares(|bin| bin.advantage_share), [0.0, 1.0, 0.0]);
    let gradient = shares(|bin| bin.gradient_share);
    assert!(
        gradient[1] > 0.8 && gradient[0] > 0.0,
        "the KL term reaches all bins: {gradient:?}"
    );
    assert!((gradient.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert!(summary.bins[1].total.mixed > 0 && summary.bins[0].total.mixed == 0);
}

#[test]
fn several_updates_per_batch_clip_ratios_that_went_far() {
    let run = |updates_per_batch| {
        let mut model = model();
        let prompts = prompts(&model, 8);
        let config = GrpoConfig {
            beta: 0.0,
            updates_per_batch,
            learning_rate: 3e-2,
            ..grpo_config(8)
        };
        let mut trainer = GrpoTrainer::new(config, &mut model, None, data(&prompts), &reward_a)
            .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer
            .log()
            .iter()
            .map(|record| record.clip_low + record.clip_high)
            .sum::<f64>()
    };
    assert_eq!(run(1), 0.0, "the first update's ratios are 1");
    assert!(run(4) > 0.0);
}

#[test]
fn smaller_forward_batches_give_the_same_loss() {
    let run = |forward_batch| {
        let mut model = model();
        let reference = model.frozen();
        let prompts = prompts(&model, 8);
        let config = GrpoConfig {
            forward_batch,
            updates_per_batch: 2,
            ..grpo_config(2)
        };
        let mut trainer = GrpoTrainer::new(
            config,
            &mut model,
            Some(&*reference),
            data(&prompts),
            &reward_a,
        )
        .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.log().to_vec()
    };
    for (whole, parts) in run(0).iter().zip(&run(5)) {
        assert_eq!(whole.reward, parts.reward);
        assert!(
            (whole.loss - parts.loss).abs() < 1e-5,
            "{} {}",
            whole.loss,
            parts.loss
        );
        assert!((whole.grad_norm - parts.grad_norm).abs() < 1e-3 * whole.grad_norm);
        assert!((whole.entropy - parts.entropy).abs() < 1e-4);
        assert!(
            (whole.bins[0].gradient - parts.bins[0].gradient).abs() < 1e-3 * whole.bins[0].gradient
        );
    }
}

#[test]
fn a_stopped_grpo_run_ends_with_the_same_bytes() {
    for (seed, updates_per_batch) in [(0, 1), (1, 2)] {
        let dir = tempfile::tempdir().expect("a folder");
        let run = |stops: &[usize]| {
            for (part, stop) in stops.iter().copied().map(Some).chain([None]).enumerate() {
                let mut model = adapted();
                let reference = model.frozen();
                let prompts = prompts(&model, 7);
                let config = GrpoConfig {
                    updates_per_batch,
                    schedule: Schedule::Cosine,
                    weight_decay: 0.1,
                    ..grpo_config(7)
                };
                let mut trainer = GrpoTrainer::new(
                    config,
                    &mut model,
                    Some(&*reference),
                    data(&prompts),
                    &reward_a,
                )
                .expect("a trainer");
                if part > 0 {
                    trainer.restore(dir.path()).expect("a state");
                }
                let mut watch = Watch {
                    stop_after: stop.map(|stop| stop - trainer.steps_done()),
                    ..Watch::default()
                };
                trainer.run(&mut watch).expect("a run");
                if stop.is_none() {
                    let log = trainer.log().to_vec();
                    return (weights(&model), log);
                }
                trainer.save_state(dir.path()).expect("a saved state");
            }
            unreachable!("the last part returns")
        };
        let straight = run(&[]);
        let mut random = StreamKey::new("stops", seed).stream();
        let first = 1 + random.below(4) as usize;
        let stops = [first, first + 1 + random.below(6 - first as u64) as usize];
        let stopped = run(&stops);
        assert_eq!(straight.1, stopped.1, "logs, stopped after {stops:?}");
        assert!(straight.0 == stopped.0, "weights, stopped after {stops:?}");
    }
}

#[test]
fn grpo_names_what_is_missing() {
    let mut model = model();
    let prompts = prompts(&model, 4);
    let mut error = |config: GrpoConfig, difficulty: &[usize], bins| {
        let data = GrpoData {
            prompts: &prompts,
            difficulty,
            bins,
        };
        GrpoTrainer::new(config, &mut model, None, data, &reward_a)
            .err()
            .expect("refused")
            .to_string()
    };
    let free = || GrpoConfig {
        beta: 0.0,
        ..grpo_config(1)
    };
    assert!(error(grpo_config(1), &[], 1).contains("`beta` is 0.04"));
    assert!(
        error(
            GrpoConfig {
                generations: 1,
                ..free()
            },
            &[],
            1
        )
        .contains("`generations` is 1")
    );
    assert!(
        error(
            GrpoConfig {
                temperature: 0.0,
                ..free()
            },
            &[],
            1
        )
        .contains("`temperature` is 0")
    );
    assert!(error(free(), &[0, 1], 2).contains("2 difficulty bins are given for 4 prompts"));
    assert!(error(free(), &[0, 1, 2, 0], 2).contains("bin 2"));
    let reference = model.clone();
    let trainer = GrpoTrainer::new(
        grpo_config(1),
        &mut model,
        Some(&reference),
        data(&prompts),
        &reward_a,
    );
    assert!(
        trainer
            .err()
            .expect("refused")
            .to_string()
            .contains("must be frozen")
    );
}
