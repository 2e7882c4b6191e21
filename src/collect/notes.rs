//! What the numbers of a study do not say by themselves: samples that were left out, warnings of stages, evaluations that
//! are missing or that were made in different ways.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dcsft_cache::{Record, Store};
use dcsft_engine::results::arms::{Group, SEED};
use dcsft_engine::results::places::Place;
use dcsft_engine::stage::Params;
use dcsft_engine::stage::{ArtifactType, LeftOut, Summary};
use dcsft_engine::study::{Node, NodeId, Study};
use dcsft_engine::text::plain;
use serde_json::Value;

use super::{ACCURACY, FORMAT_ACCURACY, Results};
use crate::output::count;

/// Titles that a note lists.
const LISTED: usize = 5;

/// Everything that is to be said of a study, each thing once.
pub(crate) fn all(results: &Results<'_>, groups: &[Group]) -> Vec<String> {
    let mut notes = of_stages(results);
    notes.extend(unreadable(results));
    notes.extend(unfinished(results));
    notes.extend(others(results));
    notes.extend(ways(results));
    notes.extend(shared_names(results));
    notes.extend(apart(results, groups));
    notes
}

/// Cells of a stage of which the same is to be said, with the list of the first.
type Alike<'a> = Vec<(&'a str, String, Vec<&'a Node>)>;

fn alike<'a>(found: impl Iterator<Item = (&'a Node, String)>) -> Alike<'a> {
    let mut stages: Alike<'a> = Vec::new();
    for (node, text) in found {
        let same = stages
            .iter_mut()
            .find(|(stage, known, _)| *stage == node.stage && *known == text);
        match same {
            Some((_, _, nodes)) => nodes.push(node),
            None => stages.push((&node.stage, text, vec![node])),
        }
    }
    stages
}

/// `eval[set=val]`, or `eval (54 cells)`.
fn cells(stage: &str, nodes: &[&Node]) -> String {
    match nodes {
        [only] => only.title(),
        several => format!("{stage} ({} cells, each)", several.len()),
    }
}

/// The nodes with a record, each record once.
fn finished<'a>(results: &'a Results<'_>) -> impl Iterator<Item = (&'a Node, &'a Record)> {
    let mut seen = BTreeSet::new();
    let nodes = results.study.nodes.iter().zip(results.records);
    nodes
        .filter_map(|(node, record)| Some((node, record.as_deref()?)))
        .filter(move |(_, record)| seen.insert(record.key))
}

fn of_stages(results: &Results<'_>) -> Vec<String> {
    let found = finished(results).flat_map(|(node, record)| {
        let texts = Summary::read(&record.summary).0.notices().into_iter();
        texts.map(move |text| (node, text)).collect::<Vec<_>>()
    });
    let note = |(stage, text, nodes): (&str, String, Vec<&Node>)| {
        let record = results.records[nodes[0].id.0].as_deref();
        let list = record
            .filter(|record| sentence(record).as_ref() == Some(&text))
            .and_then(|record| list_of(results.store, record));
        let list = list.map_or(String::new(), |path| {
            format!("; listed in {}", path.display())
        });
        format!("{}: {text}{list}", cells(stage, &nodes))
    };
    alike(found).into_iter().map(note).collect()
}

fn left_out_of(record: &Record) -> Option<LeftOut> {
    Summary::read(&record.summary).0.left_out
}

fn sentence(record: &Record) -> Option<String> {
    left_out_of(record)?.sentence()
}

/// The file that lists what a stage left out.
fn list_of(store: &Store, record: &Record) -> Option<PathBuf> {
    let list = left_out_of(record)?.list?;
    let (output, name) = list.split_once('/')?;
    let made = record.outputs.get(output)?;
    Some(store.artifact_files(&made.digest).join(name))
}

