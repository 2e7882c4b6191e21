//! Params of the stage `model`: one set of fields for each kind, told apart by `kind`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{FileParam, ParamProblem};
use dcsft_models::micro::MicroConfig;
use dcsft_models::{FAMILIES, Precision, Quantize, Settings, check_quantize, inspect};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

/// Which architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelKind {
    /// A ViT patch encoder, a projector and a causal decoder, small enough to pre-train in a minute.
    #[default]
    Micro,
    /// Whichever family the checkpoint's `config.json` names.
    Auto,
    /// One family, by its name.
    Family(&'static str),
}

impl ModelKind {
    const MICRO: &'static str = "micro";
    const AUTO: &'static str = "auto";

    /// The kind as specs write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Micro => Self::MICRO,
            Self::Auto => Self::AUTO,
            Self::Family(name) => name,
        }
    }

    /// All kinds.
    fn all() -> impl Iterator<Item = Self> {
        let families = FAMILIES.into_iter().map(|kind| Self::Family(kind.name));
        [Self::Micro, Self::Auto].into_iter().chain(families)
    }
}

impl Serialize for ModelKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for ModelKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::all().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<String> = Self::all()
                .map(|kind| format!("`{}`", kind.name()))
                .collect();
            D::Error::custom(format!(
                "unknown variant `{name}`, expected one of {}",
                names.join(", ")
            ))
        })
    }
}

impl JsonSchema for ModelKind {
    fn schema_name() -> Cow<'static, str> {
        "ModelKind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let micro = "A ViT patch encoder, a projector and a causal decoder, small enough to pre-train in a minute.";
        let auto = "A checkpoint's folder in Hugging Face's layout, of the family that its config.json names.";
        let variant = |kind: ModelKind| {
            let description = match kind {
                Self::Micro => micro.to_owned(),
                Self::Auto => auto.to_owned(),
                Self::Family(name) => {
                    format!(
                        "A checkpoint's folder in Hugging Face's layout, of the family {name} alone."
                    )
                }
            };
            json!({"description": description, "type": "string", "const": kind.name()})
        };
        let variants: Vec<Value> = Self::all().map(variant).collect();
        json_schema!({"description": "Which architecture.", "oneOf": variants})
    }
}

/// Where the weights of a checkpoint come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// The folder's safetensors.
    #[default]
    Checkpoint,
    /// A random draw in the shape that the folder's `config.json` describes: for benchmarks and smoke runs.
    Random,
}

/// A checkpoint of the user's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckpointParams {
    /// The family that it has to be of, or any.
    #[serde(skip)]
    pub kind: ModelKind,
    /// The folder.
    pub path: String,
    /// Where the weights come from.
    pub init: Init,
    /// Seed of random weights; 0 for a checkpoint's.
    pub seed: u64,
    /// What the model runs under.
    #[serde(flatten)]
    pub settings: Settings,
}

/// What a model is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// Random weights of a micro VLM.
    Micro {
        /// Sizes and vocabulary.
        sizes: MicroConfig,
        /// Seed of the weights.
        seed: u64,
    },
    /// A checkpoint's folder.
    Checkpoint(CheckpointParams),
}

/// `with:` of `model`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelParams {
    /// What the model is made of.
    pub source: Source,
    /// Fields that the kind needs or does not have.
    problems: Vec<ParamProblem>,
}

/// The fields of all kinds, as specs write them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Which architecture.
    #[serde(default)]
    kind: ModelKind,
    /// Seed of random weights.
    #[serde(default)]
    seed: u64,
    /// A checkpoint: its folder, relative to the spec. The content of its files is part of the key.
    #[serde(default)]
    path: Option<String>,
    /// A checkpoint: take its weights, or draw random ones in its shape, with the standard deviation of
    /// its `initializer_range`.
    #[serde(default)]
    init: Init,
    /// A checkpoint: number type of weights and activations. Adapters, losses and optimiser states are `f32` always.
    #[serde(default)]
    precision: Precision,
    /// A checkpoint: hold the weights of all linear layers but the output head in whole numbers of 8 or 4 bits, in blocks
    /// of 32 with a scale, as QLoRA does its base. Such weights are not trained; `sft` and `grpo` train `lora` beside them.
    #[serde(default)]
    quantize: Quantize,
    /// A checkpoint: least area of an image in pixels, in the place of its own; smaller images are enlarged.
    /// MIN_PIXELS of ms-swift.
    #[serde(default)]
    #[schemars(range(min = 1))]
    min_pixels: Option<usize>,
    /// A checkpoint: largest area of an image in pixels, in the place of its own; larger images are reduced.
    /// MAX_PIXELS of ms-swift.
    #[serde(default)]
    #[schemars(range(min = 1))]
    max_pixels: Option<usize>,
    /// A checkpoint: longest sequence in tokens: prompt, image and answer together. A sample that does not fit is left
    /// out with its reason and never cut. Like max_length of ms-swift, but with the image's tokens.
    #[serde(default)]
    #[schemars(range(min = 1))]
    max_tokens: Option<usize>,
    #[serde(flatten)]
    sizes: MicroConfig,
}

/// Fields that every kind has.
const COMMON: [&str; 2] = ["kind", "seed"];
/// Fields of checkpoints; all others are sizes of `micro`.
const CHECKPOINT: [&str; 7] = [
    "path",
    "init",
    "precision",
    "quantize",
    "min_pixels",
    "max_pixels",
    "max_tokens",
];

