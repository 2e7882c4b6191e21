//! Group-relative policy optimisation.

use dcsft_models::micro::MicroVlm;
use dcsft_vlm::lora::LoraConfig;
use dcsft_vlm::model::{Prompt, VisionLanguageModel as _};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::grpo::loss::LossType;
use dcsft_vlm::train::grpo::{BinShare, GrpoConfig, GrpoData, GrpoRecord, GrpoTrainer};
use dcsft_vlm::train::schedule::Schedule;

use crate::{model, prompts, weights};

/// The part of an answer's letters that are an `a`.
pub(crate) fn reward_a(_: usize, answer: &str) -> f32 {
    answer.chars().filter(|letter| *letter == 'a').count() as f32
        / answer.chars().count().max(4) as f32
}

pub(crate) fn config(steps: usize) -> GrpoConfig {
    GrpoConfig {
        prompts_per_step: 4,
        generations: 6,
        max_new_tokens: 4,
        temperature: 1.0,
        run: RunConfig {
            steps: Some(steps),
            learning_rate: 1e-2,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
            seed: 2,
            ..RunConfig::default()
        },
        ..GrpoConfig::default()
    }
}

pub(crate) fn data(prompts: &[Prompt]) -> GrpoData<'_> {
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
            ..config(60)
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
        let summary = trainer.summary();
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
        let config = GrpoConfig { beta, ..config(40) };
        let mut trainer = GrpoTrainer::new(
            config,
            &mut model,
            Some(&*reference),
            data(&prompts),
            &reward_a,
        )
        .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.summary().reward
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
        ..config(3)
    };
    let mut trainer =
        GrpoTrainer::new(config, &mut model, None, data, &constant).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let summary = trainer.summary();
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
        ..config(6)
    };
    let mut trainer =
        GrpoTrainer::new(config, &mut model, Some(&*reference), data, &reward).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let summary = trainer.summary();
    let shares =
        |value: fn(&BinShare) -> f64| -> Vec<f64> { summary.bins.iter().map(value).collect() };
    assert_eq!(shares(|bin| bin.group_share), [1.0 / 3.0; 3]);
    assert_eq!(shares(|bin| bin.advantage_share), [0.0, 1.0, 0.0]);
    let gradient = shares(|bin| bin.gradient_share);
    assert!(
        gradient[1] > 0.8 && gradient[0] > 0.0,
        "the KL term reaches all bins: {gradient:?}"
    );
    assert!((gradient.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    let mixed = summary.mixed_gradient_share;
    assert!(
        mixed > 0.8 && mixed <= gradient[1] && summary.bins[0].total.mixed_gradient == 0.0,
        "what is left is the KL term's: {mixed} of {gradient:?}"
    );
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
            run: RunConfig {
                learning_rate: 3e-2,
                ..config(8).run
            },
            ..config(8)
        };
        let mut trainer = GrpoTrainer::new(config, &mut model, None, data(&prompts), &reward_a)
            .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        assert_eq!(
            trainer.summary().mixed_gradient_share,
            1.0,
            "without a KL term nothing else has a gradient"
        );
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
            ..config(2)
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
        ..config(1)
    };
    assert!(error(config(1), &[], 1).contains("`beta` is 0.04"));
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
        config(1),
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

/// The log of a few steps of adapters with so much dropout.
fn with_dropout(dropout: f64, config: GrpoConfig) -> Vec<GrpoRecord> {
    let mut model = model();
    let lora = LoraConfig {
        rank: 4,
        dropout,
        ..LoraConfig::default()
    };
    let reference = model.frozen();
    model.add_lora(&lora, 1).expect("adapters");
    let prompts = prompts(&model, 8);
    let reference = Some(&*reference);
    let mut trainer = GrpoTrainer::new(config, &mut model, reference, data(&prompts), &reward_a)
        .expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    trainer.log().to_vec()
}

#[test]
fn dropout_acts_in_the_updates_and_its_draws_are_the_rows_own() {
    let plain = with_dropout(0.0, config(4));
    let dropped = with_dropout(0.5, config(4));
    // The adapters have no effect yet, so the first answers are the same; the first gradient is that of what was kept.
    assert_eq!(plain[0].reward, dropped[0].reward);
    assert_ne!(plain[0].grad_norm, dropped[0].grad_norm);
    assert_eq!(plain[0].loss, dropped[0].loss);
    // However the rows are cut into passes, each draws the same.
    let cut = with_dropout(
        0.5,
        GrpoConfig {
            forward_batch: 3,
            ..config(4)
        },
    );
    for (whole, cut) in dropped.iter().zip(&cut) {
        assert!(
            (whole.loss - cut.loss).abs() < 1e-5,
            "{} {}",
            whole.loss,
            cut.loss
        );
        let close = (whole.grad_norm - cut.grad_norm).abs() < 1e-3 * whole.grad_norm;
        assert!(close, "{} {}", whole.grad_norm, cut.grad_norm);
    }
    // The ratio of the first update is exactly 1 with dropout too: nothing is clipped, whatever the range.
    let narrow = GrpoConfig {
        epsilon: 0.0,
        ..config(4)
    };
    for record in with_dropout(0.5, narrow) {
        assert_eq!([record.clip_low, record.clip_high], [0.0; 2]);
    }
}

#[test]
fn completions_are_written_down_with_reward_and_advantage() {
    let mut model = model();
    let reference = model.frozen();
    let prompts = prompts(&model, 8);
    let run = |model: &mut MicroVlm, keep: bool| {
        let config = config(3);
        let mut trainer =
            GrpoTrainer::new(config, model, Some(&*reference), data(&prompts), &reward_a)
                .expect("a trainer");
        if keep {
            trainer.keep_completions();
        }
        trainer.run(&mut ()).expect("a run");
        let lines = trainer.completions().map(<[u8]>::to_vec);
        (lines, trainer.log().to_vec())
    };
    let mut other = model.clone();
    let (lines, log) = run(&mut model, true);
    assert_eq!(
        run(&mut other, false),
        (None, log.clone()),
        "and change nothing"
    );
    let lines: Vec<serde_json::Value> = lines
        .expect("completions")
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("a line of JSON"))
        .collect();
    assert_eq!(lines.len(), 3 * 4 * 6);
    for (step, record) in log.iter().enumerate() {
        let lines = lines.iter().filter(|line| line["step"] == step + 1);
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), record.answers);
        let mean = lines
            .iter()
            .map(|line| line["reward"].as_f64().expect("a reward"));
        let mean = mean.sum::<f64>() / lines.len() as f64;
        assert!((mean - record.reward).abs() < 1e-6);
        for line in &lines {
            let reward = reward_a(0, line["completion"].as_str().expect("a text"));
            let written = line["reward"].as_f64().expect("a reward");
            assert_eq!(written as f32, reward);
            assert!(prompts.iter().any(|prompt| line["id"] == *prompt.id));
        }
        for group in lines.chunks(6) {
            let sum: f64 = group
                .iter()
                .filter_map(|line| line["advantage"].as_f64())
                .sum();
            assert!(sum.abs() < 1e-4, "{sum}");
        }
    }
}
