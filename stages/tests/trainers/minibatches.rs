//! Minibatches of one draw, against updates that are made here one answer at a time.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use dcsft_models::micro::MicroVlm;
use dcsft_tensor::ops::composed;
use dcsft_tensor::rng::StreamKey;
use dcsft_vlm::model::{Example, Forward, Prompt, Sampling, VisionLanguageModel};
use dcsft_vlm::train::RunConfig;
use dcsft_vlm::train::adamw::{AdamW, AdamWSettings};
use dcsft_vlm::train::grpo::loss::LossType;
use dcsft_vlm::train::grpo::{GrpoConfig, GrpoRecord, GrpoTrainer};
use dcsft_vlm::train::order::{LastBatch, Order};

use crate::grpo::{self, reward_a};
use crate::{model, prompts};

/// Two steps of three prompts with four answers each: twelve answers in three minibatches, each of them used twice.
fn config(loss_type: LossType) -> GrpoConfig {
    GrpoConfig {
        prompts_per_step: 3,
        generations: 4,
        steps_per_generation: 3,
        updates_per_batch: 2,
        beta: 0.0,
        epsilon: 0.05,
        loss_type,
        run: RunConfig {
            learning_rate: 3e-2,
            warmup_ratio: 0.0,
            // Where a gradient is next to nothing, AdamW would make a step of its rounding errors.
            eps: 1e-2,
            ..grpo::config(2).run
        },
        ..grpo::config(2)
    }
}

/// An answer, its advantage, and the log-probabilities that it was drawn with.
struct Answer {
    example: Example,
    advantage: f32,
    old: Vec<f32>,
}

/// What a step comes to.
#[derive(Debug, Default)]
struct Step {
    losses: Vec<f64>,
    tokens: usize,
    clipped: usize,
}

fn logprobs(model: &MicroVlm, config: &GrpoConfig, example: &Example) -> Tensor<1> {
    let batch = std::slice::from_ref(example);
    let output = model.forward(batch, &Forward::default()).expect("logits");
    composed::token_logprobs(output.logits, &example.answer, config.temperature)
}

fn floats(tensor: &Tensor<1>) -> Vec<f32> {
    let data = tensor.clone().inner().into_data();
    data.try_to_vec().expect("floats")
}

/// All answers of a step, group after group, as the policy at its start draws them.
fn draw(model: &MicroVlm, config: &GrpoConfig, prompts: &[Prompt], step: usize) -> Vec<Answer> {
    let (per_step, fill) = (config.prompts_per_step, LastBatch::Fill);
    let indices = Order::new(prompts.len(), per_step, fill, config.run.seed).batch(step);
    let asked: Vec<Prompt> = indices
        .iter()
        .map(|&index| prompts[index].clone())
        .collect();
    let key = StreamKey::new("grpo rollout", config.run.seed).number(step as u64);
    let sampling = Sampling {
        temperature: config.temperature,
        max_new_tokens: config.max_new_tokens,
        seed: key.stream().bits(),
        ..Sampling::default()
    };
    let groups = model.generate(&asked, 0..config.generations as u32, &sampling);
    let mut answers = Vec::new();
    for (prompt, group) in asked.iter().zip(groups.expect("answers")) {
        let text = |tokens: &[u32]| model.tokenizer().decode_answer(tokens);
        let rewards: Vec<f64> = group
            .iter()
            .map(|answer| f64::from(reward_a(0, &text(&answer.tokens))))
            .collect();
        let count = rewards.len() as f64;
        let mean = rewards.iter().sum::<f64>() / count;
        let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0)).sqrt() + 1e-4;
        for (answer, reward) in group.iter().zip(rewards) {
            let example = Example {
                prompt: prompt.clone(),
                answer: answer.tokens.as_slice().into(),
                earlier: 0,
            };
            answers.push(Answer {
                old: floats(&logprobs(model, config, &example)),
                example,
                advantage: ((reward - mean) / deviation) as f32,
            });
        }
    }
    answers
}

/// The loss of one minibatch, as TRL has it for one that makes a whole update.
fn loss(
    model: &MicroVlm,
    config: &GrpoConfig,
    minibatch: &[&Answer],
    tokens_of_step: usize,
    step: &mut Step,
) -> Tensor<1> {
    let (low, high) = (1.0 - config.epsilon, 1.0 + config.epsilon);
    let tokens: usize = minibatch.iter().map(|answer| answer.old.len()).sum();
    let answers = minibatch.len() as f64;
    let mut sum: Option<Tensor<1>> = None;
    for answer in minibatch {
        let length = answer.old.len();
        let now = logprobs(model, config, &answer.example);
        let old = TensorData::new(answer.old.clone(), [length]);
        let ratio = (now.clone() - Tensor::from_data(old, &now.device())).exp();
        for ratio in floats(&ratio) {
            let (ratio, gains) = (f64::from(ratio), answer.advantage > 0.0);
            let loses = answer.advantage < 0.0;
            step.clipped += usize::from((gains && ratio > high) || (loses && ratio < low));
        }
        let gain = (ratio.clone() * answer.advantage)
            .min_pair(ratio.clamp(low, high) * answer.advantage)
            .sum();
        let divisor = match config.loss_type {
            LossType::Grpo => length as f64 * answers,
            LossType::Bnpo => tokens as f64,
            LossType::DrGrpo => answers * config.max_new_tokens as f64,
            LossType::Dapo => tokens_of_step as f64 / config.steps_per_generation as f64,
        };
        let part = gain * (-1.0 / divisor);
        sum = Some(match sum {
            Some(sum) => sum + part,
            None => part,
        });
    }
    sum.expect("a minibatch has answers")
}

