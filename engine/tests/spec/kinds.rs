//! Stage kinds for tests of specs: every shape of input, output and param, and no work.

#![allow(dead_code)] // each test binary uses some of it

use std::path::Path;

use dcsft_engine::spec::{Loaded, load};
use dcsft_engine::stage::{
    ArtifactType, Cardinality, FileParam, InputDecl, KindDecl, Numerics, OutputDecl, ParamProblem,
    Registry, Stage, StageContext, StageError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The arithmetic of a device, as the keys of these tests have it.
pub(crate) fn numerics(device: &str) -> Numerics {
    let class = device.split(':').next().unwrap_or_default();
    Numerics {
        backend: if class == "cpu" { "flex" } else { class }.to_owned(),
        dtype: "f32".to_owned(),
    }
}

/// The kinds.
pub(crate) fn registry() -> Registry {
    Registry::new(numerics)
        .with::<World>()
        .with::<Split>()
        .with::<Train>()
        .with::<Eval>()
        .with::<Report>()
}

/// Images, prompts, answers.
pub(crate) struct World;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorldParams {
    /// Seed.
    seed: u64,
    /// Samples.
    #[schemars(range(min = 1))]
    size: u32,
    /// A file of one's own.
    path: Option<String>,
}

impl Default for WorldParams {
    fn default() -> Self {
        Self {
            seed: 0,
            size: 100,
            path: None,
        }
    }
}

impl Stage for World {
    type Params = WorldParams;
    const DECL: KindDecl = KindDecl {
        name: "world",
        version: 1,
        summary: "Makes samples.",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["path"]],
    };

    fn outputs(_: &WorldParams) -> Vec<OutputDecl> {
        ["train", "val", "easy", "easy+medium"]
            .map(|name| OutputDecl::new(name, ArtifactType::Dataset))
            .into()
    }

    fn files(params: &WorldParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let file = |path: &String| FileParam {
            field: "path".into(),
            files: vec![(path.clone(), root.join(path))],
            required: true,
        };
        Ok(params.path.iter().map(file).collect())
    }

    fn run(_: WorldParams, _: &mut StageContext) -> Result<(), StageError> {
        Ok(())
    }
}

/// Parts of a dataset whose names the params give.
pub(crate) struct Split;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SplitParams {
    /// Names of the parts.
    parts: Vec<String>,
    /// Upper bound of what is hard.
    bound: f64,
}

