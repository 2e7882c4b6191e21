//! Asks a model about every sample of a set, chunk after chunk, and survives interrupts.
//!
//! An answer is a pure function of model, sample and sampling settings, so it does not matter where a chunk is
//! cut, at which sample an interrupted stage goes on, or who asks. Finished samples are [kept](crate::kept) in the stage's
//! state folder; a last line that a kill has cut short is asked again. A shard does no more than that for its part of the
//! set. The whole stage then finds all answers there, scores them and writes the outputs; where some are missing, it asks.
//!
//! The last digits of log-probabilities may depend on the shape of a batch on an accelerator. Chunks begin at multiples of
//! their length, and shards there too: so that a set is asked in the same batches however it is cut.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use dcsft_engine::stage::{ParamProblem, Shard, StageContext, StageError};
use dcsft_vlm::model::{Completion, Prompt, Sampling, VisionLanguageModel};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::data::{DataError, Dataset, Sample, Shown};
use crate::kept::Kept;
use crate::lent::Lent;
use crate::misfit::{Dropped, Misfit, OnError};
use crate::progress::Meter;
use crate::reward::{Grader, Reward};

/// What is asked.
pub(crate) struct Request<'a> {
    /// How answers are drawn.
    pub(crate) sampling: Sampling,
    /// Answers to each sample.
    pub(crate) n: u32,
    /// Those of them that need not be drawn.
    pub(crate) lent: Lent,
    /// Asked in the place of each sample's own question.
    pub(crate) prompt: Option<Arc<str>>,
    /// What the answers will be scored with: a sample whose right answer it cannot use is not asked.
    pub(crate) reward: &'a Reward,
}

/// Mistakes in a `reward:` that types do not catch.
pub(crate) fn reward_problems(reward: &Reward) -> impl Iterator<Item = ParamProblem> {
    reward
        .problems()
        .into_iter()
        .map(|(field, message)| ParamProblem::new(&format!("reward.{field}"), message))
}

/// The reward, ready to score in a stage.
pub(crate) fn grader<'a>(reward: &'a Reward, ctx: &StageContext) -> Result<Grader<'a>, StageError> {
    let work = ctx.state().join("reward");
    Grader::start(reward, &work, Path::new("")).map_err(StageError::failed)
}

/// What a sample got.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    /// (token ids, log-probs, finished) by generation.
    Answers(Vec<(Vec<u32>, Vec<f32>, bool)>),
    /// The model cannot take it.
    Misfit(Misfit),
}

/// Asks about all samples of `data`; `take` gets each sample's row and answers, in the set's order. Samples that
/// the model cannot take go to `dropped`.
pub(crate) fn ask_all(
    ctx: &mut StageContext,
    model: &dyn VisionLanguageModel,
    data: &Dataset,
    request: &Request<'_>,
    dropped: &mut Dropped,
    mut take: impl FnMut(usize, Vec<Completion>) -> Result<(), StageError>,
) -> Result<(), StageError> {
    if let lent @ 1.. = request.lent.count(data, request.n as usize) {
        let all = data.len() as u64 * u64::from(request.n);
        ctx.log(format!("{lent} of {all} answers are those of earlier runs"));
    }
    ask_rows(
        ctx,
        model,
        data,
        request,
        0..data.len(),
        |ctx, row, reply| match reply {
            Reply::Misfit(misfit) => dropped.add(ctx, misfit),
            Reply::Answers(answers) => {
                let id = &data.samples()[row].id;
                ctx.save(request.lent.cost(id, request.n as usize));
                take(row, answers.into_iter().map(completion).collect())
            }
        },
    )
    .map(drop)
}

/// Asks about the samples of a shard and keeps the answers.
pub(crate) fn ask_shard(
    ctx: &mut StageContext,
    shard: Shard,
    model: &dyn VisionLanguageModel,
    data: &Dataset,
    request: &Request<'_>,
    on_error: OnError,
) -> Result<(), StageError> {
    let grain = match ctx.device() {
        "cpu" => 1,
        _ => model.questions_at_once(),
    };
    let rows = shard.rows(data.len(), grain);
    let mut kept = ask_rows(ctx, model, data, request, rows, |_, _, reply| match reply {
        Reply::Misfit(misfit) => misfit.refuse(on_error),
        Reply::Answers(_) => Ok(()),
    })?;
    kept.save()
}