/// Makes the updates of one step.
fn make(
    model: &mut MicroVlm,
    config: &GrpoConfig,
    prompts: &[Prompt],
    which: usize,
    optimizer: &mut AdamW,
) -> Step {
    let answers = draw(model, config, prompts, which);
    let mut step = Step {
        tokens: answers.iter().map(|answer| answer.old.len()).sum(),
        ..Step::default()
    };
    let mut order: Vec<usize> = (0..answers.len()).collect();
    let key = StreamKey::new("grpo minibatches", config.run.seed).number(which as u64);
    key.stream().shuffle(&mut order);
    for _ in 0..config.updates_per_batch {
        for part in order.chunks(answers.len() / config.steps_per_generation) {
            let minibatch: Vec<&Answer> = part.iter().map(|&index| &answers[index]).collect();
            let tokens = step.tokens;
            let loss = loss(model, config, &minibatch, tokens, &mut step);
            step.losses.push(f64::from(floats(&loss)[0]));
            let mut gradients = loss.backward();
            let gradients = model
                .params()
                .iter()
                .map(|param| param.value.grad_remove(&mut gradients))
                .collect();
            let sets = &mut [model.params_mut()];
            let rate = config.run.learning_rate;
            optimizer.step(sets, gradients, rate).expect("an update");
        }
    }
    step
}

fn trained(config: GrpoConfig) -> (MicroVlm, Vec<GrpoRecord>) {
    let mut model = model();
    let prompts = prompts(&model, 6);
    let data = grpo::data(&prompts);
    let mut trainer =
        GrpoTrainer::new(config, &mut model, None, data, &reward_a).expect("a trainer");
    trainer.run(&mut ()).expect("a run");
    let log = trainer.log().to_vec();
    (model, log)
}

/// The largest difference of two models' weights.
fn distance(a: &MicroVlm, b: &MicroVlm) -> f32 {
    let values = |model: &MicroVlm| -> Vec<f32> {
        let params = model.params().iter();
        let values = params.map(|param| param.value.clone().inner().into_data());
        values
            .flat_map(|data| data.try_to_vec::<f32>().expect("floats"))
            .collect()
    };
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn the_minibatches_of_a_draw_make_the_updates_that_trl_makes() {
    for loss_type in [
        LossType::Grpo,
        LossType::Bnpo,
        LossType::DrGrpo,
        LossType::Dapo,
    ] {
        let config = config(loss_type);
        let mut expected = model();
        let questions = prompts(&expected, 6);
        let mut optimizer = AdamW::new(AdamWSettings {
            betas: config.run.betas,
            eps: config.run.eps,
            weight_decay: config.run.weight_decay,
            max_grad_norm: config.run.max_grad_norm,
            offload: false,
        });
        let steps: Vec<Step> = (0..2)
            .map(|step| make(&mut expected, &config, &questions, step, &mut optimizer))
            .collect();
        let (got, log) = trained(config.clone());
        for (step, record) in steps.iter().zip(&log) {
            assert_eq!(step.losses.len(), 6, "three minibatches, twice");
            let loss = step.losses.iter().sum::<f64>() / 6.0;
            assert!((record.loss - loss).abs() < 1e-5, "{record:?} {step:?}");
            // A token's ratio can lie so near a bound that one more bit decides.
            let clipped = (record.clip_low + record.clip_high) * (2 * step.tokens) as f64;
            let seen = step.clipped as f64;
            assert!((clipped - seen).abs() < 1.5, "{clipped} {seen}");
        }
        assert!(steps.iter().any(|step| step.clipped > 5), "{steps:?}");
        let (moved, apart) = (distance(&expected, &model()), distance(&expected, &got));
        assert!(apart < 1e-3 * moved, "{loss_type:?}: {apart} of {moved}");

        let one = GrpoConfig {
            steps_per_generation: 1,
            ..config
        };
        let (whole, _) = trained(one);
        assert!(distance(&expected, &whole) > 0.1 * moved);
    }
}

#[test]
fn every_answer_is_in_one_minibatch_and_a_part_that_does_not_divide_is_refused() {
    let refused = |parts: usize| {
        let config = GrpoConfig {
            steps_per_generation: parts,
            ..config(LossType::Grpo)
        };
        config.validate().err().map(|error| error.to_string())
    };
    let divisors: Range<usize> = 1..13;
    for parts in divisors {
        let error = refused(parts);
        assert_eq!(error.is_none(), 12 % parts == 0, "{parts}: {error:?}");
        if let Some(error) = error {
            assert!(error.contains("`steps_per_generation`"), "{error}");
            assert!(error.contains("the 12 answers of a step"), "{error}");
        }
    }
}
