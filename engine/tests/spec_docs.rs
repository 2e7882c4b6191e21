//! The specs in `docs/spec.md` load.

use std::path::Path;

use dcsft_engine::context::StageContext;
use dcsft_engine::kind::{
    ArtifactType, Cardinality, InputDecl, OutputDecl, Registry, Stage, StageError,
};
use dcsft_engine::spec::{Loaded, load};
use serde_json::{Map, Value};

/// A kind that takes any params: `kind!(Type, "name", [(input, cardinality, artifact)], [(output, artifact)])`.
macro_rules! kind {
    ($type:ident, $name:literal, [$(($input:literal, $cardinality:ident, $accepts:ident)),*], [$(($output:literal, $artifact:ident)),*]) => {
        struct $type;

        impl Stage for $type {
            type Params = Map<String, Value>;
            const NAME: &'static str = $name;
            const VERSION: u32 = 1;
            const SUMMARY: &'static str = $name;
            const INPUTS: &'static [InputDecl] = &[$(InputDecl {
                name: $input,
                cardinality: Cardinality::$cardinality,
                accepts: &[ArtifactType::$accepts],
                doc: $input,
            }),*];
            const NUMERIC: bool = false;

            fn outputs(_: &Self::Params) -> Vec<OutputDecl> {
                vec![$(OutputDecl::new($output, ArtifactType::$artifact)),*]
            }

            fn run(_: Self::Params, _: &mut StageContext) -> Result<(), StageError> {
                Ok(())
            }
        }
    };
}

kind!(
    Shapes,
    "shapes",
    [],
    [
        ("train", Dataset),
        ("val", Dataset),
        ("cold_start", Dataset)
    ]
);
kind!(Model, "model", [], [("model", Model)]);
kind!(
    Sft,
    "sft",
    [("model", One, Model), ("data", One, Dataset)],
    [("model", Model), ("log", TrainingLog)]
);
kind!(
    Eval,
    "eval",
    [("model", One, Model), ("data", One, Dataset)],
    [("metrics", Evaluation)]
);
kind!(
    Report,
    "report",
    [("evals", Many, Evaluation), ("logs", Many, TrainingLog)],
    [("report", Report)]
);

/// The blocks of the document that are specs or parts of one.
fn blocks() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec.md");
    let text = std::fs::read_to_string(path).expect("docs/spec.md");
    text.split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// Loads a block; one that is no whole spec is laid on the first.
fn load_block(first: &str, block: &str) -> Loaded {
    let dir = tempfile::tempdir().expect("a scratch folder");
    std::fs::write(dir.path().join("first.yaml"), first).expect("the first spec");
    let whole = block.starts_with("dcsft:") || block.starts_with("extends:");
    let text = if whole {
        block.to_owned()
    } else {
        format!("extends: first.yaml\n{block}")
    };
    let path = dir.path().join("block.yaml");
    std::fs::write(&path, &text).expect("the block");
    let registry = Registry::default()
        .with::<Shapes>()
        .with::<Model>()
        .with::<Sft>()
        .with::<Eval>()
        .with::<Report>();
    load(&path, &[], &registry).unwrap_or_else(|found| panic!("{found}\n{text}"))
}

fn titles(loaded: &Loaded, stage: &str) -> Vec<String> {
    loaded
        .study
        .nodes
        .iter()
        .filter(|node| node.stage == stage)
        .map(dcsft_engine::study::Node::title)
        .collect()
}

#[test]
fn every_spec_of_the_document_loads() {
    let blocks = blocks();
    assert!(blocks.len() >= 8, "only {} blocks", blocks.len());
    for block in &blocks {
        let loaded = load_block(&blocks[0], block);
        assert!(
            loaded.warnings.is_empty(),
            "{}",
            loaded.warnings.render(false)
        );
    }
}

#[test]
fn what_the_document_says_of_its_examples_is_so() {
    let blocks = blocks();
    let block = |part: &str| {
        let found = blocks
            .iter()
            .find(|block| block.contains(part))
            .expect("the block");
        load_block(&blocks[0], found)
    };
    let pins = block("per_seed:");
    assert_eq!(titles(&pins, "best"), ["best"]);
    assert_eq!(
        titles(&pins, "per_seed"),
        ["per_seed[seed=0]", "per_seed[seed=1]"]
    );
    assert_eq!(titles(&block("range:"), "sft").len(), 5 * 2 * 3 * 3 * 3);
    assert_eq!(
        titles(&block("exclude:"), "sft"),
        [
            "sft[rate=0.001,seed=0,subset=train]",
            "sft[rate=0.0001,seed=0,subset=train]",
            "sft[rate=0.001,seed=0,subset=val]",
            "sft[rate=0.01,seed=0,subset=cold_start]",
            "sft[rate=0.001,seed=1,subset=val]",
            "sft[rate=0.01,seed=1,subset=cold_start]",
        ]
    );
    let child = block("five-seeds");
    assert_eq!(titles(&child, "world").len(), 5);
    assert!(titles(&child, "report").is_empty());
}
