//! `dcsft plan SPEC`: what a run would do, and why.

use std::io::Write;
use std::sync::Arc;

use dcsft_cache::Record;
use dcsft_engine::plan::forecast::{Outlook, outlook};
use dcsft_engine::plan::{NodeState, Plan, PlannedNode};
use dcsft_engine::stage::Memory;
use dcsft_engine::study::{Node, NodeId, Shards};
use dcsft_engine::units::{self, duration};
use dcsft_engine::why::Explainer;
use serde_json::json;

use super::why::after_state;
use crate::cli;
use crate::collect::samples::{Samples, samples};
use crate::exit::{Exit, Failure};
use crate::output::{Table, count, print_json, print_table, stdout, table};
use crate::settings::{App, Project};

/// Prints the totals and the stages that have to run.
///
/// # Errors
/// A wrong spec; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &cli::Plan) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&args.force, args.paranoid)?;
    let stages = stages(&project, &plan)?;
    let mut out = stdout();
    if app.terminal.json {
        print_lines(&mut out, &project, &stages, &plan)?;
    } else {
        writeln!(out, "{}", totals(&plan))?;
        let shown: Vec<&Stage<'_>> = stages
            .iter()
            .filter(|stage| args.all || !matches!(stage.planned.state, NodeState::Cached { .. }))
            .collect();
        if !shown.is_empty() {
            writeln!(out)?;
            let lines = lines(&shown);
            print_table(&mut out, &stage_table(&lines))?;
            if lines.len() < shown.len() {
                writeln!(
                    out,
                    "\nCells of a stage that are alike share a line; --json has a line for each."
                )?;
            }
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// What is known of a stage before it runs.
struct Stage<'a> {
    node: &'a Node,
    planned: &'a PlannedNode,
    /// The stage that has the same key and runs for both.
    shares: Option<NodeId>,
    reason: String,
    memory: Option<Memory>,
    samples: Option<Samples>,
}

fn stages<'a>(project: &'a Project, plan: &'a Plan) -> Result<Vec<Stage<'a>>, Failure> {
    let Project {
        study,
        registry,
        store,
        ..
    } = project;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Outlook { memories, problems } = outlook(study, registry, plan, store, threads);
    problems.into_result()?;
    let samples = samples(study, registry, plan, store);
    let mut explainer = Explainer::new(study, registry, plan, store);
    let known = memories.into_iter().zip(samples);
    let nodes = study.nodes.iter().zip(&plan.nodes).zip(known);
    nodes
        .map(|((node, planned), (memory, samples))| {
            Ok(Stage {
                node,
                planned,
                shares: planned.shares,
                reason: reason(project, plan, &mut explainer, node.id)?,
                memory,
                samples,
            })
        })
        .collect()
}

fn print_lines(
    out: &mut impl Write,
    project: &Project,
    stages: &[Stage<'_>],
    plan: &Plan,
) -> Result<(), Failure> {
    let title = |id: NodeId| project.study.nodes[id.0].title();
    for stage in stages {
        let state = &stage.planned.state;
        print_json(
            out,
            &json!({
                "stage": stage.node.title(), "kind": stage.node.kind, "state": state.word(), "reason": stage.reason,
                "shards": shards(stage.node.execution.shards),
                "key": state.key(), "shares": stage.shares.map(title), "memory": stage.memory,
                "samples": stage.samples.map(|samples| samples.count),
                "samples_basis": stage.samples.map(|samples| samples.basis),
            }),
        )?;
    }
    print_json(out, &json!({"summary": plan.summary}))?;
    Ok(())
}

/// Up to so many stages have a line each.
const MOST_LINES: usize = 1000;

/// A line of the table: a stage, or cells of one that are alike.
struct Line<'a> {
    first: &'a Stage<'a>,
    cells: usize,
    /// All have the reason of the first.
    one_reason: bool,
}

impl Line<'_> {
    fn takes(&self, stage: &Stage<'_>) -> bool {
        let what = |stage: &Stage<'_>| (stage.planned.state.word(), stage.samples, stage.memory);
        self.first.node.stage == stage.node.stage && what(self.first) == what(stage)
    }

    fn title(&self) -> String {
        match self.cells {
            1 => self.first.node.title(),
            cells => format!("{} ({cells} cells)", self.first.node.stage),
        }
    }

    fn reason(&self) -> String {
        let reason = &self.first.reason;
        if self.one_reason {
            reason.clone()
        } else {
            format!("{reason}, ...")
        }
    }
}

