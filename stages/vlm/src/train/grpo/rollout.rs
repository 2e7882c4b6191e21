//! One round of drawn answers: generated, scored, turned into advantages, dealt out to minibatches, and reduced to
//! distinct rows.

use std::collections::BTreeMap;
use std::ops::Range;

use dcsft_tensor::rng::StreamKey;

use crate::error::VlmError;
use crate::model::{Completion, Example, Prompt, Sampling, VisionLanguageModel};
use crate::train::grpo::advantage::{GroupKind, advantages, mean, standard_deviation};
use crate::train::grpo::config::GrpoConfig;
use crate::train::grpo::data::{GrpoData, Reward};
use crate::train::grpo::loss::{LossType, answer_weights};
use crate::train::grpo::record::{BinGradient, GrpoRecord};
use crate::train::team::Team;

/// A distinct answer of a minibatch. Equal answers to one prompt have equal rewards and gradients, so the model sees
/// them once, with the sum of their weights.
pub(super) struct Row {
    pub(super) example: Example,
    /// How often the answer was drawn.
    pub(super) copies: usize,
    /// Weight of each of its tokens in the loss, all copies together.
    pub(super) weight: f32,
    pub(super) advantage: f32,
    /// The rewards of its group differ.
    pub(super) mixed: bool,
    pub(super) bin: usize,
    /// Log-probability of each token under the policy that drew the answer; empty until it is known.
    pub(super) old: Vec<f32>,
    /// Log-probability of each token under the reference; empty without one.
    pub(super) reference: Vec<f32>,
}

/// A drawn answer.
pub(super) struct Drawn {
    /// Its prompt's index.
    pub(super) prompt: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) reward: f32,
    pub(super) advantage: f32,
}

/// A step's answers, and the part of its record that they decide.
pub struct Rollout {
    /// Minibatch after minibatch.
    pub(super) rows: Vec<Row>,
    /// The rows of each minibatch.
    pub(super) minibatches: Vec<Range<usize>>,
    /// All answers, group after group.
    pub(super) drawn: Vec<Drawn>,
    pub(super) record: GrpoRecord,
    /// Tokens of all answers drawn.
    pub(super) tokens: usize,
    /// Tokens of the answers that the rows stand for.
    pub(super) trained_tokens: usize,
}

impl Rollout {
    /// Draws and scores the answers of `step` to the prompts `indices`.
    pub(super) fn draw(
        config: &GrpoConfig,
        team: Team<'_>,
        data: &GrpoData<'_>,
        reward: Reward<'_>,
        step: usize,
        indices: &[usize],
    ) -> Result<Self, VlmError> {
        let groups = generate(config, team, data.prompts, step, indices)?;
        let rewards = score(team.first(), reward, indices, &groups)?;
        let advantages = advantages(&rewards, config.generations, config.scale_rewards);
        let answers: Vec<Answer<'_>> = groups
            .iter()
            .flatten()
            .zip(&advantages)
            .enumerate()
            .map(|(index, (completion, &advantage))| {
                let group = index / config.generations;
                let first = group * config.generations;
                Answer {
                    group,
                    prompt: indices[group],
                    kind: GroupKind::of(&rewards[first..first + config.generations]),
                    tokens: &completion.tokens,
                    advantage,
                }
            })
            .collect();
        let tokens = answers
            .iter()
            .map(|answer| answer.tokens.len())
            .sum::<usize>();
        let (mut rows, mut minibatches) = (Vec::new(), Vec::new());
        for minibatch in deal(config, step, answers.len()) {
            let first = rows.len();
            let answers: Vec<&Answer<'_>> =
                minibatch.iter().map(|&index| &answers[index]).collect();
            add_rows(config, data, &answers, tokens, &mut rows);
            minibatches.push(first..rows.len());
        }
        let record = record(config, data, indices, &groups, &rewards, rows.len());
        let trained_tokens = rows
            .iter()
            .map(|row| row.copies * row.example.answer.len())
            .sum::<usize>();
        let drawn = indices
            .iter()
            .zip(groups)
            .flat_map(|(&prompt, group)| group.into_iter().map(move |answer| (prompt, answer)))
            .zip(rewards.iter().zip(&advantages))
            .map(|((prompt, answer), (&reward, &advantage))| Drawn {
                prompt,
                tokens: answer.tokens,
                reward,
                advantage,
            })
            .collect();
        Ok(Self {
            rows,
            minibatches,
            drawn,
            record,
            tokens,
            trained_tokens,
        })
    }
}