impl Stage for Split {
    type Params = SplitParams;
    const DECL: KindDecl = KindDecl {
        name: "split",
        version: 1,
        summary: "Cuts a dataset into parts.",
        inputs: &[InputDecl {
            name: "data",
            cardinality: Cardinality::One,
            accepts: &[ArtifactType::Dataset],
            doc: "What is cut.",
        }],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(params: &SplitParams) -> Vec<OutputDecl> {
        params
            .parts
            .iter()
            .map(|part| OutputDecl::new(part, ArtifactType::Dataset))
            .collect()
    }

    fn run(_: SplitParams, _: &mut StageContext) -> Result<(), StageError> {
        Ok(())
    }
}

/// Training.
pub(crate) struct Train;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainParams {
    /// Steps.
    steps: u32,
    /// Learning rate.
    #[serde(default = "lr")]
    #[schemars(range(min = 0.0))]
    lr: f64,
    /// How the rate falls.
    #[serde(default)]
    schedule: Schedule,
    /// Adapters instead of all weights.
    #[serde(default)]
    lora: Option<Lora>,
    /// Seed.
    #[serde(default)]
    seed: u64,
    /// A word for people.
    #[serde(default)]
    note: String,
}

fn lr() -> f64 {
    1e-3
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Schedule {
    #[default]
    Constant,
    /// Half a cosine.
    Cosine,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Lora {
    /// Rank.
    #[schemars(range(min = 1, max = 256))]
    rank: u32,
    /// Module groups.
    targets: Vec<Target>,
}

impl Default for Lora {
    fn default() -> Self {
        Self {
            rank: 8,
            targets: vec![Target::Decoder],
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Target {
    Vision,
    Decoder,
}

impl Stage for Train {
    type Params = TrainParams;
    const DECL: KindDecl = KindDecl {
        name: "train",
        version: 1,
        summary: "Trains.",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::Optional,
                accepts: &[ArtifactType::Model],
                doc: "What training starts from.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "What is trained on.",
            },
        ],
        numeric: true,
        labelled: false,
        shardable: false,
        paths: &[],
    };

    fn outputs(params: &TrainParams) -> Vec<OutputDecl> {
        let mut outputs = vec![OutputDecl::new("model", ArtifactType::Model)];
        outputs.extend(
            (100..=params.steps)
                .step_by(100)
                .map(|step| OutputDecl::new(format!("step-{step}"), ArtifactType::Model)),
        );
        outputs.push(OutputDecl::new("log", ArtifactType::TrainingLog));
        outputs
    }

    fn check(params: &TrainParams) -> Vec<ParamProblem> {
        let mut problems = Vec::new();
        if params.steps == 13 {
            problems.push(ParamProblem::new(
                "steps",
                "13 steps bring bad luck; take 14",
            ));
        }
        problems
    }

    fn run(_: TrainParams, _: &mut StageContext) -> Result<(), StageError> {
        Ok(())
    }
}

/// Measuring.
pub(crate) struct Eval;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct EvalParams {}

impl Stage for Eval {
    type Params = EvalParams;
    const DECL: KindDecl = KindDecl {
        name: "eval",
        version: 1,
        summary: "Measures a model.",
        inputs: &[
            InputDecl {
                name: "model",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Model],
                doc: "What is measured.",
            },
            InputDecl {
                name: "data",
                cardinality: Cardinality::One,
                accepts: &[ArtifactType::Dataset],
                doc: "What it is measured on.",
            },
        ],
        numeric: true,
        labelled: false,
        shardable: true,
        paths: &[],
    };

    fn outputs(_: &EvalParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("metrics", ArtifactType::Evaluation)]
    }

    fn run(_: EvalParams, _: &mut StageContext) -> Result<(), StageError> {
        Ok(())
    }
}

/// Tables.
pub(crate) struct Report;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReportParams {}

impl Stage for Report {
    type Params = ReportParams;
    const DECL: KindDecl = KindDecl {
        name: "report",
        version: 1,
        summary: "Writes tables.",
        inputs: &[
            InputDecl {
                name: "evals",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::Evaluation],
                doc: "What the tables show.",
            },
            InputDecl {
                name: "logs",
                cardinality: Cardinality::Many,
                accepts: &[ArtifactType::TrainingLog],
                doc: "Curves.",
            },
        ],
        numeric: false,
        labelled: true,
        shardable: false,
        paths: &[],
    };

    fn outputs(_: &ReportParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new("tables", ArtifactType::Report)]
    }

    fn run(_: ReportParams, _: &mut StageContext) -> Result<(), StageError> {
        Ok(())
    }
}

/// Loads `files` (name, text), the first of which is the spec. Messages name files without their folder.
pub(crate) fn load_files(files: &[(&str, &str)], overrides: &[&str]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().expect("a scratch folder");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("a scratch file");
    }
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let prefix = format!("{}/", dir.path().display());
    load(&dir.path().join(files[0].0), &overrides, &registry())
        .map_err(|found| found.render(false).replace(&prefix, ""))
}

/// Loads `stages` (indented by two) below a head.
pub(crate) fn load_stages(stages: &str) -> Result<Loaded, String> {
    load_text(&format!("dcsft: 1\nname: test\n{stages}"))
}

/// Loads one spec.
pub(crate) fn load_text(text: &str) -> Result<Loaded, String> {
    load_files(&[("spec.yaml", text)], &[])
}

/// Titles of all nodes, in order.
pub(crate) fn titles(loaded: &Loaded) -> Vec<String> {
    loaded
        .study
        .nodes
        .iter()
        .map(dcsft_engine::study::Node::title)
        .collect()
}
