//! A third objective through the public interface: rejection-sampling fine-tuning (as in STaR, Zelikman et al. 2022, and
//! RFT, Yuan et al. 2023). The model answers, its right answers are kept, each once, and trained on as in supervised
//! fine-tuning.

use std::collections::BTreeSet;

use dcsft_models::micro::MicroVlm;
use dcsft_tensor::ops::weighted_sum;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::model::{Example, Prompt, Sampling};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::adamw::AdamWSettings;
use dcsft_vlm::train::schedule::{LearningRate, Schedule};
use dcsft_vlm::train::sft::{SftConfig, SftTrainer};
use dcsft_vlm::train::{At, Loss, Made, Objective, RunSettings, Seen, Team, TrainError, Trainer};
use serde::{Deserialize, Serialize};

use crate::{ANSWERS, adapted, examples, model, weights};

#[derive(Clone, Serialize)]
struct Settings {
    generations: u32,
    forward_batch: usize,
    seed: u64,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    step: usize,
    learning_rate: f64,
    loss: f64,
    /// Part of the drawn answers that are right.
    right: f64,
    /// Distinct right answers, which were trained on.
    kept: usize,
}

struct Rejection<'a> {
    settings: Settings,
    prompts: &'a [Prompt],
    right: &'a (dyn Fn(usize, &str) -> bool + Sync),
}

/// The answers that are kept of a draw.
struct Kept {
    step: usize,
    examples: Vec<Example>,
    tokens: usize,
    right: f64,
}

impl Objective for Rejection<'_> {
    const NAME: &'static str = "rejection";
    type Config = Settings;
    type Round = Kept;
    type Record = Record;

    fn config(&self) -> &Settings {
        &self.settings
    }

    fn data(&self) -> String {
        let ids: Vec<&str> = self.prompts.iter().map(|prompt| &*prompt.id).collect();
        ids.join("\n")
    }

    fn draw(&mut self, team: Team<'_>, step: usize) -> Result<Kept, TrainError> {
        let model = team.first();
        let key = StreamKey::new("rejection", self.settings.seed).number(step as u64);
        let sampling = Sampling {
            max_new_tokens: 6,
            seed: key.stream().bits(),
            ..Sampling::default()
        };
        let groups = model.generate(self.prompts, 0..self.settings.generations, &sampling)?;
        let (mut kept, mut right) = (BTreeSet::new(), 0);
        for (index, group) in groups.iter().enumerate() {
            for answer in group {
                let text = model.tokenizer().decode_answer(&answer.tokens);
                if answer.finished && (self.right)(index, &text) {
                    right += 1;
                    kept.insert((index, answer.tokens.as_slice()));
                }
            }
        }
        let examples = kept.into_iter().map(|(index, tokens)| Example {
            prompt: self.prompts[index].clone(),
            answer: tokens.into(),
            earlier: 0,
        });
        let examples: Vec<Example> = examples.collect();
        Ok(Kept {
            step,
            tokens: examples.iter().map(|example| example.answer.len()).sum(),
            examples,
            right: f64::from(right) / (groups.len() as f64 * f64::from(self.settings.generations)),
        })
    }

    fn micro_batches(&self, round: &Kept, _: At) -> Vec<Vec<usize>> {
        let rows: Vec<usize> = (0..round.examples.len()).collect();
        let passes = rows.chunks(self.settings.forward_batch);
        passes.map(<[usize]>::to_vec).collect()
    }

    fn examples(&self, round: &Kept, _: At, rows: &[usize]) -> Result<Vec<Example>, TrainError> {
        Ok(rows
            .iter()
            .map(|&row| round.examples[row].clone())
            .collect())
    }

    fn dropout(&self, at: At) -> Option<StreamKey> {
        Some(StreamKey::new("rejection dropout", self.settings.seed).number(at.step as u64))
    }

    fn loss(&self, round: &Kept, _: At, _: &[usize], seen: &Seen<'_>) -> Loss {
        let weights = seen.per_token(|_| -1.0 / round.tokens as f32);
        let tensor = weighted_sum(seen.logprobs(1.0), &weights);
        Loss::new(tensor.clone(), vec![tensor])
    }

    fn note(&mut self, _: &mut Kept, _: At, _: &[usize], values: &[f32]) -> f64 {
        f64::from(values[0])
    }

    fn record(&mut self, round: Kept, made: &[Made]) -> Record {
        Record {
            step: round.step + 1,
            learning_rate: made[0].learning_rate,
            loss: made[0].loss,
            right: round.right,
            kept: round.examples.len(),
        }
    }
}

