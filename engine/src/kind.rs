//! What a stage kind is: the one interface between the engine and whatever computes.
//!
//! A kind is written as a [`Stage`] (typed params, a version, named inputs and outputs, `run`) and handed to
//! the engine as a [`Kind`] object through [`Registry`]. The engine knows nothing else about it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dcsft_cache::Digest;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::context::StageContext;
use crate::cost::Cost;
use crate::forecast::{Forecast, Prospect};
use crate::results::Evaluated;
use crate::study::Node;

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

/// A mistake in a param, found by the kind itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamProblem {
    /// Path of the field inside `with:`, outermost first; sequence indices as decimal text.
    pub path: Vec<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl ParamProblem {
    /// A problem with the field at `path` (dots between the parts).
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        let path = path
            .split('.')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect();
        Self {
            path,
            message: message.into(),
        }
    }
}

/// Files of the user's that a param names. They enter the key by content; the param itself does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileParam {
    /// The field inside `with:` (dots between the parts).
    pub field: String,
    /// (name in the key, path on disk) of each file. The name is what the content is known by to the stage,
    /// such as the path written in a dataset's JSON; empty where the name does not matter.
    pub files: Vec<(String, PathBuf)>,
    /// A missing file is a mistake in the spec. Where false, absence is part of the identity instead, and
    /// the stage deals with it.
    pub required: bool,
}

/// A stage kind, as its author writes it.
pub trait Stage: Send + Sync + 'static {
    /// `with:` without the inputs. Must use `#[serde(deny_unknown_fields, default)]` or field defaults;
    /// doc comments become the user's documentation.
    type Params: DeserializeOwned + Serialize + JsonSchema + Send + Sync;
    /// The name in `uses:`.
    const NAME: &'static str;
    /// Part of every key: raise it when the same params and inputs give other bytes than before.
    const VERSION: u32;
    /// One sentence for `dcsft stages`.
    const SUMMARY: &'static str;
    /// Fields of `with:` that take references.
    const INPUTS: &'static [InputDecl];
    /// Whether results depend on the device's arithmetic (backend and dtype enter the key).
    const NUMERIC: bool;
    /// Whether the labels of the inputs (stage name, axes, arm) reach the output and so enter the key.
    const LABELLED: bool = false;

    /// Fields of `with:` that are paths of files or folders (dots between the parts). What is written in a spec is
    /// relative to the spec's folder, what comes with `--set` or from the environment to the current one; the kind is
    /// given the former as written and the latter absolute.
    const PATHS: &'static [&'static str] = &[];

    /// Outputs with these params; the first is the default one (`${stage}` without a name).
    fn outputs(params: &Self::Params) -> Vec<OutputDecl>;

    /// Mistakes that types alone do not catch.
    fn check(_params: &Self::Params) -> Vec<ParamProblem> {
        Vec::new()
    }

    /// Files that params name, each field one of [`Stage::PATHS`]; `root` is what relative paths are relative to.
    fn files(_params: &Self::Params, _root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        Ok(Vec::new())
    }

    /// What to expect of the stage: its memory, and facts for the stages that read its outputs. Paths of `params` are
    /// as [`Stage::run`] gets them. Nothing depends on it but what `plan` prints.
    fn forecast(_params: &Self::Params, _prospect: &Prospect) -> Forecast {
        Forecast::default()
    }

    /// What two results must share to have parts in common: a result that another one of its family makes cheaper finds
    /// it in [`StageContext::relatives`]. It must come out the same, byte for byte, without.
    fn family(_params: &Self::Params) -> Option<Family> {
        None
    }

    /// How many samples each output will hold, as far as the params and the user's files say so before the stage
    /// runs; `root` is what relative paths are relative to. For plans; never part of a key.
    fn samples(_params: &Self::Params, _root: &Path) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }

    /// Does the work: reads `ctx` inputs, writes `ctx` outputs. Runs in a process of its own.
    ///
    /// # Errors
    /// [`StageError`] with a sentence for the user.
    fn run(params: Self::Params, ctx: &mut StageContext) -> Result<(), StageError>;
}

