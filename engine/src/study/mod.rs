//! A spec after resolution: concrete stages with typed params, ready to be planned.

pub mod id;
mod label;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stage::{FieldPath, FileParam, OutputDecl, Params};
use crate::text::plain;

pub use id::StudyId;
pub use source::Source;

/// Index of a [`Node`] in [`Study::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// A resolved spec.
#[derive(Clone, Debug)]
pub struct Study {
    /// `name:` of the spec.
    pub name: String,
    /// The spec file.
    pub spec: PathBuf,
    /// What relative paths are relative to: the spec's folder.
    pub root: PathBuf,
    /// The spec and those it extends, in order of reading, then each override.
    pub sources: Vec<Source>,
    /// `--set` overrides that were applied, as given.
    pub overrides: Vec<String>,
    /// The environment's variables that the spec names and that are set, with their values.
    pub environment: BTreeMap<String, String>,
    /// Concrete stages in topological order, each once.
    pub nodes: Vec<Node>,
    /// How many stage instances there would be if every cell of the axes ran its own pipeline: for each node
    /// that no other reads one by one, itself and its ancestors. Gathered inputs (`[*]`) do not count as
    /// ancestors: a report reads many pipelines and belongs to none.
    pub cells: usize,
}

/// One concrete stage.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its index.
    pub id: NodeId,
    /// Its name in the spec.
    pub stage: String,
    /// `uses:`.
    pub kind: String,
    /// The axes it depends on, with their values here.
    pub axes: BTreeMap<String, Value>,
    /// The arm that results count it to: `arm:` of the spec if given; else the stage's name and, after a
    /// slash, the values of the axes that the stage itself declares (`sft/easy+medium`). An evaluation takes
    /// the arm of its model.
    pub arm: String,
    /// Params, defaults filled in. Relative paths are relative to [`Study::root`].
    pub params: Params,
    /// References by input name, in the order of the spec.
    pub inputs: Vec<(String, Vec<Reference>)>,
    /// Outputs, default first.
    pub outputs: Arc<[OutputDecl]>,
    /// The user's files that params name, paths absolute.
    pub files: Arc<[FileParam]>,
    /// What never enters the key.
    pub execution: ExecutionOptions,
    /// Where it stands in the spec.
    pub place: Place,
    /// Where each field of `with:` stands, for `why`; for a field that is one var, where the
    /// var stands.
    pub places: Arc<BTreeMap<FieldPath, Place>>,
}

/// Another stage's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Which stage.
    pub node: NodeId,
    /// Which of its outputs.
    pub output: String,
}

/// A place in a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index into [`Study::sources`].
    pub source: usize,
    /// 1-based line.
    pub line: usize,
    /// 1-based column.
    pub column: usize,
}

/// How a stage is run; never part of its identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutionOptions {
    /// What it takes to run.
    pub resources: Resources,
    /// Seconds after which an attempt is stopped; also `90s`, `30m`, `2h` in the spec.
    pub timeout: Option<f64>,
    /// Further tries after a failure.
    pub retries: u32,
    /// Parts that its samples are cut into, each an attempt of its own.
    pub shards: Shards,
}

/// `shards:` of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shards {
    /// So many; 1 does not cut.
    Count(u32),
    /// As many as there is room for when the stage starts.
    Auto,
}

impl Shards {
    /// More cost more than they save, and no batch system takes them as one array.
    pub const MOST: u32 = 1000;
}

impl Default for Shards {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// `resources:` of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Accelerators.
    pub gpus: u32,
    /// Threads; none lets the scheduler share out the cores.
    pub threads: Option<usize>,
    /// Seconds of wall time, for batch systems; `2h` in the spec.
    pub time: Option<f64>,
    /// Bytes of memory; `16GiB` in the spec. On this machine stages run at once only as far as there is as much.
    pub memory: Option<u64>,
    /// The batch system's partition.
    pub partition: Option<String>,
    /// The batch system's account.
    pub account: Option<String>,
    /// Further arguments of the batch system's submission, as in `--constraint=a100`.
    pub flags: Vec<String>,
}

impl Study {
    /// The nodes in order, in pieces of which no node takes anything from another, none longer than `most`: what is
    /// worked out for each node can be worked out for those of a piece at once.
    pub fn waves(&self, most: usize) -> impl Iterator<Item = &[Node]> {
        let mut rest = &self.nodes[..];
        std::iter::from_fn(move || {
            let first = rest.first()?.id;
            let takes_from_wave = |node: &Node| {
                let mut references = node.inputs.iter().flat_map(|(_, references)| references);
                references.any(|reference| reference.node >= first)
            };
            let end = rest.iter().take(most).position(takes_from_wave);
            let (wave, after) = rest.split_at(end.unwrap_or(most.min(rest.len())));
            rest = after;
            Some(wave)
        })
    }

    /// A place as `file:line:column`; an override as it was given.
    pub fn place_text(&self, place: &Place) -> String {
        let at = |file: &Path| format!("{}:{}:{}", file.display(), place.line, place.column);
        match self.sources.get(place.source) {
            Some(source @ Source::Override { text }) => format!("{source} {text}"),
            Some(Source::File { path, .. }) => at(path),
            None => at(&self.spec),
        }
    }

    /// The spec and those it extends, with their texts, without overrides.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.sources.iter().filter_map(|source| match source {
            Source::File { path, text } => Some((path.as_path(), text.as_str())),
            Source::Override { .. } => None,
        })
    }
}

impl Node {
    /// A short name with the axes: `sft[subset=easy,seed=0]`.
    pub fn title(&self) -> String {
        if self.axes.is_empty() {
            return self.stage.clone();
        }
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={}", plain(value)))
            .collect();
        format!("{}[{}]", self.stage, axes.join(","))
    }

    /// Where a field of `with:`, or else the part of it that is written in the spec, stands.
    pub fn place_of(&self, field: &FieldPath) -> Option<&Place> {
        let mut path = Some(field.clone());
        while let Some(here) = path {
            if let Some(place) = self.places.get(&here) {
                return Some(place);
            }
            path = here.parent();
        }
        None
    }
}
