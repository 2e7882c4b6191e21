//! Supervised fine-tuning.

use dcsft_tensor::ops::token_logprobs;
use dcsft_vlm::model::{Example, Forward, VisionLanguageModel as _};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::augment::Augment;
use dcsft_vlm::train::schedule::Schedule;
use dcsft_vlm::train::sft::{AuxiliaryConfig, LossMean, SftConfig, SftRecord, SftTrainer};

use crate::{Watch, accuracy, adapted, examples, model, weights};

pub(crate) fn config(steps: usize) -> SftConfig {
    SftConfig {
        batch_size: 4,
        gradient_accumulation: 2,
        augment: Augment {
            flip: true,
            shift: 1,
        },
        auxiliary: Some(AuxiliaryConfig {
            label: "class".to_owned(),
            weight: 0.5,
        }),
        run: RunConfig {
            steps: Some(steps),
            learning_rate: 5e-3,
            save_steps: 4,
            seed: 3,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    }
}

pub(crate) fn labels(count: u32) -> Vec<u32> {
    (0..count).map(|index| index % 4).collect()
}

#[test]
fn sft_learns_sixteen_samples_by_heart() {
    let mut model = model();
    let examples = examples(&model, 16);
    assert!(accuracy(&model, &examples) < 0.5);
    let config = SftConfig {
        batch_size: 16,
        run: RunConfig {
            steps: Some(150),
            learning_rate: 1e-2,
            weight_decay: 0.0,
            schedule: Schedule::Constant,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    assert!(trainer.last_loss() < 0.05, "{}", trainer.last_loss());
    assert_eq!(trainer.log().len(), 150);
    assert_eq!(accuracy(trainer.model(), &examples), 1.0);
}

#[test]
fn adapters_learn_while_the_base_stays_as_it_was() {
    let mut model = adapted();
    let before = weights(&model);
    let examples = examples(&model, 16);
    let config = SftConfig {
        run: RunConfig {
            steps: Some(60),
            learning_rate: 1e-2,
            weight_decay: 0.0,
            ..RunConfig::default()
        },
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
        let count = batch_size * gradient_accumulation;
        let examples = examples(&model, count);
        let labels = labels(count as u32);
        let config = SftConfig {
            batch_size,
            gradient_accumulation,
            ..config(3)
        };
        let mut trainer =
            SftTrainer::new(config, &mut model, &examples, Some(&labels)).expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.log().to_vec()
    };
    // Of 70 samples several threads take parts.
    let runs = [(run(8, 1), run(2, 4)), (run(70, 1), run(14, 5))];
    let steps = runs
        .iter()
        .flat_map(|(whole, parts)| whole.iter().zip(parts));
    for (whole, parts) in steps {
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
fn the_loss_is_the_mean_that_is_asked_for() {
    // Answers of 4, 3, 3 and 5 letters and an end each, two in each of two forward passes; no update.
    let config = |loss_mean| SftConfig {
        batch_size: 2,
        gradient_accumulation: 2,
        loss_mean,
        run: RunConfig {
            steps: Some(1),
            learning_rate: 0.0,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut model = model();
    let mut examples = examples(&model, 4);
    let mut longest = model.tokenizer().encode("kayak").expect("known letters");
    longest.push(model.tokenizer().eos());
    examples[3].answer = longest.into();
    let losses: Vec<f64> = examples
        .iter()
        .map(|example| {
            let one = std::slice::from_ref(example);
            let output = model.forward(one, &Forward::default()).expect("a pass");
            let logprobs = token_logprobs(output.logits, &example.answer, 1.0);
            let logprobs: Vec<f32> = logprobs.inner().into_data().try_into_vec().expect("floats");
            -logprobs.into_iter().map(f64::from).sum::<f64>()
        })
        .collect();
    let mut run = |loss_mean| {
        let config = config(loss_mean);
        let mut trainer = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.log()[0].clone()
    };
    let records = [LossMean::Tokens, LossMean::MicroBatch, LossMean::Samples].map(&mut run);
    let length = |index: usize| examples[index].answer.len() as f64;
    let all = losses.iter().sum::<f64>();
    let tokens = all / (0..4).map(length).sum::<f64>();
    let samples = (0..4)
        .map(|index| losses[index] / length(index))
        .sum::<f64>()
        / 4.0;
    // Which two were together depends on the order, so every split is tried; one must be it.
    let pair = |a: usize, b: usize| (losses[a] + losses[b]) / (length(a) + length(b));
    let splits = [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2]];
    let micro = splits.map(|[a, b, c, d]| (pair(a, b) + pair(c, d)) / 2.0);
    let close = |a: f64, b: f64| (a - b).abs() < 1e-5;
    assert!(
        close(records[0].loss, tokens),
        "{} {tokens}",
        records[0].loss
    );
    assert!(
        close(records[2].loss, samples),
        "{} {samples}",
        records[2].loss
    );
    let found = micro
        .iter()
        .filter(|mean| close(records[1].loss, **mean))
        .count();
    assert_eq!(found, 1, "{} of {micro:?}", records[1].loss);
    assert!(!close(tokens, samples) && !close(records[1].loss, tokens));
    assert!(!close(records[0].grad_norm, records[2].grad_norm));
}

#[test]
fn checkpoints_come_at_every_save_step_and_at_the_end() {
    let mut model = model();
    let examples = examples(&model, 8);
    let labels = labels(8);
    let mut watch = Watch::default();
    let mut trainer =
        SftTrainer::new(config(10), &mut model, &examples, Some(&labels)).expect("a trainer");
    trainer.run(&mut watch).expect("a run");
    assert_eq!(watch.checkpoints, [4, 8, 10]);
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
        run: RunConfig {
            steps: Some(1),
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let with = |change: fn(&mut SftConfig)| {
        let mut config = plain.clone();
        change(&mut config);
        config
    };
    for (config, field) in [
        (
            with(|config| config.run.learning_rate = -1.0),
            "`learning_rate` is -1",
        ),
        (with(|config| config.batch_size = 0), "`batch_size` is 0"),
        (with(|config| config.run.betas = [0.9, 1.0]), "`betas` is 1"),
        (
            with(|config| config.run.epochs = Some(2.0)),
            "`epochs` is given too",
        ),
        (
            with(|config| config.run.warmup_ratio = 1.5),
            "`warmup_ratio` is 1.5",
        ),
    ] {
        let error = error(config, &good, None);
        assert!(error.contains(field), "{error}");
    }
    assert!(error(plain.clone(), &[], None).contains("no samples"));
    assert!(error(config(1), &good, Some(&[0, 1])).contains("2 labels for 8 samples"));
    good[3].answer = [].into();
    assert!(error(plain, &good, None).contains("sample-3"));
}