/// A drawn answer on its way into a minibatch.
struct Answer<'a> {
    /// Which of the step's groups it is in.
    group: usize,
    /// Its prompt's index.
    prompt: usize,
    kind: GroupKind,
    tokens: &'a [u32],
    advantage: f32,
}

/// Which of a step's answers each of its minibatches takes: all of them are shuffled and cut into equal parts, as in TRL.
fn deal(config: &GrpoConfig, step: usize, answers: usize) -> Vec<Vec<usize>> {
    let mut all: Vec<usize> = (0..answers).collect();
    let parts = config.steps_per_generation;
    if parts == 1 {
        return vec![all];
    }
    StreamKey::new("grpo minibatches", config.run.seed)
        .number(step as u64)
        .stream()
        .shuffle(&mut all);
    let deal = |part: &[usize]| {
        let mut part = part.to_vec();
        // Answers to a prompt side by side share its rows.
        part.sort_unstable();
        part
    };
    all.chunks(answers / parts).map(deal).collect()
}

/// Adds the distinct answers of a minibatch. `tokens` are those of the whole step.
fn add_rows(
    config: &GrpoConfig,
    data: &GrpoData<'_>,
    answers: &[&Answer<'_>],
    tokens: usize,
    rows: &mut Vec<Row>,
) {
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.tokens.len()).collect();
    let weights = answer_weights(config.loss_type, &lengths, config.max_new_tokens, tokens);
    // Divided by the tokens of the step, and as many updates share them.
    let share = match config.loss_type {
        LossType::Dapo => config.steps_per_generation as f64,
        LossType::Grpo | LossType::Bnpo | LossType::DrGrpo => 1.0,
    };
    let mut known: BTreeMap<(usize, &[u32]), usize> = BTreeMap::new();
    for (answer, weight) in answers.iter().zip(weights) {
        // Without a KL term an answer with zero advantage adds exactly nothing to the loss.
        if answer.tokens.is_empty() || (config.beta == 0.0 && answer.advantage == 0.0) {
            continue;
        }
        let row = *known
            .entry((answer.group, answer.tokens))
            .or_insert_with(|| {
                rows.push(Row::new(data, answer));
                rows.len() - 1
            });
        rows[row].copies += 1;
        rows[row].weight += (weight * share) as f32;
    }
}

impl Row {
    fn new(data: &GrpoData<'_>, answer: &Answer<'_>) -> Self {
        Self {
            example: Example {
                prompt: data.prompts[answer.prompt].clone(),
                answer: answer.tokens.into(),
                earlier: 0,
            },
            copies: 0,
            weight: 0.0,
            advantage: answer.advantage,
            mixed: answer.kind == GroupKind::Mixed,
            bin: data.bin(answer.prompt),
            old: Vec::new(),
            reference: Vec::new(),
        }
    }

    /// The example under a name of its own, which is that of its random streams: no two rows draw the same dropout.
    pub(super) fn apart(&self) -> Example {
        let mut example = self.example.clone();
        let mut hasher = blake3::Hasher::new();
        for token in &*example.answer {
            hasher.update(&token.to_le_bytes());
        }
        let answer = hasher.finalize().to_hex();
        example.prompt.id = format!("{}/{answer}", example.prompt.id).into();
        example
    }
}

