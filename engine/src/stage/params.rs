//! Params of a stage: typed and checked, with the mistakes in them and the files that they name.

use std::path::PathBuf;

use super::field::FieldPath;
use super::ports::OutputDecl;
use super::text::Params;

/// A mistake in a param, found by the kind itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamProblem {
    /// The field.
    pub path: FieldPath,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ParamProblem {
    /// A problem with the field at `path`.
    pub fn new(path: impl Into<FieldPath>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// Files of the user's that a param names. They enter the key by content; the param itself does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileParam {
    /// The field.
    pub field: FieldPath,
    /// (name in the key, path on disk) of each file. The name is what the content is known by to the stage,
    /// such as the path written in a dataset's JSON; empty where the name does not matter.
    pub files: Vec<(String, PathBuf)>,
    /// A missing file is a mistake in the spec. Where false, absence is part of the identity instead, and
    /// the stage deals with it.
    pub required: bool,
}

/// Params after parsing: typed, checked, defaults filled in.
#[derive(Clone, Debug)]
pub struct ResolvedParams {
    /// The params with every default written out: what enters the key (file fields replaced by content).
    pub params: Params,
    /// The stage's outputs, default first.
    pub outputs: Vec<OutputDecl>,
    /// The user's files.
    pub files: Vec<FileParam>,
}