/// The lines of the table: one for each stage, as long as there are not too many.
fn lines<'a>(stages: &[&'a Stage<'a>]) -> Vec<Line<'a>> {
    let mut lines: Vec<Line<'a>> = Vec::new();
    for stage in stages {
        match lines.last_mut() {
            Some(line) if stages.len() > MOST_LINES && line.takes(stage) => {
                line.cells += 1;
                line.one_reason &= line.first.reason == stage.reason;
            }
            _ => lines.push(Line {
                first: stage,
                cells: 1,
                one_reason: true,
            }),
        }
    }
    lines
}

fn stage_table(lines: &[Line<'_>]) -> Table {
    let heading = [
        "stage",
        "kind",
        "state",
        "samples",
        "params",
        "activations",
        "peak",
        "reason",
    ];
    let mut list = table(&heading, &[3, 4, 5, 6]);
    for line in lines {
        let stage = line.first;
        let [params, activations, peak] = cells(stage.memory.as_ref());
        list.add_row([
            line.title(),
            kind(stage.node),
            stage.planned.state.word().to_owned(),
            stage.samples.map_or_else(String::new, Samples::text),
            params,
            activations,
            peak,
            line.reason(),
        ]);
    }
    list
}

/// As the spec has it.
fn shards(shards: Shards) -> serde_json::Value {
    match shards {
        Shards::Count(count) => count.into(),
        Shards::Auto => "auto".into(),
    }
}

/// `rollout`, or `rollout, 4 shards`.
fn kind(node: &Node) -> String {
    let kind = &node.kind;
    match node.execution.shards {
        Shards::Count(1) => kind.clone(),
        Shards::Count(count) => format!("{kind}, {count} shards"),
        Shards::Auto => format!("{kind}, auto shards"),
    }
}

/// Parameters, activations and peak of a stage's estimate; a dash where there is none.
fn cells(memory: Option<&Memory>) -> [String; 3] {
    let Some(memory) = memory else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    let size = |size| match size {
        0 => "-".to_owned(),
        size => units::size(size),
    };
    [
        numbers(memory.parameters),
        size(memory.activation_bytes),
        size(memory.peak_bytes),
    ]
}

/// A number of parameters, as in `3.8B`.
fn numbers(count: u64) -> String {
    let (value, unit) = match count {
        0..1_000 => return count.to_string(),
        1_000..1_000_000 => (count as f64 / 1e3, "K"),
        1_000_000..1_000_000_000 => (count as f64 / 1e6, "M"),
        _ => (count as f64 / 1e9, "B"),
    };
    format!("{value:.1}{unit}")
}

/// `120 cells, 31 distinct stages: 12 cached (worth 4 min), 7 to run, 12 waiting on those; 2 share another's work`.
fn totals(plan: &Plan) -> String {
    let summary = &plan.summary;
    let mut text = format!(
        "{}, {}: {} cached",
        count(summary.cells, "cell", "cells"),
        count(summary.distinct, "distinct stage", "distinct stages"),
        summary.cached
    );
    if summary.cached > 0 {
        text += &format!(" (worth {})", duration(summary.reused_seconds));
    }
    text += &format!(
        ", {} to run, {} waiting on those",
        summary.to_run, summary.waiting
    );
    match summary.shared {
        0 => {}
        1 => text += "; 1 shares another's work",
        shared => text += &format!("; {shared} share another's work"),
    }
    text
}

/// Why a stage is in its state, in a few words.
fn reason(
    project: &Project,
    plan: &Plan,
    explainer: &mut Explainer<'_>,
    id: NodeId,
) -> Result<String, Failure> {
    let planned = plan.node(id);
    if let Some(first) = planned.shares {
        return Ok(format!(
            "same work as {}",
            project.study.nodes[first.0].title()
        ));
    }
    Ok(after_state(&explainer.explain_briefly(id)?.reason))
}

/// The results that are in the cache, by node.
pub(crate) fn records(plan: &Plan) -> Vec<Option<Arc<Record>>> {
    plan.nodes
        .iter()
        .map(|node| node.state.record().cloned())
        .collect()
}
