//! From a spec file to a [`Study`]: text, tree, declarations, axes, nodes.
//!
//! | module | step |
//! |---|---|
//! | [`source`] | files and overrides, merged into one tree ([`tree`], [`yaml`]) |
//! | [`document`] | the spec's own keys, axes ([`axis`]) |
//! | [`compile`] | templates ([`template`]), kinds, inputs |
//! | [`order`] | who comes first; circles |
//! | [`expand`] | cells ([`cells`], [`relation`]), params ([`fields`], [`params`], [`scope`]), references ([`link`]) |
//!
//! Each step goes on past mistakes as far as it can; what hangs on a mistake is not reported again.

mod axis;
mod axis_values;
mod cells;
mod compile;
mod document;
mod environment;
mod expand;
mod fields;
mod link;
mod mismatch;
mod names;
mod order;
mod origin;
mod overrides;
mod params;
mod pin;
mod place;
mod problem;
mod relation;
mod scope;
mod series;
mod source;
mod template;
mod tree;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use crate::diagnostic::{Diagnostics, Findings};
use crate::stage::Registry;
use crate::study::{NodeId, Source, Study};
use compile::{Names, Stage};
use document::Document;
use scope::Vars;

pub use document::VERSION;

/// A spec that can be planned.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The study.
    pub study: Study,
    /// What is allowed and probably not meant.
    pub warnings: Diagnostics,
}

/// Reads the spec at `path`, applies `overrides` (`a.b.c=value`), and resolves it against the kinds of
/// `registry`.
///
/// # Errors
/// All mistakes that can be found in one go, in the order of the text.
pub fn load(path: &Path, overrides: &[String], registry: &Registry) -> Result<Loaded, Diagnostics> {
    let mut findings = Findings::default();
    let mut sources = source::Sources::default();
    let mut named = BTreeMap::new();
    let study = source::read(path, &mut sources, &mut findings).and_then(|mut tree| {
        let first_override = sources.texts.len() as u32;
        overrides::override_all(&mut tree, overrides, &mut sources, &mut findings);
        environment::named_in(&tree, &mut named);
        axis_values::fill(&mut tree, &mut findings);
        let document = document::read(&tree, &mut findings);
        resolve(path, document, first_override, registry, &mut findings)
    });
    let failed = findings.errors() > 0;
    let diagnostics = findings.finish(sources.texts);
    match study.filter(|_| !failed) {
        Some(mut study) => {
            study.sources = diagnostics.sources.clone();
            study.overrides = overrides.to_vec();
            study.environment = named;
            Ok(Loaded {
                study,
                warnings: diagnostics,
            })
        }
        None => Err(diagnostics),
    }
}

/// Reads `text` as one YAML value, by the rules of a spec; `name` stands in messages where a file's name would.
///
/// # Errors
/// The mistakes of the text.
pub fn value(name: &str, text: &str) -> Result<serde_json::Value, Diagnostics> {
    yaml::parse(text, 0)
        .map(|tree| tree.to_value())
        .map_err(|mistakes| {
            let mut findings = Findings::default();
            mistakes
                .into_iter()
                .for_each(|mistake| findings.push(mistake));
            findings.finish(vec![Source::File {
                path: name.into(),
                text: text.to_owned(),
            }])
        })
}

fn resolve(
    path: &Path,
    document: Document<'_>,
    first_override: u32,
    registry: &Registry,
    findings: &mut Findings,
) -> Option<Study> {
    let Document {
        name,
        vars,
        matrix,
        stages: decls,
    } = document;
    cells::check_rules(&matrix, &matrix.axes, findings);
    let var_names: Vec<String> = vars
        .entries()
        .unwrap_or_default()
        .iter()
        .map(|entry| entry.key.clone())
        .collect();
    let vars = Vars::new(vars, findings);
    let names = Names {
        stages: decls
            .iter()
            .enumerate()
            .map(|(index, decl)| (decl.name.as_str(), index))
            .collect(),
        axes: matrix.axes.iter().map(|axis| axis.name.as_str()).collect(),
        vars: var_names.iter().map(String::as_str).collect(),
    };
    let mut stages: Vec<Stage<'_>> = decls
        .iter()
        .map(|decl| compile::compile(decl, &names, registry, findings))
        .collect();
    let order = order::order(&mut stages, findings);
    if vars.cyclic {
        return None;
    }
    let root = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let root = root.parent().unwrap_or(Path::new(".")).to_path_buf();
    let origins = origin::Origins {
        root: root.clone(),
        first_override,
    };
    let expanded = expand::Expander::new(&stages, &vars, &matrix, origins).run(&order, findings);
    let cells = pipelines(&expanded.own);
    Some(Study {
        name,
        spec: path.to_path_buf(),
        root,
        sources: Vec::new(),
        overrides: Vec::new(),
        environment: BTreeMap::new(),
        nodes: expanded.nodes,
        cells,
    })
}

/// How many stages there would be if each node that no other reads one by one had a pipeline of its own.
fn pipelines(reads: &[Vec<NodeId>]) -> usize {
    let mut leaf = vec![true; reads.len()];
    reads.iter().flatten().for_each(|node| leaf[node.0] = false);
    let mut seen_by = vec![usize::MAX; reads.len()];
    let mut stack = Vec::new();
    let mut count = 0;
    for sink in (0..reads.len()).filter(|&node| leaf[node]) {
        stack.push(sink);
        while let Some(node) = stack.pop() {
            if std::mem::replace(&mut seen_by[node], sink) != sink {
                count += 1;
                stack.extend(reads[node].iter().map(|node| node.0));
            }
        }
    }
    count
}
