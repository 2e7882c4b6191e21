//! Result rows: one for each metric of each evaluation, as JSON lines, CSV and a Markdown table.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use dcsft_engine::command::metrics;
use dcsft_engine::results::ResultRow;
use dcsft_engine::results::aggregate::{aggregate, paired};
use dcsft_engine::results::csv::table;
use dcsft_engine::results::places::{Place, places};
use dcsft_engine::stage::{Input, StageError, SummaryResult};
use dcsft_engine::text::markdown_cell;
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
        let label = &input.label;
        let evaluated = label.evaluated.clone().unwrap_or_default();
        rows.extend(results(input)?.into_iter().map(|result| {
            ResultRow::of(result, &label.arm, &label.stage, &label.axes, &evaluated)
        }));
    }
    Ok(rows)
}

/// What `eval` has counted, or what a program of the user's has written.
fn results(input: &Input) -> Result<Vec<SummaryResult>, StageError> {
    let path = input.dir.join("metrics.json");
    let counted = read_json::<Evaluation>(&path);
    match counted {
        Ok(evaluation) => Ok(evaluation.results),
        Err(error) => metrics::read(&input.dir).map_err(|_| error.into()),
    }
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
pub(super) fn write(rows: &[ResultRow], over: &str, dir: &Path) -> Result<(), StageError> {
    let mut lines = JsonLines::create(&dir.join("results.jsonl"))?;
    rows.iter().try_for_each(|row| lines.write(row))?;
    lines.finish()?;
    let path = dir.join("results.csv");
    csv(rows, over, &path)
        .map_err(|error| StageError::failed(format!("{}: {error}", path.display())))?;
    let path = dir.join("results.md");
    std::fs::write(&path, markdown(rows, over)).map_err(StageError::io(&path))
}

/// See [`table`].
fn csv(rows: &[ResultRow], over: &str, path: &Path) -> Result<(), csv::Error> {
    let mut out = csv::Writer::from_path(path)?;
    for line in table(rows, over) {
        out.write_record(line)?;
    }
    Ok(out.flush()?)
}

/// Accuracy in percent: a line per arm and step, a column per set. Repeats have a line each.
fn markdown(rows: &[ResultRow], over: &str) -> String {
    let chosen: Vec<ResultRow> = rows
        .iter()
        .filter(|row| row.metric == ACCURACY)
        .cloned()
        .collect();
    let places = places(&chosen, over);
    let mut sets: Vec<(&str, bool)> = Vec::new();
    for place in &places {
        let set = (place.set.as_str(), place.ood);
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets.sort_by_key(|(_, ood)| *ood);
    /// The rows of a line, by the set's name and whether it is out of distribution.
    type Line<'r> = BTreeMap<(&'r str, bool), &'r ResultRow>;
    let mut lines: Vec<(String, Line<'_>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for (row, place) in chosen.iter().zip(&places) {
        let name = name(place, over);
        let at = *known.entry(name.clone()).or_insert(lines.len());
        if at == lines.len() {
            lines.push((name, BTreeMap::new()));
        }
        lines[at].1.insert((&place.set, place.ood), row);
    }
    let mut text = String::from("| arm |");
    for (set, _) in &sets {
        text += &format!(" {} |", markdown_cell(set));
    }
    text += "\n|---|";
    sets.iter().for_each(|_| text += "--:|");
    text.push('\n');
    for (name, cells) in lines {
        let _ = write!(text, "| {} |", markdown_cell(&name));
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

/// The arm with its step and its repeat.
fn name(place: &Place, over: &str) -> String {
    let mut name = place.arm.clone();
    if !place.repeat.is_empty() {
        name += &format!(" {over}={}", place.repeat);
    }
    if let Some(step) = place.step {
        name += &format!(" step={step}");
    }
    name
}

/// `73.6 ±1.9`: percent with half the width of the interval.
fn percent(row: &ResultRow) -> String {
    let half = row
        .ci
        .map(|[low, high]| format!(" ±{:.1}", (high - low) * 50.0))
        .unwrap_or_default();
    format!("{:.1}{half}", row.value * 100.0)
}