/// Answers to each prompt. A prompt that comes up more than once in a step gets other draws each time.
fn generate(
    config: &GrpoConfig,
    team: Team<'_>,
    prompts: &[Prompt],
    step: usize,
    indices: &[usize],
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let sampling = Sampling {
        temperature: config.temperature,
        top_p: config.top_p,
        top_k: config.top_k,
        repetition_penalty: 1.0,
        max_new_tokens: config.max_new_tokens,
        seed: StreamKey::new("grpo rollout", config.run.seed)
            .number(step as u64)
            .stream()
            .bits(),
    };
    let mut seen: BTreeMap<usize, u32> = BTreeMap::new();
    let mut rounds: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (place, &index) in indices.iter().enumerate() {
        let round = seen.entry(index).or_default();
        rounds.entry(*round).or_default().push(place);
        *round += 1;
    }
    let calls: Vec<(u32, Vec<usize>)> = rounds
        .into_iter()
        .flat_map(|(round, places)| {
            let calls = places.chunks(config.prompts_per_call());
            let calls = calls.map(<[usize]>::to_vec);
            calls.map(move |places| (round, places)).collect::<Vec<_>>()
        })
        .collect();
    let drawn = team.work(&calls, |model, (round, places)| {
        let asked = places.iter().map(|&place| prompts[indices[place]].clone());
        let asked: Vec<Prompt> = asked.collect();
        let generations = config.generations as u32;
        model.generate(
            &asked,
            round * generations..(round + 1) * generations,
            &sampling,
        )
    })?;
    let mut groups = vec![Vec::new(); indices.len()];
    for ((_, places), drawn) in calls.into_iter().zip(drawn) {
        for (place, group) in places.into_iter().zip(drawn) {
            groups[place] = group;
        }
    }
    Ok(groups)
}

/// The reward of every answer, group after group; each distinct answer to a prompt is scored once.
fn score(
    model: &dyn VisionLanguageModel,
    reward: Reward<'_>,
    indices: &[usize],
    groups: &[Vec<Completion>],
) -> Result<Vec<f32>, VlmError> {
    let mut rewards = Vec::new();
    for (&index, group) in indices.iter().zip(groups) {
        let mut places: BTreeMap<&[u32], usize> = BTreeMap::new();
        let mut texts = Vec::new();
        for completion in group {
            places.entry(&completion.tokens).or_insert_with(|| {
                texts.push(model.tokenizer().decode_answer(&completion.tokens));
                texts.len() - 1
            });
        }
        let scored = reward.score(index, &texts).map_err(VlmError::Reward)?;
        for completion in group {
            let reward = places
                .get(&*completion.tokens)
                .and_then(|&place| scored.get(place));
            let missing = || VlmError::Reward("it leaves out an answer".to_owned());
            rewards.push(*reward.ok_or_else(missing)?);
        }
    }
    Ok(rewards)
}

fn record(
    config: &GrpoConfig,
    data: &GrpoData<'_>,
    indices: &[usize],
    groups: &[Vec<Completion>],
    rewards: &[f32],
    distinct: usize,
) -> GrpoRecord {
    let answers = rewards.len();
    let mut record = GrpoRecord {
        reward: f64::from(mean(rewards)),
        groups: groups.len(),
        answers,
        distinct_answers: distinct,
        bins: vec![BinGradient::default(); data.bins],
        ..GrpoRecord::default()
    };
    for (&index, group) in indices.iter().zip(rewards.chunks(config.generations)) {
        let bin = &mut record.bins[data.bin(index)];
        bin.groups += 1;
        match GroupKind::of(group) {
            GroupKind::Mixed => bin.mixed += 1,
            GroupKind::AllRight => record.all_right += 1,
            GroupKind::AllWrong => record.all_wrong += 1,
        }
        record.reward_std += f64::from(standard_deviation(group)) / groups.len() as f64;
    }
    let all = || groups.iter().flatten();
    record.completion_length =
        all().map(|answer| answer.tokens.len() as f64).sum::<f64>() / answers as f64;
    record.truncated = all().filter(|answer| !answer.finished).count() as f64 / answers as f64;
    record
}
