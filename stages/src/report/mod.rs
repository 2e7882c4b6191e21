//! `report`: result tables, aggregates over seeds, and the data behind the figures.
//!
//! Nothing here knows of clocks or machines, so the same study gives the same bytes. Training times and the page
//! that shows all of it are added by the command line from the run's journal.

mod filter;
mod gallery;
mod pass_rates;
mod results;
mod source;

use dcsft_engine::stage::{
    ArtifactType, Cardinality, InputDecl, KindDecl, OutputDecl, ParamProblem, Stage, StageContext,
    StageError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::data::write_json;
use crate::skipped;

pub use filter::{FilterStep, ImplicitFilter};
pub use gallery::{AnswerCount, GalleryBin, GallerySample};
pub use pass_rates::{CountBar, PassRates};
pub use source::Source;

/// `with:` of `report`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportParams {
    /// Arms that every other arm is compared with, repeat by repeat. Those that the study does not have are left out.
    pub baselines: Vec<String>,
    /// The axis whose values are repeats of the same experiment.
    pub repeats: String,
    /// Samples of each difficulty bin in the gallery; 0 makes none.
    pub gallery: usize,
}

impl Default for ReportParams {
    fn default() -> Self {
        let baselines = ["cold_start", "sft/all", "grpo"]
            .map(str::to_owned)
            .to_vec();
        Self {
            baselines,
            repeats: "seed".to_owned(),
            gallery: 6,
        }
    }
}

/// The stage kind.
pub struct Report;

impl Stage for Report {
    type Params = ReportParams;
    const DECL: KindDecl = KindDecl {
        name: "report",
        version: 2,
        summary: "Tables, aggregates over seeds, and the data of the figures",
        inputs: &[
            InputDecl {
                name: "evals",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::Evaluation, ArtifactType::Metrics],
                doc: "Evaluations: the rows of the results.",
            },
            InputDecl {
                name: "logs",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::TrainingLog],
                doc: "Training logs; those of `grpo` show the implicit filter.",
            },
            InputDecl {
                name: "rollouts",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::Rollouts],
                doc: "Sampled answers, for the gallery.",
            },
            InputDecl {
                name: "difficulty",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::Difficulty],
                doc: "Difficulty scores, for the pass-rate histogram and the gallery.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::Dataset],
                doc: "The sets that the gallery takes its images from.",
            },
        ],
        numeric: false,
        labelled: true,
        shardable: false,
        paths: &[],
    };

    fn outputs(_params: &ReportParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("report", ArtifactType::Report)]
    }

    fn check(params: &ReportParams) -> Vec<ParamProblem> {
        let empty = params
            .repeats
            .is_empty()
            .then(|| ParamProblem::new("repeats", "must be the name of an axis"));
        empty.into_iter().collect()
    }

    fn run(params: ReportParams, ctx: &mut StageContext) -> Result<(), StageError> {
        skipped::leave_out_inputs(ctx);
        let dir = ctx.output("report")?;
        let rows = results::rows(ctx.inputs("evals"))?;
        results::write(&rows, &params.repeats, &dir)?;
        let aggregates = results::aggregates(&rows, &params.repeats, &params.baselines);
        write_json(&dir.join("aggregate.json"), &aggregates)?;

        let pass_rates = pass_rates::read(ctx.inputs("difficulty"))?;
        write_json(&dir.join("histogram.json"), &pass_rates)?;
        let filters = filter::read(ctx.inputs("logs"))?;
        write_json(&dir.join("implicit_filter.json"), &filters)?;
        let gallery = gallery::write(ctx, &dir, params.gallery)?;
        write_json(&dir.join("gallery.json"), &gallery)?;
        ctx.summarise(json!({
            "evaluations": ctx.inputs("evals").len(),
            "rows": rows.len(),
            "pass_rates": pass_rates.len(),
            "implicit_filters": filters.len(),
            "gallery": gallery.iter().map(|bin| bin.samples.len()).sum::<usize>(),
        }));
        Ok(())
    }
}
