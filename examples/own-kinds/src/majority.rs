//! `majority`: how often the commonest answer of one set is right in another. A model that cannot see does no better.

use std::collections::BTreeMap;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, InputDecl, KindDecl, OutputDecl, Stage, StageContext, StageError,
    SummaryResult,
};
use dcsft_stages::data::Dataset;
use dcsft_stages::reward::Reward;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Params of `majority`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MajorityParams {
    /// What makes an answer right.
    reward: Reward,
}

/// The stage kind.
pub(crate) struct Majority;

const fn set(name: &'static str, doc: &'static str) -> InputDecl {
    InputDecl {
        name,
        cardinality: Cardinality::One,
        accepts: &[ArtifactType::Dataset],
        doc,
    }
}

impl Stage for Majority {
    type Params = MajorityParams;
    const DECL: KindDecl = KindDecl {
        name: "majority",
        version: 1,
        summary: "How often the commonest answer of one set is right in another",
        inputs: &[
            set("from", "The set whose answers are counted."),
            set("data", "The set that they are tried on."),
        ],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &MajorityParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("metrics", ArtifactType::Metrics)]
    }

    fn run(params: MajorityParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let from = Dataset::open(&ctx.input("from")?.dir)?;
        let data = Dataset::open(&ctx.input("data")?.dir)?;
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for sample in from.samples() {
            *counts.entry(&sample.answer).or_default() += 1;
        }
        let (answer, _) = counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .ok_or_else(|| StageError::failed("the input `from` has no samples"))?;
        let rewards = data.samples().iter();
        let rewards = rewards.map(|sample| params.reward.grade(answer, &sample.answer));
        let right = rewards.filter(|reward| *reward >= 1.0).count();
        let results = vec![SummaryResult {
            set: data.info().set.clone(),
            split: data.info().split.name().to_owned(),
            metric: "accuracy".to_owned(),
            value: right as f64 / data.len().max(1) as f64,
            n: Some(data.len() as u64),
            ..SummaryResult::default()
        }];
        let path = ctx.output("metrics")?.join("metrics.json");
        std::fs::write(&path, json!(results).to_string()).map_err(StageError::io(&path))?;
        ctx.summarise(json!({ "answer": answer }));
        ctx.report(results);
        Ok(())
    }
}
