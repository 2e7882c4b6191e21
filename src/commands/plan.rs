//! `dcsft plan SPEC`: what a run would do, and why.

use std::io::Write;
use std::sync::Arc;

use dcsft_cache::Record;
use dcsft_engine::forecast::{Memory, forecasts};
use dcsft_engine::plan::{NodeState, Plan};
use dcsft_engine::study::NodeId;
use dcsft_engine::why::Explainer;
use serde_json::json;

use super::why::headline;
use crate::cli;
use crate::collect::samples::samples;
use crate::exit::{Exit, Failure};
use crate::output::{bytes, count, print_json, print_table, stdout, table};
use crate::report::scale::duration;
use crate::settings::{App, Project};

/// Prints the totals and the stages that have to run.
///
/// # Errors
/// A wrong spec; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &cli::Plan) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&args.force, args.paranoid)?;
    let mut explainer = Explainer::new(&project.study, &project.registry, &plan, &project.store);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let Project {
        study,
        registry,
        store,
        ..
    } = &project;
    let forecasts = forecasts(study, registry, &plan, store, threads);
    let samples = samples(study, registry, &plan, store);
    let stages = || {
        study
            .nodes
            .iter()
            .zip(&plan.nodes)
            .zip(&forecasts)
            .zip(&samples)
    };
    let mut out = stdout();
    if app.terminal.json {
        for (((node, planned), forecast), samples) in stages() {
            let shares = planned.shares.map(|id| project.study.nodes[id.0].title());
            let reason = reason(&project, &plan, &mut explainer, node.id)?;
            print_json(
                &mut out,
                &json!({
                    "stage": node.title(), "kind": node.kind, "state": planned.state.word(), "reason": reason,
                    "key": planned.state.key(), "shares": shares, "memory": forecast.memory,
                    "samples": samples.map(|samples| samples.count),
                    "samples_basis": samples.map(|samples| samples.basis),
                }),
            )?;
        }
        print_json(&mut out, &json!({"summary": plan.summary}))?;
    } else {
        writeln!(out, "{}", totals(&plan))?;
        let mut list = table(
            &[
                "stage",
                "kind",
                "state",
                "samples",
                "params",
                "activations",
                "peak",
                "reason",
            ],
            &[3, 4, 5, 6],
        );
        let mut shown = 0;
        for (((node, planned), forecast), samples) in stages() {
            if matches!(planned.state, NodeState::Cached { .. }) && !args.all {
                continue;
            }
            shown += 1;
            let reason = reason(&project, &plan, &mut explainer, node.id)?;
            let [params, activations, peak] = cells(forecast.memory.as_ref());
            list.add_row([
                node.title(),
                node.kind.clone(),
                planned.state.word().to_owned(),
                samples.map_or_else(String::new, |samples| samples.text()),
                params,
                activations,
                peak,
                reason,
            ]);
        }
        if shown > 0 {
            writeln!(out)?;
            print_table(&mut out, &list)?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Parameters, activations and peak of a stage's estimate; a dash where there is none.
fn cells(memory: Option<&Memory>) -> [String; 3] {
    let Some(memory) = memory else {
        return std::array::from_fn(|_| "-".to_owned());
    };
    let size = |size| match size {
        0 => "-".to_owned(),
        size => bytes(size),
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
    let reason = headline(&explainer.explain_briefly(id)?.reason);
    // The column before says `waits` already.
    Ok(reason
        .strip_prefix("waits ")
        .map_or(reason.clone(), str::to_owned))
}

/// The results that are in the cache, by node.
pub(crate) fn records(plan: &Plan) -> Vec<Option<Arc<Record>>> {
    plan.nodes
        .iter()
        .map(|node| node.state.record().cloned())
        .collect()
}