fn run<'a>(
    model: &'a mut MicroVlm,
    prompts: &'a [Prompt],
    steps: usize,
    forward_batch: usize,
) -> Trainer<'a, Rejection<'a>> {
    let settings = RunSettings {
        steps,
        updates: 1,
        save_steps: 0,
        rate: LearningRate {
            base: 5e-3,
            schedule: Schedule::Constant,
            warmup: 0,
            total: steps,
            floor: 0.0,
        },
        optimizer: AdamWSettings {
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            offload: false,
        },
        gradient_checkpointing: false,
    };
    let objective = Rejection {
        settings: Settings {
            generations: 8,
            forward_batch,
            seed: 3,
        },
        prompts,
        right: &|index, answer| answer == ANSWERS[index % 4],
    };
    Trainer::start(settings, model, objective).expect("a trainer")
}

/// A model that knows the words, and which goes with which image a little.
fn begun() -> (MicroVlm, Vec<Prompt>) {
    let mut model = model();
    let examples = examples(&model, 12);
    let config = SftConfig {
        batch_size: 12,
        run: RunConfig {
            steps: Some(40),
            learning_rate: 1e-2,
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut trainer = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let prompts = examples.into_iter().map(|example| example.prompt);
    (model, prompts.collect())
}

#[test]
fn learning_from_its_own_right_answers_makes_more_of_them_right() {
    let (mut model, prompts) = begun();
    let mut trainer = run(&mut model, &prompts, 40, 16);
    trainer.run(&mut ()).expect("a run");
    let log = trainer.log();
    let mean = |records: &[Record]| records.iter().map(|record| record.right).sum::<f64>() / 5.0;
    let (first, last) = (mean(&log[..5]), mean(&log[35..]));
    assert!(first > 0.1 && first < 0.8, "{first}: nothing to learn from");
    assert!(last > first + 0.15, "{first} {last}");
    assert!(
        log.iter()
            .all(|record| record.kept > 0 && record.loss > 0.0)
    );
}

#[test]
fn a_stopped_run_of_it_goes_on_with_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (_, prompts) = begun();
    let mut whole = adapted();
    run(&mut whole, &prompts, 4, 5).run(&mut ()).expect("a run");

    let mut stopped = adapted();
    let mut trainer = run(&mut stopped, &prompts, 4, 5);
    trainer.step().expect("a step");
    trainer.save_state(dir.path(), "me").expect("a state");
    let mut model = adapted();
    let mut trainer = run(&mut model, &prompts, 4, 5);
    trainer.restore(dir.path(), "me").expect("the state");
    assert_eq!(trainer.steps_done(), 1);
    trainer.run(&mut ()).expect("the rest");
    assert_eq!(weights(&model), weights(&whole));

    let examples = examples(&model, 12);
    let config = SftConfig {
        run: RunConfig {
            steps: Some(4),
            ..RunConfig::default()
        },
        ..SftConfig::default()
    };
    let mut other = SftTrainer::new(config, &mut model, &examples, None).expect("a trainer");
    let error = other.restore(dir.path(), "me").expect_err("another run's");
    let expected = "is the state of a rejection run, not of sft";
    assert!(error.to_string().contains(expected), "{error}");
}
