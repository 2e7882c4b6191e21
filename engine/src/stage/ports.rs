//! What goes in and out of a stage: artifacts, and the ports that take and give them.

use serde::{Deserialize, Serialize};

/// What an artifact holds, so that a reference to the wrong kind of thing is found before anything runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactType {
    /// Samples with images.
    Dataset,
    /// A model that can answer: weights, tokenizer, configuration, adapters.
    Model,
    /// Sampled answers with rewards.
    Rollouts,
    /// Per-sample difficulty with its bins.
    Difficulty,
    /// A training log.
    TrainingLog,
    /// What a trainer goes on from.
    TrainerState,
    /// Answers that a trainer drew, with their rewards.
    Completions,
    /// Metrics of one model on one set, with per-sample answers.
    Evaluation,
    /// Tables and figures.
    Report,
    /// Metrics that a program of the user's has written.
    Metrics,
    /// Files that only the user's own programs read.
    Files,
}

impl ArtifactType {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Dataset,
        Self::Model,
        Self::Rollouts,
        Self::Difficulty,
        Self::TrainingLog,
        Self::TrainerState,
        Self::Completions,
        Self::Evaluation,
        Self::Report,
        Self::Metrics,
        Self::Files,
    ];

    /// Whether results come of it.
    pub fn holds_results(self) -> bool {
        matches!(self, Self::Evaluation | Self::Metrics)
    }
}

/// How many artifacts an input takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cardinality {
    /// Exactly one.
    One,
    /// One or none.
    Optional,
    /// A list, perhaps empty.
    Many,
}

/// One named input of a kind: a field of `with:` that takes references.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InputDecl {
    /// The field's name.
    pub name: &'static str,
    /// How many.
    pub cardinality: Cardinality,
    /// Which artifacts fit.
    pub accepts: &'static [ArtifactType],
    /// One sentence for `dcsft stages` and the schema.
    pub doc: &'static str,
}

/// One named output of a stage with given params.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputDecl {
    /// The name: `${stage.name}`.
    pub name: String,
    /// What it holds.
    pub artifact: ArtifactType,
}

impl OutputDecl {
    /// An output `name` that holds `artifact`.
    pub fn new(name: impl Into<String>, artifact: ArtifactType) -> Self {
        Self {
            name: name.into(),
            artifact,
        }
    }
}