/// What the results of a family share, besides kind, version and arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// Params, those left out that only decide how much is computed or what is made of it.
    pub params: Value,
    /// The inputs whose content they share.
    pub inputs: &'static [&'static str],
}

/// A finished result of a stage's family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Relative {
    /// Its label.
    pub label: String,
    /// What it takes to compute from nothing.
    pub cost: Cost,
    /// The folders with the files of its outputs, by name; read-only.
    pub outputs: BTreeMap<String, PathBuf>,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The stage's own reason, in words for the user.
    #[error("{0}")]
    Failed(String),
    /// A file of the stage could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The run was interrupted; the stage saved what it can resume from.
    #[error("interrupted")]
    Interrupted,
}

impl StageError {
    /// A failure with the stage's own reason.
    pub fn failed(reason: impl std::fmt::Display) -> Self {
        Self::Failed(reason.to_string())
    }

    /// For `map_err` on file operations.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Params after parsing: typed, checked, defaults filled in.
#[derive(Clone, Debug)]
pub struct ResolvedParams {
    /// The params with every default written out: what enters the key (file fields replaced by content). Shared by the
    /// stages that have the same.
    pub value: Arc<Value>,
    /// The stage's outputs, default first.
    pub outputs: Vec<OutputDecl>,
    /// The user's files.
    pub files: Vec<FileParam>,
}

/// A stage kind as the engine sees it.
pub trait Kind: Send + Sync {
    /// The name in `uses:`.
    fn name(&self) -> &'static str;
    /// The semantic version.
    fn version(&self) -> u32;
    /// One sentence.
    fn summary(&self) -> &'static str;
    /// The inputs.
    fn inputs(&self) -> &'static [InputDecl];
    /// See [`Stage::NUMERIC`].
    fn numeric(&self) -> bool;
    /// See [`Stage::LABELLED`].
    fn labelled(&self) -> bool;
    /// See [`Stage::PATHS`].
    fn paths(&self) -> &'static [&'static str];
    /// The JSON Schema of the params, without the inputs.
    fn schema(&self) -> schemars::Schema;
    /// Parses and checks params (references already taken out).
    ///
    /// # Errors
    /// Every mistake found.
    fn resolve(&self, with: &Value, root: &Path) -> Result<ResolvedParams, Vec<ParamProblem>>;
    /// As [`Stage::forecast`]; nothing for params that do not parse.
    fn forecast(&self, params: &Value, prospect: &Prospect) -> Forecast;
    /// See [`Stage::family`]; none for params that do not parse.
    fn family(&self, params: &Value) -> Option<Family>;
    /// See [`Stage::samples`]; `params` as [`Kind::resolve`] gave them.
    fn samples(&self, params: &Value, root: &Path) -> BTreeMap<String, u64>;
    /// Runs the stage with params as [`Kind::resolve`] gave them.
    ///
    /// # Errors
    /// See [`Stage::run`].
    fn run(&self, params: &Value, ctx: &mut StageContext) -> Result<(), StageError>;
}

/// The [`Kind`] of a [`Stage`].
struct Typed<S>(std::marker::PhantomData<S>);

