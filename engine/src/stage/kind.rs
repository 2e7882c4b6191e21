//! What a stage kind is: the one interface between the engine and whatever computes.
//!
//! A kind is written as a [`Stage`] (typed params, a version, named inputs and outputs, `run`) and handed to
//! the engine as a [`Kind`] object through [`Registry`]. The engine knows nothing else about it.

use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::context::StageContext;
use super::error::StageError;
use super::field::FieldPath;
use super::forecast::{Forecast, Prospect};
use super::numerics::Numerics;
use super::params::{FileParam, ParamProblem, ResolvedParams};
use super::ports::{InputDecl, OutputDecl};
use super::text::Params;

/// What a kind is, said once: what specs, schemas, plans and keys know of it.
#[derive(Clone, Copy, Debug)]
pub struct KindDecl {
    /// The name in `uses:`.
    pub name: &'static str,
    /// Part of every key: raise it when the same params and inputs give other bytes than before.
    pub version: u32,
    /// One sentence for `dcsft stages`.
    pub summary: &'static str,
    /// Fields of `with:` that take references.
    pub inputs: &'static [InputDecl],
    /// Whether results depend on the device's arithmetic (backend and dtype enter the key).
    pub numeric: bool,
    /// Whether the labels of the inputs (stage name, axes, arm) reach the output and so enter the key.
    pub labelled: bool,
    /// Whether the stage can be cut into [shards](crate::stage::Shard): run with one, it keeps what it computes for that
    /// part of its samples in its state folder and writes no output; run without, it takes what it finds in
    /// [`StageContext::parts`] and computes the rest. The outputs come out the same, byte for byte, however it is cut.
    pub shardable: bool,
    /// Fields of `with:` that are paths of files or folders (keys, outermost first). What is written in a spec is
    /// relative to the spec's folder, what comes with `--set` or from the environment to the current one; the kind is
    /// given the former as written and the latter absolute.
    pub paths: &'static [&'static [&'static str]],
}

/// A stage kind, as its author writes it.
pub trait Stage: Send + Sync + 'static {
    /// `with:` without the inputs. Must use `#[serde(deny_unknown_fields, default)]` or field defaults;
    /// doc comments become the user's documentation.
    type Params: DeserializeOwned + Serialize + JsonSchema + Send + Sync;
    /// What the kind is.
    const DECL: KindDecl;

    /// Outputs with these params; the first is the default one (`${stage}` without a name).
    fn outputs(params: &Self::Params) -> Vec<OutputDecl>;

    /// Mistakes that types alone do not catch.
    fn check(_params: &Self::Params) -> Vec<ParamProblem> {
        Vec::new()
    }

    /// Files that params name, each field one of [`KindDecl::paths`]; `root` is what relative paths are relative to.
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

/// A stage kind as the engine sees it.
pub trait Kind: Send + Sync {
    /// What the kind is.
    fn decl(&self) -> KindDecl;
    /// A field of `with:` that is a map from names of the user's choice to references. What is called `x` there is the
    /// input `field.x` of the stage. The kind's schema describes the field.
    fn open_inputs(&self) -> Option<&'static InputDecl> {
        None
    }
    /// The JSON Schema of the params, without the inputs.
    fn schema(&self) -> schemars::Schema;
    /// Parses and checks params (references already taken out).
    ///
    /// # Errors
    /// Every mistake found.
    fn resolve(&self, with: &Value, root: &Path) -> Result<ResolvedParams, Vec<ParamProblem>>;
    /// As [`Stage::forecast`]; nothing for params that do not parse.
    fn forecast(&self, _params: &Params, _prospect: &Prospect) -> Forecast {
        Forecast::default()
    }
    /// See [`Stage::family`]; none for params that do not parse.
    fn family(&self, _params: &Params) -> Option<Family> {
        None
    }
    /// See [`Stage::samples`]; `params` as [`Kind::resolve`] gave them.
    fn samples(&self, _params: &Params, _root: &Path) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
    /// Runs the stage with params as [`Kind::resolve`] gave them.
    ///
    /// # Errors
    /// See [`Stage::run`].
    fn run(&self, params: &Value, ctx: &mut StageContext) -> Result<(), StageError>;
}

/// The [`Kind`] of a [`Stage`].
struct Typed<S>(std::marker::PhantomData<S>);

impl<S: Stage> Kind for Typed<S> {
    fn decl(&self) -> KindDecl {
        S::DECL
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
        debug_assert!(files.iter().all(|file| {
            let mut paths = S::DECL.paths.iter();
            paths.any(|path| file.field.starts_with(&FieldPath::from(*path)))
        }));
        let value = serde_json::to_value(&params)
            .map_err(|error| vec![ParamProblem::new("", error.to_string())])?;
        Ok(ResolvedParams {
            params: Params::of(&value),
            outputs: S::outputs(&params),
            files,
        })
    }

    fn forecast(&self, params: &Params, prospect: &Prospect) -> Forecast {
        let params = params.read();
        params
            .map(|params| S::forecast(&params, prospect))
            .unwrap_or_default()
    }

    fn family(&self, params: &Params) -> Option<Family> {
        S::family(&params.read().ok()?)
    }

    fn samples(&self, params: &Params, root: &Path) -> BTreeMap<String, u64> {
        let params = params.read();
        params.map_or_else(|_| BTreeMap::new(), |params| S::samples(&params, root))
    }

    fn run(&self, params: &Value, ctx: &mut StageContext) -> Result<(), StageError> {
        let params = parse(params).map_err(|problem| {
            StageError::failed(format!("{}: {}", problem.path, problem.message))
        })?;
        S::run(params, ctx)
    }
}

/// `value` as `T`.
///
/// # Errors
/// What does not fit, with its field.
pub(crate) fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, ParamProblem> {
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
        let path: Vec<String> = path.collect();
        ParamProblem::new(path, error.into_inner().to_string())
    })
}

/// The kinds a binary knows, by name, and the arithmetic of its devices.
pub struct Registry {
    kinds: BTreeMap<&'static str, Box<dyn Kind>>,
    numerics: fn(&str) -> Numerics,
}

impl Registry {
    /// Without kinds; `numerics` says what arithmetic a device (`cpu`, `cuda:0`) has.
    pub fn new(numerics: fn(&str) -> Numerics) -> Self {
        Self {
            kinds: BTreeMap::new(),
            numerics,
        }
    }

    /// Adds a kind.
    #[must_use]
    pub fn with<S: Stage>(mut self) -> Self {
        self.kinds
            .insert(S::DECL.name, Box::new(Typed::<S>(std::marker::PhantomData)));
        self
    }

    /// Adds a kind that is no [`Stage`].
    #[must_use]
    pub fn with_kind(mut self, kind: impl Kind + 'static) -> Self {
        self.kinds.insert(kind.decl().name, Box::new(kind));
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

    /// The arithmetic of a device.
    pub fn numerics(&self, device: &str) -> Numerics {
        (self.numerics)(device)
    }
}