fn unreadable(results: &Results<'_>) -> Vec<String> {
    let note = |(node, what): &(NodeId, String)| {
        let title = results.study.nodes[node.0].title();
        format!(
            "{title} has a result that is not shown: {what}; `--force {title}` computes it again"
        )
    };
    results.unreadable.iter().map(note).collect()
}

/// Evaluations without a result, where others have one.
pub(crate) fn missing(results: &Results<'_>) -> Option<String> {
    // A study that has not run at all says so elsewhere.
    if results.missing.is_empty() || results.rows.is_empty() {
        return None;
    }
    let evaluations = results.study.nodes.iter().filter(|node| {
        let mut outputs = node.outputs.iter();
        outputs.any(|output| output.artifact.holds_results())
    });
    let all = evaluations.count();
    let titles = results
        .missing
        .iter()
        .map(|node| results.study.nodes[node.0].title());
    Some(format!(
        "{} of {} have no result yet and are not in the table: {}",
        results.missing.len(),
        count(all, "evaluation", "evaluations"),
        listed(titles.collect())
    ))
}

fn listed(titles: Vec<String>) -> String {
    let shown = titles
        .iter()
        .take(LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match titles.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Arms whose last evaluated step is not the last one that was trained: what the table shows of them is a model on its
/// way, at a learning rate that has not come to its end.
fn unfinished(results: &Results<'_>) -> Vec<String> {
    // By arm: the last step that is evaluated, `None` for a final model, and the last one that is trained.
    let mut arms: BTreeMap<&str, (Option<u64>, u64)> = BTreeMap::new();
    for (node, place) in results.nodes.iter().zip(&results.places) {
        let Some(trained) = last_trained(results.study, &results.study.nodes[node.0]) else {
            continue;
        };
        let (shown, last) = arms.entry(&place.arm).or_insert((place.step, trained));
        *shown = shown.zip(place.step).map(|(one, other)| one.max(other));
        *last = trained.max(*last);
    }
    let mut alike: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    for (arm, (shown, trained)) in arms {
        if let Some(shown) = shown.filter(|shown| *shown < trained) {
            let arms = alike.entry((shown, trained)).or_default();
            arms.push(arm.to_owned());
        }
    }
    let note = |((shown, trained), arms): ((u64, u64), Vec<String>)| {
        format!(
            "shown at step {shown}, while training went on to step {trained}, which no evaluation measures: {}",
            listed(arms)
        )
    };
    alike.into_iter().map(note).collect()
}

/// The last step of the stage whose model a node reads, where that stage names its steps.
fn last_trained(study: &Study, node: &Node) -> Option<u64> {
    let references = node.inputs.iter().flat_map(|(_, references)| references);
    let steps = references.flat_map(|reference| {
        let source = &study.nodes[reference.node.0];
        let read = source
            .outputs
            .iter()
            .find(|output| output.name == reference.output);
        let of_model = read.is_some_and(|output| output.artifact == ArtifactType::Model);
        let outputs = source.outputs.iter().filter(move |_| of_model);
        outputs.filter_map(|output| output.name.strip_prefix("step-")?.parse().ok())
    });
    steps.max()
}

/// Metrics that no table shows.
fn others(results: &Results<'_>) -> Option<String> {
    let metrics = results.rows.iter().map(|row| row.metric.as_str());
    let others: BTreeSet<&str> = metrics
        .filter(|metric| ![ACCURACY, FORMAT_ACCURACY].contains(metric))
        .collect();
    let names: Vec<&str> = others.into_iter().collect();
    (!names.is_empty()).then(|| {
        format!(
            "further metrics are in `results --json` and `--format csv`, not in the tables: {}",
            names.join(", ")
        )
    })
}

/// A column whose rows were evaluated in different ways, which no line of the table says.
fn ways(results: &Results<'_>) -> Vec<String> {
    // By column: the params of the evaluations, and a stage that has them.
    let mut columns: BTreeMap<(&str, bool), Vec<(&Params, &str)>> = BTreeMap::new();
    for (node, place) in results.nodes.iter().zip(&results.places) {
        let node = &results.study.nodes[node.0];
        let mut outputs = node.outputs.iter();
        if outputs.any(|output| output.artifact == ArtifactType::Metrics) {
            // A program measures in its own way, and its params are those of the whole program.
            continue;
        }
        let known = columns.entry((&place.set, place.ood)).or_default();
        if !known
            .iter()
            .any(|(params, stage)| **params == node.params && *stage == node.stage)
        {
            known.push((&node.params, &node.stage));
        }
    }
    let mut notes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for ((set, _), ways) in columns {
        let ways: Vec<(Value, &str)> = ways
            .into_iter()
            .map(|(params, stage)| (params.value(), stage))
            .collect();
        let fields: BTreeSet<&String> = ways
            .iter()
            .filter_map(|(params, _)| params.as_object())
            .flat_map(|params| params.keys())
            .collect();
        for field in fields {
            let mut values: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
            for (params, stage) in &ways {
                values
                    .entry(plain(&params[field]))
                    .or_default()
                    .insert(stage);
            }
            if values.len() > 1 {
                let values: Vec<String> = values
                    .into_iter()
                    .map(|(value, stages)| {
                        format!(
                            "{value} in {}",
                            stages.into_iter().collect::<Vec<_>>().join(", ")
                        )
                    })
                    .collect();
                let text = format!("evaluated with different `{field}`: {}", values.join("; "));
                notes.entry(text).or_default().push(set);
            }
        }
    }
    notes
        .into_iter()
        .map(|(text, sets)| format!("{}: {text}", sets.join(", ")))
        .collect()
}

/// Columns that are told apart by where their sets come from.
fn shared_names(results: &Results<'_>) -> Vec<String> {
    let mut names: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (row, place) in results.rows.iter().zip(&results.places) {
        names.entry(&row.set).or_default().insert(&place.set);
    }
    names
        .into_iter()
        .filter(|(_, columns)| columns.len() > 1)
        .map(|(name, columns)| {
            let columns: Vec<&str> = columns.into_iter().collect();
            format!(
                "several sets are called `{name}`: {}; `set:` of their stages names them",
                columns.join(", ")
            )
        })
        .collect()
}

/// Arms that share a set's name and a seed, and yet were not asked the same samples.
fn apart(results: &Results<'_>, groups: &[Group]) -> Vec<String> {
    let mut samples: BTreeMap<(&str, &str), Vec<(usize, &Place)>> = BTreeMap::new();
    for group in groups {
        for (seed, cells) in &group.seeds {
            for (set, measured) in cells {
                let place = &results.places[measured.row];
                let known = samples.entry((set, seed)).or_default();
                if known
                    .iter()
                    .all(|(row, _)| !results.same_samples(*row, measured.row))
                {
                    known.push((measured.row, place));
                }
            }
        }
    }
    let mut notes: BTreeMap<&str, (Vec<&str>, Vec<String>)> = BTreeMap::new();
    for ((set, seed), different) in samples {
        if different.len() > 1 {
            let (seeds, from) = notes.entry(set).or_default();
            if !seed.is_empty() {
                seeds.push(seed);
            }
            if from.is_empty() {
                let origin = |(row, place): &(usize, &Place)| match &results.rows[*row].data {
                    Some(data) => format!("{data} ({})", place.arm),
                    None => place.arm.clone(),
                };
                *from = different.iter().map(origin).collect();
            }
        }
    }
    notes
        .into_iter()
        .map(|(set, (seeds, from))| {
            let seeds = match seeds.len() {
                0 => String::new(),
                _ => format!(" with {SEED} {}", seeds.join(", ")),
            };
            format!("arms were not evaluated on the same samples of {set}{seeds}: {}; single runs are compared on the samples \
                 that both answered, others not at all", listed(from))
        })
        .collect()
}