impl<S: Stage> Kind for Typed<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }
    fn version(&self) -> u32 {
        S::VERSION
    }
    fn summary(&self) -> &'static str {
        S::SUMMARY
    }
    fn inputs(&self) -> &'static [InputDecl] {
        S::INPUTS
    }
    fn numeric(&self) -> bool {
        S::NUMERIC
    }
    fn labelled(&self) -> bool {
        S::LABELLED
    }
    fn paths(&self) -> &'static [&'static str] {
        S::PATHS
    }
    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(S::Params)
    }

    fn resolve(&self, with: &Value, root: &Path) -> Result<ResolvedParams, Vec<ParamProblem>> {
        let params: S::Params = parse(with).map_err(|problem| vec![problem])?;
        let problems = S::check(&params);
        if !problems.is_empty() {
            return Err(problems);
        }
        let files = S::files(&params, root).map_err(|problem| vec![problem])?;
        debug_assert!(
            files
                .iter()
                .all(|file| S::PATHS.contains(&file.field.as_str()))
        );
        let value = serde_json::to_value(&params)
            .map_err(|error| vec![ParamProblem::new("", error.to_string())])?;
        Ok(ResolvedParams {
            value: Arc::new(value),
            outputs: S::outputs(&params),
            files,
        })
    }

    fn forecast(&self, params: &Value, prospect: &Prospect) -> Forecast {
        parse(params)
            .map(|params| S::forecast(&params, prospect))
            .unwrap_or_default()
    }

    fn family(&self, params: &Value) -> Option<Family> {
        S::family(&parse(params).ok()?)
    }

    fn samples(&self, params: &Value, root: &Path) -> BTreeMap<String, u64> {
        parse(params).map_or_else(|_| BTreeMap::new(), |params| S::samples(&params, root))
    }

    fn run(&self, params: &Value, ctx: &mut StageContext) -> Result<(), StageError> {
        let params = parse(params).map_err(|problem| {
            StageError::failed(format!("{}: {}", problem.path.join("."), problem.message))
        })?;
        S::run(params, ctx)
    }
}

fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, ParamProblem> {
    // Keeping track of the path takes time, and mostly nothing is wrong.
    if let Ok(params) = T::deserialize(value) {
        return Ok(params);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        let path = path.collect();
        ParamProblem {
            path,
            message: error.into_inner().to_string(),
        }
    })
}

/// A node's params with relative paths of files made absolute: a worker knows no spec to be relative to.
pub(crate) fn params_with_paths(node: &Node, root: &Path) -> Value {
    let mut params = node.params.value();
    for file in node.files.iter() {
        match params.pointer_mut(&format!("/{}", file.field.replace('.', "/"))) {
            Some(Value::String(path)) => absolute(path, root),
            Some(Value::Array(paths)) => {
                for path in paths {
                    if let Value::String(path) = path {
                        absolute(path, root);
                    }
                }
            }
            _ => {}
        }
    }
    params
}

fn absolute(path: &mut String, root: &Path) {
    *path = root.join(&*path).to_string_lossy().into_owned();
}

/// The kinds a binary knows, by name.
#[derive(Default)]
pub struct Registry {
    kinds: BTreeMap<&'static str, Box<dyn Kind>>,
}

impl Registry {
    /// Adds a kind.
    #[must_use]
    pub fn with<S: Stage>(mut self) -> Self {
        self.kinds
            .insert(S::NAME, Box::new(Typed::<S>(std::marker::PhantomData)));
        self
    }

    /// The kind called `name`.
    pub fn get(&self, name: &str) -> Option<&dyn Kind> {
        self.kinds.get(name).map(Box::as_ref)
    }

    /// All kinds, by name.
    pub fn iter(&self) -> impl Iterator<Item = &dyn Kind> {
        self.kinds.values().map(Box::as_ref)
    }
}

/// Where an artifact came from, in the words of the spec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// The stage's name in the spec.
    pub stage: String,
    /// The output's name.
    pub output: String,
    /// The axes of the stage's node with their values.
    pub axes: BTreeMap<String, Value>,
    /// The arm that results count it to, such as `sft/easy+medium`.
    pub arm: String,
    /// Of an evaluation: what was evaluated, and on what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluated: Option<Evaluated>,
}

/// One artifact that a stage reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Where it came from. Only a kind that is [`Stage::LABELLED`] may let this reach its outputs.
    pub label: Label,
    /// Its content digest.
    pub digest: Digest,
    /// The folder with its files; read-only.
    pub dir: PathBuf,
}
