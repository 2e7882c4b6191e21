//! Result rows: one for each metric of each evaluation, as JSON lines, CSV and a Markdown table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use dcsft_engine::kind::{Input, StageError};
use dcsft_engine::results::aggregate::{aggregate, paired};
use dcsft_engine::results::{ResultRow, SummaryResult};
use dcsft_engine::study::plain;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::read_json;
use crate::files::JsonLines;

/// The metric of the Markdown table.
const ACCURACY: &str = "accuracy";

#[derive(Deserialize)]
struct Evaluation {
    results: Vec<SummaryResult>,
}

/// The rows of all evaluations, in the order of the spec.
pub(super) fn rows(evaluations: &[Input]) -> Result<Vec<ResultRow>, StageError> {
    let mut rows = Vec::new();
    for input in evaluations {
        let evaluation: Evaluation = read_json(&input.dir.join("metrics.json"))?;
        let label = &input.label;
        let results = evaluation.results.into_iter();
        rows.extend(results.map(|result| result.row(&label.arm, &label.axes, label.step())));
    }
    Ok(rows)
}

/// Means over repeats, and every arm against each baseline that is there.
pub(super) fn aggregates(rows: &[ResultRow], repeats: &str, baselines: &[String]) -> Value {
    let aggregates = aggregate(rows, repeats);
    let differences: Vec<_> = baselines
        .iter()
        .flat_map(|baseline| paired(&aggregates, baseline))
        .collect();
    json!({"over": repeats, "arms": aggregates, "differences": differences})
}

/// Writes `results.jsonl`, `results.csv` and `results.md`.
pub(super) fn write(rows: &[ResultRow], dir: &Path) -> Result<(), StageError> {
    let mut lines = JsonLines::create(&dir.join("results.jsonl"))?;
    rows.iter().try_for_each(|row| lines.write(row))?;
    lines.finish()?;
    let path = dir.join("results.csv");
    csv(rows, &path).map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
    let path = dir.join("results.md");
    std::fs::write(&path, markdown(rows)).map_err(StageError::io(&path))
}

/// One column per axis, then the rest.
fn csv(rows: &[ResultRow], path: &Path) -> Result<(), csv::Error> {
    let axes: BTreeSet<&str> = rows
        .iter()
        .flat_map(|row| row.axes.keys().map(String::as_str))
        .collect();
    let mut out = csv::Writer::from_path(path)?;
    let axis_columns = axes.iter().map(|axis| format!("axis.{axis}"));
    let rest = ResultRow::COLUMNS.map(str::to_owned);
    out.write_record(
        ["arm".to_owned()]
            .into_iter()
            .chain(axis_columns)
            .chain(rest),
    )?;
    for row in rows {
        let axis = |axis: &&str| row.axes.get(*axis).map(plain).unwrap_or_default();
        out.write_record(
            [row.arm.clone()]
                .into_iter()
                .chain(axes.iter().map(axis))
                .chain(row.cells()),
        )?;
    }
    Ok(out.flush()?)
}

/// Accuracy in percent: a line per arm and cell, a column per set.
fn markdown(rows: &[ResultRow]) -> String {
    let rows: Vec<&ResultRow> = rows.iter().filter(|row| row.metric == ACCURACY).collect();
    let mut sets: Vec<&str> = Vec::new();
    for split in ["id", "ood"] {
        for row in rows.iter().filter(|row| row.split == split) {
            if !sets.contains(&row.set.as_str()) {
                sets.push(&row.set);
            }
        }
    }
    let mut lines: Vec<(String, BTreeMap<&str, &ResultRow>)> = Vec::new();
    for row in rows {
        let name = name(row, &sets);
        // An axis that merely picks the set has left the name, so the sets of one cell meet on one line.
        match lines
            .iter_mut()
            .find(|(known, cells)| *known == name && !cells.contains_key(row.set.as_str()))
        {
            Some((_, cells)) => drop(cells.insert(&row.set, row)),
            None => lines.push((name, BTreeMap::from([(row.set.as_str(), row)]))),
        }
    }
    let mut text = String::from("| arm |");
    sets.iter().for_each(|set| text += &format!(" {set} |"));
    text += "\n|---|";
    sets.iter().for_each(|_| text += "--:|");
    text.push('\n');
    for (name, cells) in lines {
        let _ = write!(text, "| {name} |");
        for set in &sets {
            match cells.get(set) {
                Some(row) => drop(write!(text, " {} |", percent(row))),
                None => text += " |",
            }
        }
        text.push('\n');
    }
    text
}

/// The arm with its axes, but for those that pick the set or stand in the arm's name already.
fn name(row: &ResultRow, sets: &[&str]) -> String {
    let told = |value: &str| sets.contains(&value) || row.arm.split('/').any(|part| part == value);
    let mut axes: Vec<String> = row
        .axes
        .iter()
        .map(|(axis, value)| (axis, plain(value)))
        .filter(|(_, value)| !told(value))
        .map(|(axis, value)| format!("{axis}={value}"))
        .collect();
    if !row.axes.contains_key("step") {
        axes.extend(row.step.map(|step| format!("step={step}")));
    }
    let separator = if axes.is_empty() { "" } else { " " };
    format!("{}{separator}{}", row.arm, axes.join(" ")).replace('|', "\\|")
}

/// `73.6 ±1.9`: percent with half the width of the interval.
fn percent(row: &ResultRow) -> String {
    let half = row
        .ci
        .map(|[low, high]| format!(" ±{:.1}", (high - low) * 50.0))
        .unwrap_or_default();
    format!("{:.1}{half}", row.value * 100.0)
}
