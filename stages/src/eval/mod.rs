//! `eval`: greedy answers on a set, accuracy with its confidence interval.

mod metrics;
mod wilson;

use std::path::Path;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, FileParam, Forecast, InputDecl, KindDecl, OutputDecl, ParamProblem,
    Prospect, Stage, StageContext, StageError,
};
use dcsft_vlm::model::Sampling;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answers::{Request, ask_all, ask_shard, grader, reward_problems};
use crate::data::{Shown, write_json};
use crate::files::JsonLines;
use crate::frames::warn_of_loose_boxes;
use crate::lent::Lent;
use crate::memory;
use crate::misfit::{Dropped, OnError};
use crate::reward::{self, Asked, Form, Reward};
use crate::shown_set::ShownSet;
use crate::skipped;
use crate::writing::Writing;

pub use metrics::{Answer, Metrics};
pub use wilson::wilson;

/// `with:` of `eval`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EvalParams {
    /// What makes an answer right.
    pub reward: Reward,
    /// Asked in the place of each sample's own question.
    pub prompt: Option<String>,
    /// What happens to a sample that the model cannot take.
    pub on_error: OnError,
    /// How answers are written.
    #[serde(flatten)]
    pub writing: Writing,
    /// Model and set.
    #[serde(flatten)]
    pub set: ShownSet,
}

impl Default for EvalParams {
    fn default() -> Self {
        Self {
            reward: Reward::default(),
            prompt: None,
            on_error: OnError::Fail,
            writing: Writing::default(),
            set: ShownSet::default(),
        }
    }
}

/// The stage kind.
pub struct Eval;

impl Stage for Eval {
    type Params = EvalParams;
    const DECL: KindDecl = KindDecl {
        name: "eval",
        version: 4,
        summary: "Greedy answers on a set: accuracy with a Wilson 95% interval",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Model],
                doc: "The model that answers.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "The set it is evaluated on.",
            },
        ],
        numeric: true,
        labelled: false,
        shardable: true,
        paths: &[reward::FILES],
    };

    fn outputs(_params: &EvalParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("evaluation", ArtifactType::Evaluation)]
    }

    fn files(params: &EvalParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        params.reward.files(root)
    }

    fn check(params: &EvalParams) -> Vec<ParamProblem> {
        params
            .writing
            .problems()
            .chain(reward_problems(&params.reward))
            .chain(params.set.problems())
            .collect()
    }

    fn forecast(params: &EvalParams, prospect: &Prospect) -> Forecast {
        memory::ask(
            prospect,
            1,
            params.writing.max_new_tokens,
            params.set.limits(),
        )
    }

    fn run(params: EvalParams, ctx: &mut StageContext) -> Result<(), StageError> {
        if let Some(because) = skipped::reason(ctx, params.set.on_empty)? {
            return skipped::skip(ctx, &Self::outputs(&params), because);
        }
        let (model, data) = params.set.open(ctx)?;
        let request = Request {
            sampling: Sampling {
                temperature: 0.0,
                top_p: 1.0,
                top_k: 0,
                repetition_penalty: params.writing.repetition_penalty,
                max_new_tokens: params.writing.max_new_tokens,
                seed: 0,
            },
            n: 1,
            lent: Lent::default(),
            prompt: params.prompt.as_deref().map(Into::into),
            reward: &params.reward,
        };
        if let Some(shard) = ctx.shard() {
            return ask_shard(ctx, shard, model.as_ref(), &data, &request, params.on_error);
        }
        let dir = ctx.output("evaluation")?;
        let form = Form::new(
            &params.reward,
            data.samples().iter().map(|sample| sample.answer.as_str()),
        );
        let grader = grader(&params.reward, ctx)?;
        let mut metrics = Metrics::new(data.info());
        let mut lines = JsonLines::create(&dir.join("answers.jsonl"))?;
        let mut dropped = Dropped::new(params.on_error, "evaluation");
        warn_of_loose_boxes(ctx, &data, model.as_ref());
        ask_all(
            ctx,
            model.as_ref(),
            &data,
            &request,
            &mut dropped,
            |row, completions| {
                let sample = &data.samples()[row];
                let Some(completion) = completions.into_iter().next() else {
                    return Err(StageError::failed(format!(
                        "sample {}: the model gave no answer",
                        sample.id
                    )));
                };
                let text = model.tokenizer().decode_answer(&completion.tokens);
                let right = Shown::new(sample, model.as_ref()).right().into_owned();
                let asked = Asked {
                    id: &sample.id,
                    prompt: &sample.prompt,
                    completion: &text,
                    answer: &right,
                };
                let reward = grader.one(asked).map_err(StageError::failed)?;
                let answer = Answer {
                    id: sample.id.clone(),
                    expected: right,
                    correct: reward >= 1.0,
                    well_formed: completion.finished && form.fits(&text),
                    text,
                    reward,
                };
                metrics.add(&answer);
                lines.write(&answer)
            },
        )?;
        grader.finish().map_err(StageError::failed)?;
        dropped.ensure_some_left(data.len(), "evaluate")?;
        lines.finish()?;
        let results = metrics.results();
        let left_out = dropped.finish(ctx, data.len(), params.set.max_dropped)?;
        write_json(
            &dir.join("metrics.json"),
            &json!({"format": 1, "results": results, "left_out": left_out}),
        )?;
        ctx.report(results);
        Ok(())
    }
}
