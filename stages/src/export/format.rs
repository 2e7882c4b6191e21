//! The formats of exports.

use dcsft_engine::stage::ArtifactType;
use serde::Serialize;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A model's folder with its adapters added to the weights.
    Merged,
    /// A model's adapters alone, as PEFT keeps them.
    Adapter,
    /// JSON lines: a set in ms-swift's layout with its images beside it, or one line per sampled answer.
    Jsonl,
    /// A table of sampled answers.
    Parquet,
    /// The artifact's files as they are.
    Files,
}

impl Format {
    /// The format as users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Merged => "merged",
            Self::Adapter => "adapter",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Files => "files",
        }
    }
}

/// The formats of an artifact; the first is the default.
pub fn formats(artifact: ArtifactType) -> &'static [Format] {
    match artifact {
        ArtifactType::Model => &[Format::Merged, Format::Adapter, Format::Files],
        ArtifactType::Dataset => &[Format::Jsonl, Format::Files],
        ArtifactType::Rollouts => &[Format::Jsonl, Format::Parquet, Format::Files],
        _ => &[Format::Files],
    }
}