impl ModelParams {
    /// Mistakes that types alone do not catch.
    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        if !self.problems.is_empty() {
            return self.problems.clone();
        }
        match &self.source {
            Source::Micro { sizes, .. } => sizes
                .validate()
                .err()
                .map(|error| ParamProblem::new("", error.to_string()))
                .into_iter()
                .collect(),
            Source::Checkpoint(CheckpointParams { settings, .. }) => {
                match (settings.min_pixels, settings.max_pixels) {
                    (Some(least), Some(most)) if least > most => vec![ParamProblem::new(
                        "min_pixels",
                        format!("{least} is above `max_pixels`, which is {most}"),
                    )],
                    _ => Vec::new(),
                }
            }
        }
    }

    /// The checkpoint's files.
    pub(super) fn files(&self, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let Source::Checkpoint(params) = &self.source else {
            return Ok(Vec::new());
        };
        let folder = root.join(&params.path);
        let files = if folder.is_dir() {
            // Before the files are counted: a folder that is no checkpoint of this family has a better error.
            let found = inspect(&folder, params.init == Init::Checkpoint)
                .map_err(|error| ParamProblem::new("path", error.to_string()))?;
            if let ModelKind::Family(name) = params.kind
                && name != found.name
            {
                let message = format!(
                    "{} holds a `{found}` checkpoint; write `kind: auto` or `kind: {found}` for it",
                    folder.display(),
                    found = found.name
                );
                return Err(ParamProblem::new("path", message));
            }
            check_quantize(&folder, params.settings.quantize)
                .map_err(|error| ParamProblem::new("quantize", error.to_string()))?;
            checkpoint_files(&folder, params.init)?
        } else if folder.exists() {
            let message = format!(
                "{} is a file; name the checkpoint's folder, with config.json in it",
                folder.display()
            );
            return Err(ParamProblem::new("path", message));
        } else {
            vec![(String::new(), folder)]
        };
        Ok(vec![FileParam {
            field: "path".into(),
            files,
            required: true,
        }])
    }
}

/// Name and path of each file of a checkpoint's folder. Hidden files and folders in it are no part of the checkpoint,
/// and neither are the weights where they are not read.
fn checkpoint_files(folder: &Path, init: Init) -> Result<Vec<(String, PathBuf)>, ParamProblem> {
    let fail =
        |error: std::io::Error| ParamProblem::new("path", format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let weights = name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json");
        // Not the entry's own type: the hub's download folder holds links to its files.
        if path.is_file() && !name.starts_with('.') && !(weights && init == Init::Random) {
            files.push((name, path));
        }
    }
    files.sort();
    Ok(files)
}

impl<'de> Deserialize<'de> for ModelParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Map::<String, Value>::deserialize(deserializer)?;
        let fields: Fields =
            serde_json::from_value(Value::Object(given.clone())).map_err(D::Error::custom)?;
        let problems = misplaced(&given, &fields);
        let Fields { kind, seed, .. } = fields;
        let source = match kind {
            ModelKind::Micro => Source::Micro {
                sizes: fields.sizes,
                seed,
            },
            _ => Source::Checkpoint(CheckpointParams {
                kind,
                path: fields.path.unwrap_or_default(),
                init: fields.init,
                seed,
                settings: Settings {
                    precision: fields.precision,
                    quantize: fields.quantize,
                    min_pixels: fields.min_pixels,
                    max_pixels: fields.max_pixels,
                    max_tokens: fields.max_tokens,
                },
            }),
        };
        Ok(Self { source, problems })
    }
}

/// Fields of another kind than the one that is meant, and the one that is missing.
fn misplaced(given: &Map<String, Value>, fields: &Fields) -> Vec<ParamProblem> {
    let kind = fields.kind;
    let mut problems = Vec::new();
    let written = given.iter().filter(|(_, value)| !value.is_null());
    for name in written.map(|(name, _)| name.as_str()) {
        let micro = kind == ModelKind::Micro;
        if COMMON.contains(&name) || CHECKPOINT.contains(&name) != micro {
            continue;
        }
        let other = match micro {
            true => "checkpoints, such as `kind: auto`",
            false => "`kind: micro`",
        };
        let message = format!(
            "is a param of {other}, and this model is `kind: {}`",
            kind.name()
        );
        problems.push(ParamProblem::new(name, message));
    }
    if kind != ModelKind::Micro {
        if fields.path.as_deref().is_none_or(str::is_empty) {
            let message = "is missing: the checkpoint's folder, with config.json in it";
            problems.push(ParamProblem::new("path", message));
        }
        if fields.init == Init::Checkpoint && fields.seed != 0 {
            let message = "has no effect: the checkpoint's weights are not drawn; leave it out, or write `init: random`";
            problems.push(ParamProblem::new("seed", message));
        }
    }
    problems
}

impl Serialize for ModelParams {
    /// The fields of the kind alone: what another kind is made of is no part of this one's key.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Micro<'a> {
            kind: ModelKind,
            seed: u64,
            #[serde(flatten)]
            sizes: &'a MicroConfig,
        }
        #[derive(Serialize)]
        struct Checkpoint<'a> {
            kind: ModelKind,
            #[serde(flatten)]
            params: &'a CheckpointParams,
        }
        match &self.source {
            Source::Micro { sizes, seed } => Micro {
                kind: ModelKind::Micro,
                seed: *seed,
                sizes,
            }
            .serialize(serializer),
            Source::Checkpoint(params) => Checkpoint {
                kind: params.kind,
                params,
            }
            .serialize(serializer),
        }
    }
}

impl JsonSchema for ModelParams {
    fn schema_name() -> Cow<'static, str> {
        "ModelParams".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Fields::json_schema(generator)
    }
}