/// Asks about the samples in `rows` that have no reply yet; `take` gets all replies, in the set's order.
fn ask_rows(
    ctx: &mut StageContext,
    model: &dyn VisionLanguageModel,
    data: &Dataset,
    request: &Request<'_>,
    rows: Range<usize>,
    mut take: impl FnMut(&mut StageContext, usize, Reply) -> Result<(), StageError>,
) -> Result<Kept, StageError> {
    let (mut kept, mut known): (_, BTreeMap<usize, Reply>) = Kept::open(ctx, data, &rows)?;
    let mut meter = Meter::new(data.len() as u64, "sample").until(rows.len() as u64);
    let at_once = model.questions_at_once().max(1);
    let mut done = known.len();
    let mut chunk = rows.start..rows.start;
    while chunk.end < rows.end {
        let end = (chunk.end / at_once + 1) * at_once;
        chunk = chunk.end..end.min(rows.end);
        let missing: Vec<usize> = chunk
            .clone()
            .filter(|row| !known.contains_key(row))
            .collect();
        if ctx.interrupted() {
            kept.save()?;
            return Err(StageError::Interrupted);
        }
        if !missing.is_empty() {
            for (row, reply) in missing.iter().zip(ask(model, data, &missing, request)?) {
                kept.push(*row, &data.samples()[*row], &reply);
                known.insert(*row, reply);
            }
            kept.save_if_due()?;
        }
        for row in chunk.clone() {
            if let Some(reply) = known.remove(&row) {
                take(ctx, row, reply)?;
            }
        }
        done += missing.len();
        let answers = missing.len() as u64 * u64::from(request.n);
        meter.tick(ctx, done as u64, answers, &[]);
    }
    Ok(kept)
}

/// One chunk: what is lent is taken; for the rest prompts are made on all threads, and those that fit go to the model
/// together.
fn ask(
    model: &dyn VisionLanguageModel,
    data: &Dataset,
    rows: &[usize],
    request: &Request<'_>,
) -> Result<Vec<Reply>, StageError> {
    let lent = |sample: &Sample| request.lent.to(&sample.id, request.n as usize);
    let complete = |sample: &Sample| lent(sample).len() == request.n as usize;
    let prompt = |sample| {
        let images = data.images(sample)?.into_iter().map(Into::into).collect();
        Ok(Shown::new(sample, model).prompt(images))
    };
    let samples: Vec<&Sample> = rows.iter().map(|row| &data.samples()[*row]).collect();
    let prompts: Vec<_> = samples
        .par_iter()
        .map(|sample| (!complete(sample)).then(|| prompt(*sample)))
        .collect();
    let mut replies: Vec<Option<Reply>> = Vec::with_capacity(samples.len());
    // By the number of answers that are lent.
    let mut groups: BTreeMap<usize, (Vec<usize>, Vec<Prompt>)> = BTreeMap::new();
    for (index, (sample, prompt)) in samples.iter().zip(prompts).enumerate() {
        let fitting = match prompt {
            None => scorable(model, sample, request.reward).map(|()| None),
            Some(prompt) => fit(
                model,
                sample,
                prompt,
                request.reward,
                request.prompt.as_ref(),
            )?
            .map(Some),
        };
        replies.push(match fitting {
            Ok(None) => Some(Reply::Answers(
                lent(sample).iter().cloned().map(raw).collect(),
            )),
            Ok(Some(prompt)) => {
                let (indices, prompts) = groups.entry(lent(sample).len()).or_default();
                indices.push(index);
                prompts.push(prompt);
                None
            }
            Err(misfit) => Some(Reply::Misfit(misfit)),
        });
    }
    for (known, (indices, prompts)) in groups {
        let drawn = model
            .generate(&prompts, known as u32..request.n, &request.sampling)
            .map_err(StageError::failed)?;
        for (index, drawn) in indices.into_iter().zip(drawn) {
            let answers = lent(samples[index]).iter().cloned().chain(drawn);
            replies[index] = Some(Reply::Answers(answers.map(raw).collect()));
        }
    }
    Ok(replies.into_iter().flatten().collect())
}

/// The prompt, if the model can take it and the reward can score its answers; `text` is asked in the place of the
/// sample's own question.
pub(crate) fn fit(
    model: &dyn VisionLanguageModel,
    sample: &Sample,
    prompt: Result<Prompt, DataError>,
    reward: &Reward,
    text: Option<&Arc<str>>,
) -> Result<Result<Prompt, Misfit>, StageError> {
    let mut prompt = match prompt {
        Ok(prompt) => prompt,
        Err(error) => return Misfit::of_data(&sample.id, error).map(Err),
    };
    if let Some(text) = text {
        prompt.ask(text);
    }
    if let Err(misfit) = scorable(model, sample, reward) {
        return Ok(Err(misfit));
    }
    match model.check(&prompt, &[model.tokenizer().eos()]) {
        Ok(()) => Ok(Ok(prompt)),
        Err(error) => Ok(Err(Misfit::of_model(&sample.id, &error))),
    }
}

/// Whether the reward can score answers to the sample.
fn scorable(
    model: &dyn VisionLanguageModel,
    sample: &Sample,
    reward: &Reward,
) -> Result<(), Misfit> {
    let checked = reward.check(&Shown::new(sample, model).right());
    checked.map_err(|error| Misfit::new("answer", &sample.id, error))
}

type Raw = (Vec<u32>, Vec<f32>, bool);

fn raw(answer: Completion) -> Raw {
    (answer.tokens, answer.logprobs, answer.finished)
}

fn completion((tokens, logprobs, finished): Raw) -> Completion {
    Completion {
        tokens,
        logprobs,
        finished,
    }
}
