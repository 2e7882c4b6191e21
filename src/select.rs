//! How users name stages: `sft`, or with as many of its axes as it takes, `sft[subset=easy]`.

use std::collections::{BTreeMap, BTreeSet};

use dcsft_engine::study::{Node, Study};
use dcsft_engine::text::plain;

use crate::exit::Failure;

/// Cells that a message lists.
const LISTED: usize = 12;

/// A stage's name with values of some of its axes.
#[derive(Debug, PartialEq)]
pub(crate) struct Selector<'a> {
    /// The stage.
    pub(crate) stage: &'a str,
    /// The axes that are given.
    pub(crate) axes: BTreeMap<&'a str, &'a str>,
}

impl<'a> Selector<'a> {
    /// Reads the selector at the beginning of `text`; returns what follows it too. None where it does not begin
    /// with one.
    pub(crate) fn parse(text: &'a str) -> Option<(Self, &'a str)> {
        let end = text.find(['[', '.']).unwrap_or(text.len());
        let (stage, mut rest) = text.split_at(end);
        let mut axes = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('[') {
            let (pairs, after) = inner.split_once(']')?;
            for pair in pairs.split(',') {
                let (axis, value) = pair.split_once('=')?;
                axes.insert(axis.trim(), value.trim());
            }
            rest = after;
        }
        (!stage.is_empty()).then_some((Self { stage, axes }, rest))
    }

    fn selects(&self, node: &Node) -> bool {
        let has = |(axis, value): (&&str, &&str)| {
            node.axes
                .get(*axis)
                .is_some_and(|own| plain(own) == **value)
        };
        node.stage == self.stage && self.axes.iter().all(has)
    }

    /// The stages that are meant.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn nodes<'s>(&self, study: &'s Study) -> Result<Vec<&'s Node>, Failure> {
        let found: Vec<&Node> = study
            .nodes
            .iter()
            .filter(|node| self.selects(node))
            .collect();
        if found.is_empty() {
            return Err(none(study, &self.to_string(), self.stage));
        }
        Ok(found)
    }
}

impl std::fmt::Display for Selector<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.stage)?;
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={value}"))
            .collect();
        if axes.is_empty() {
            return Ok(());
        }
        write!(f, "[{}]", axes.join(","))
    }
}

/// The stages that `name` means: all cells of a stage, those that have the given axes, or the one with this title.
///
/// # Errors
/// If there is none.
pub(crate) fn nodes<'s>(study: &'s Study, name: &str) -> Result<Vec<&'s Node>, Failure> {
    if let Some(node) = study.nodes.iter().find(|node| node.title() == name) {
        return Ok(vec![node]);
    }
    match Selector::parse(name) {
        Some((selector, "")) => selector.nodes(study),
        _ => Err(none(study, name, name.split('[').next().unwrap_or(name))),
    }
}

/// Titles of stages for a message, not too many.
pub(crate) fn listed(nodes: &[&Node]) -> String {
    let titles: Vec<String> = nodes.iter().take(LISTED).map(|node| node.title()).collect();
    let list = titles.join(", ");
    match nodes.len() - titles.len() {
        0 => list,
        more => format!("{list} and {more} more"),
    }
}

fn none(study: &Study, name: &str, stage: &str) -> Failure {
    let failure = Failure::usage(format!("the spec has no stage `{name}`"));
    let cells: Vec<&Node> = study
        .nodes
        .iter()
        .filter(|node| node.stage == stage)
        .collect();
    if cells.is_empty() {
        let stages: BTreeSet<&str> = study.nodes.iter().map(|node| node.stage.as_str()).collect();
        let list = stages.into_iter().collect::<Vec<_>>().join(", ");
        return failure.help(format!("its stages are {list}"));
    }
    failure.help(format!("its `{stage}` stages are {}", listed(&cells)))
}
