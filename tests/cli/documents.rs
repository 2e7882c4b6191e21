//! The specs in the documents load with the real kinds: a key or a param that does not exist is found here.

use std::path::{Path, PathBuf};

use dcsft_engine::spec::{Loaded, load};
use dcsft_engine::study::Node;

/// What blocks of the stages' pages are laid on.
const SWEEP: &str = include_str!("../../experiments/difficulty_sweep.yaml");

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The blocks of a document that are specs or parts of one.
fn blocks(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(project(document)).expect(document);
    let blocks = text.split("```yaml\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// Loads the last of `files` (name, text).
fn load_last(files: &[(&str, &str)]) -> Result<Loaded, String> {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let mut path = PathBuf::new();
    for (name, text) in files {
        path = dir.path().join(name);
        std::fs::write(&path, text).expect("a spec");
    }
    load(&path, &[], &dcsft_stages::registry()).map_err(|found| found.render(false))
}

/// Loads a block of `docs/spec.md`; one that is no whole spec is laid on the first.
fn load_block(first: &str, block: &str) -> Loaded {
    let whole = block.starts_with("dcsft:") || block.starts_with("extends:");
    let text = if whole {
        block.to_owned()
    } else {
        format!("extends: first.yaml\n{block}")
    };
    load_last(&[("first.yaml", first), ("block.yaml", &text)])
        .unwrap_or_else(|found| panic!("{found}\n{text}"))
}

fn titles(loaded: &Loaded, stage: &str) -> Vec<String> {
    let nodes = loaded.study.nodes.iter();
    nodes
        .filter(|node| node.stage == stage)
        .map(Node::title)
        .collect()
}

#[test]
fn every_spec_of_the_language_page_loads() {
    let blocks = blocks("docs/spec.md");
    assert!(blocks.len() >= 9, "only {} blocks", blocks.len());
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
fn the_spec_of_the_readme_loads() {
    let blocks = blocks("README.md");
    assert!(!blocks.is_empty());
    for block in blocks {
        if let Err(found) = load_last(&[("readme.yaml", &block)]) {
            panic!("{found}\n{block}");
        }
    }
}

/// The specs of the page about programs as stages; the programs are the reader's.
#[test]
fn every_spec_of_the_page_about_programs_loads() {
    let blocks = blocks("docs/command-stages.md");
    assert!(!blocks.is_empty());
    for block in blocks {
        let Err(found) = load_last(&[("block.yaml", &block)]) else {
            continue;
        };
        let errors = found.lines().filter(|line| line.starts_with("error: "));
        let others: Vec<&str> = errors
            .filter(|line| !line.contains("there is no file or folder"))
            .collect();
        assert!(others.is_empty(), "{found}\n{block}");
    }
}

/// A block of a kind's page shows one stage. It takes the place of the sweep's stage of that name; one that does not
/// say what it `uses` is laid over it. Files of the reader's are not here.
#[test]
fn every_stage_of_the_kinds_pages_loads() {
    let pages = std::fs::read_dir(project("docs/stages")).expect("docs/stages");
    let mut count = 0;
    for page in pages {
        let page = page.expect("a page").path();
        for block in blocks(page.to_str().expect("UTF-8")) {
            count += 1;
            let name = block.split(':').next().unwrap_or_default();
            let gone = if block.contains("uses:") {
                format!("  {name}: null\n")
            } else {
                String::new()
            };
            let base = format!("extends: sweep.yaml\nstages:\n{gone}");
            let stages: String = block.lines().map(|line| format!("  {line}\n")).collect();
            let text = format!("extends: base.yaml\nstages:\n{stages}");
            let found = load_last(&[
                ("sweep.yaml", SWEEP),
                ("base.yaml", &base),
                ("block.yaml", &text),
            ]);
            let Err(found) = found else { continue };
            let errors = found.lines().filter(|line| line.starts_with("error: "));
            let others: Vec<&str> = errors
                .filter(|line| !line.contains("there is no file or folder"))
                .collect();
            assert!(others.is_empty(), "{}: {found}\n{text}", page.display());
        }
    }
    assert!(count >= 12, "only {count} blocks");
}

#[test]
fn what_the_language_page_says_of_its_examples_is_so() {
    let blocks = blocks("docs/spec.md");
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
        titles(&block("every:"), "eval_steps"),
        [
            "eval_steps[step=100]",
            "eval_steps[step=200]",
            "eval_steps[step=300]",
        ]
    );
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
