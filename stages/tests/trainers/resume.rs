//! A run that was stopped, or made longer, or given other threads, ends with the same bytes.

use std::path::Path;

use dcsft_models::micro::MicroVlm;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::model::{Example, VisionLanguageModel as _};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::STATE_FILE;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoTrainer};
use dcsft_vlm::train::schedule::Schedule;
use dcsft_vlm::train::sft::{SftConfig, SftRecord, SftTrainer};

use crate::{Watch, adapted, examples, grpo, model, prompts, sft, weights};

/// Whose the states are.
const KEY: &str = "a key";

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
        let labels = sft::labels(12);
        let mut trainer = SftTrainer::new(config.clone(), &mut model, &examples, Some(&labels))
            .expect("a trainer");
        if part > 0 {
            trainer.restore(dir, KEY).expect("a state");
        }
        assert_eq!(trainer.steps_done(), made);
        let mut watch = Watch {
            stop_after: stop.map(|stop| stop - made),
            ..Watch::default()
        };
        trainer.run(&mut watch).expect("a run");
        made = trainer.steps_done();
        if stop.is_none() {
            assert_eq!(made, trainer.total_steps());
            let log = trainer.log().to_vec();
            return (weights(&model), log);
        }
        assert_eq!(Some(made), stop);
        trainer.save_state(dir, KEY).expect("a saved state");
    }
    unreachable!("the last part returns")
}

#[test]
fn a_stopped_sft_run_ends_with_the_same_bytes() {
    for (fresh, seed) in [(model as fn() -> MicroVlm, 0), (adapted, 1), (model, 2)] {
        let config = sft::config(12);
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

/// Trains on batches that are cut into parts for several threads.
fn large_batches() -> Vec<(String, Vec<u8>)> {
    let mut model = model();
    let examples = examples(&model, 70);
    let labels = sft::labels(70);
    let config = SftConfig {
        batch_size: 70,
        gradient_accumulation: 1,
        ..sft::config(3)
    };
    let mut trainer =
        SftTrainer::new(config, &mut model, &examples, Some(&labels)).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    weights(&model)
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
            let sft = sft_run(adapted, &sft::config(4), &[], dir.path());
            let large = large_batches();
            let mut model = adapted();
            let reference = model.frozen();
            let prompts = prompts(&model, 7);
            let mut trainer = GrpoTrainer::new(
                grpo::config(3),
                &mut model,
                Some(&*reference),
                grpo::data(&prompts),
                &grpo::reward_a,
            )
            .expect("a trainer");
            trainer.run(&mut ()).expect("a run");
            let log = trainer.log().to_vec();
            (sft, [weights(&model), large], log)
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
        run: RunConfig {
            schedule,
            warmup_steps: Some(2),
            ..sft::config(steps).run
        },
        ..sft::config(steps)
    };
    let examples = examples(&model(), 12);
    let labels = sft::labels(12);
    for (schedule, allowed) in [(Schedule::Constant, true), (Schedule::Cosine, false)] {
        let mut short = model();
        let mut trainer =
            SftTrainer::new(config(5, schedule), &mut short, &examples, Some(&labels))
                .expect("a trainer");
        trainer.run(&mut ()).expect("a run");
        trainer.save_state(dir.path(), KEY).expect("a saved state");
        let mut long = model();
        let mut trainer = SftTrainer::new(config(9, schedule), &mut long, &examples, Some(&labels))
            .expect("a trainer");
        let restored = trainer.restore(dir.path(), KEY);
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
    let labels = sft::labels(12);
    let mut trainer =
        SftTrainer::new(sft::config(2), &mut source, &examples, Some(&labels)).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    trainer.save_state(dir.path(), KEY).expect("a saved state");
    let refused =
        |config: SftConfig, model: &mut MicroVlm, examples: &[Example], labels: &[u32]| {
            let mut trainer =
                SftTrainer::new(config, model, examples, Some(labels)).expect("a trainer");
            let before = weights(trainer.model());
            let error = trainer
                .restore(dir.path(), KEY)
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
        run: RunConfig {
            betas: [0.5, 0.9],
            ..sft::config(2).run
        },
        ..sft::config(2)
    };
    assert!(refused(betas, &mut same, &examples, &labels).contains("`betas` = [0.9,0.999]"));
    assert!(
        refused(sft::config(2), &mut same, &examples[..8], &labels[..8]).contains("other data")
    );
    assert!(refused(sft::config(2), &mut other, &examples, &labels).contains("another model"));
    assert!(refused(sft::config(1), &mut same, &examples, &labels).contains("2 steps"));
    let path = dir.path().join(STATE_FILE);
    let bytes = std::fs::read(&path).expect("the state");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("half a state");
    assert!(refused(sft::config(2), &mut same, &examples, &labels).contains("no trainer state"));
}

#[test]
fn a_state_with_one_changed_bit_is_refused_wherever_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(STATE_FILE);
    let (mut source, mut same) = (model(), model());
    let examples = examples(&source, 12);
    let config = SftConfig {
        auxiliary: None,
        ..sft::config(2)
    };
    let mut trainer =
        SftTrainer::new(config.clone(), &mut source, &examples, None).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    trainer.save_state(dir.path(), KEY).expect("a saved state");
    let whole = std::fs::read(&path).expect("the state");
    let mut trainer = SftTrainer::new(config, &mut same, &examples, None).expect("a trainer");
    let before = weights(trainer.model());
    let mut random = StreamKey::new("damage", 0).stream();
    let length = whole.len() as u64;
    // The header is where much can go wrong, and is short beside the tensors.
    let header = u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) + 8;
    let places = (0..300).map(|index| match index % 2 {
        0 => random.below(header),
        _ => random.below(length),
    });
    for (place, bit) in places.collect::<Vec<_>>().into_iter().zip((0..8).cycle()) {
        let mut damaged = whole.clone();
        damaged[place as usize] ^= 1 << bit;
        std::fs::write(&path, &damaged).expect("a damaged state");
        let restored = trainer.restore(dir.path(), KEY);
        assert!(restored.is_err(), "bit {bit} of byte {place} of {length}");
        assert_eq!(trainer.steps_done(), 0);
    }
    assert!(weights(trainer.model()) == before);
    std::fs::write(&path, &whole).expect("the whole state");
    let other = trainer.restore(dir.path(), "another key");
    let problem = other.expect_err("it is another's state").to_string();
    assert!(problem.contains("another run"), "{problem}");
    trainer.restore(dir.path(), KEY).expect("its own state");
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
                    run: RunConfig {
                        schedule: Schedule::Cosine,
                        weight_decay: 0.1,
                        ..grpo::config(7).run
                    },
                    ..grpo::config(7)
                };
                let mut trainer = GrpoTrainer::new(
                    config,
                    &mut model,
                    Some(&*reference),
                    grpo::data(&prompts),
                    &grpo::reward_a,
                )
                .expect("a trainer");
                if part > 0 {
                    trainer.restore(dir.path(), KEY).expect("a state");
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
                trainer.save_state(dir.path(), KEY).expect("a saved state");
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
