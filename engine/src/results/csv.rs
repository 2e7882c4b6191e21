//! Result rows as a table of text: a column per axis, numbers as numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::ResultRow;
use super::places::places;
use crate::stage::Origin;
use crate::text::{csv_cell, plain};

/// Columns that follow arm and axes.
const COLUMNS: [&str; 13] = [
    "step",
    "set",
    "split",
    "metric",
    "value",
    "n",
    "ci_low",
    "ci_high",
    "repeats",
    "repeats_of",
    "stage",
    "model",
    "data",
];

/// A heading and a line per row: `arm`, a column `axis.NAME` for each axis, then the rest. Empty where a row has nothing;
/// cells are those of [`csv_cell`]. `repeats` is how many values of the axis `over` the row's arm has at its step and on
/// its set, `repeats_of` the most that any arm has.
pub fn table(rows: &[ResultRow], over: &str) -> impl Iterator<Item = Vec<String>> {
    let repeats = repeats(rows, over);
    let most = repeats.iter().max().copied().unwrap_or(1);
    let all: Vec<BTreeMap<&str, _>> = rows.iter().map(ResultRow::all_axes).collect();
    let axes: BTreeSet<&str> = all.iter().flat_map(|axes| axes.keys().copied()).collect();
    let named = axes.iter().map(|axis| format!("axis.{axis}"));
    let heading: Vec<String> = std::iter::once("arm".to_owned())
        .chain(named)
        .chain(COLUMNS.map(str::to_owned))
        .collect();
    let lines = rows
        .iter()
        .zip(all)
        .zip(repeats)
        .map(move |((row, own), repeats)| {
            let axis = |axis: &&str| own.get(axis).map(|value| plain(value)).unwrap_or_default();
            std::iter::once(row.arm.clone())
                .chain(axes.iter().map(axis))
                .chain(cells(row, repeats, most))
                .collect()
        });
    std::iter::once(heading)
        .chain(lines)
        .map(|line: Vec<String>| line.iter().map(|cell| csv_cell(cell)).collect())
}

/// How many repeats each row's cell of the table is the mean of.
fn repeats(rows: &[ResultRow], over: &str) -> Vec<usize> {
    let places = places(rows, over);
    let cells: Vec<_> = rows
        .iter()
        .zip(&places)
        .map(|(row, place)| (&place.arm, place.step, &place.set, place.ood, &row.metric))
        .collect();
    let mut counts: HashMap<_, usize> = HashMap::new();
    for cell in &cells {
        *counts.entry(cell).or_default() += 1;
    }
    cells.iter().map(|cell| counts[cell]).collect()
}

fn cells(row: &ResultRow, repeats: usize, most: usize) -> [String; 13] {
    let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
    let end = |index: usize| row.ci.map(|ci| ci[index].to_string()).unwrap_or_default();
    let origin =
        |origin: &Option<Origin>| origin.as_ref().map(Origin::to_string).unwrap_or_default();
    [
        number(row.step),
        row.set.clone(),
        row.split.clone(),
        row.metric.clone(),
        row.value.to_string(),
        number(row.n),
        end(0),
        end(1),
        repeats.to_string(),
        most.to_string(),
        row.stage.clone(),
        origin(&row.model),
        origin(&row.data),
    ]
}
