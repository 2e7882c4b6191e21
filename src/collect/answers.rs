//! Arms of one run each, compared sample by sample on the answers that their evaluations kept.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::rc::Rc;

use dcsft_engine::results::arms::{self, Group, Measured};
use dcsft_engine::results::paired::Paired;
use dcsft_engine::stage::ArtifactType;
use serde::Deserialize;

use super::Results;
use super::tables::{FEW, each_two, split_sets};
use crate::report::data::{Comparison, SetComparison};

/// So many arms are compared each with each other; of more, those pairs that the tables name, and those that differ in
/// one thing.
const MOST: usize = 40;

/// Whether the sample was answered right, by its content ID.
type Answers = BTreeMap<String, bool>;

/// Compares the arms at their last steps that have one run in common. With more seeds in common, the seeds tell how far
/// two arms are apart, and nothing is compared here.
pub(super) fn compare(results: &Results<'_>, groups: &[Group]) -> (Vec<Comparison>, Vec<String>) {
    let last = arms::last_steps(groups);
    let sets = arms::sets(&results.places);
    let named = super::tables::chosen(results, &last);
    let known: HashSet<(&str, &str)> = named.iter().map(|(a, b)| (&*a.arm, &*b.arm)).collect();
    let mut pairs = named.clone();
    if last.len() <= MOST {
        let further = each_two(&last).into_iter().filter(|(a, b)| {
            !known.contains(&(&*a.arm, &*b.arm)) && !known.contains(&(&*b.arm, &*a.arm))
        });
        pairs.extend(further);
    }
    let mut reader = Reader::new(results);
    let found = pairs
        .into_iter()
        .filter_map(|(arm, versus)| of_two(&mut reader, arm, versus, &sets))
        .collect();
    (found, reader.problems)
}

/// How many of these a table for people shows: all where the arms are few, else those that [`super::tables::chosen`]
/// names, which stand first.
pub(super) fn shown(results: &Results<'_>, groups: &[Group], comparisons: &[Comparison]) -> usize {
    let last = arms::last_steps(groups);
    if last.len() <= FEW {
        return comparisons.len();
    }
    let named = super::tables::chosen(results, &last);
    let named: HashSet<(&str, &str)> = named.iter().map(|(a, b)| (&*a.arm, &*b.arm)).collect();
    let is_named = |one: &&Comparison| named.contains(&(&*one.arm, &*one.versus));
    comparisons.iter().take_while(is_named).count()
}

fn of_two(
    reader: &mut Reader<'_>,
    arm: &Group,
    versus: &Group,
    sets: &[(String, bool)],
) -> Option<Comparison> {
    let (seed, ours, theirs) = only_run(arm, versus)?;
    let mut found = Vec::new();
    for (set, ood) in sets {
        let (Some(a), Some(b)) = (ours.get(set), theirs.get(set)) else {
            continue;
        };
        let (Some(a), Some(b)) = (reader.read(a), reader.read(b)) else {
            continue;
        };
        let Some(paired) = Paired::join(&a, &b) else {
            continue;
        };
        found.push(SetComparison {
            set: set.clone(),
            ood: *ood,
            paired,
            unshared: (a.len() + b.len()) as u64 - 2 * paired.n,
        });
    }
    if found.is_empty() {
        return None;
    }
    // A mean over some of the sets would be called by the name of the mean over all.
    let mean = |ood: bool| {
        let all = split_sets(sets, ood);
        let here: Vec<Paired> = found
            .iter()
            .filter(|one| one.ood == ood)
            .map(|one| one.paired)
            .collect();
        (all.len() > 1 && here.len() == all.len())
            .then(|| Paired::mean(&here))
            .flatten()
    };
    Some(Comparison {
        id: mean(false),
        ood: mean(true),
        arm: arm.arm.clone(),
        versus: versus.arm.clone(),
        seed,
        sets: found,
    })
}

type Cells = BTreeMap<String, Measured>;

/// The one run that belongs to both: of one seed, or without seeds.
fn only_run<'g>(arm: &'g Group, versus: &'g Group) -> Option<(String, &'g Cells, &'g Cells)> {
    let mut common = Vec::new();
    for (seed, ours) in &arm.seeds {
        for (other, theirs) in &versus.seeds {
            if seed == other || seed.is_empty() || other.is_empty() {
                let seed = if seed.is_empty() { other } else { seed };
                common.push((seed.clone(), ours, theirs));
            }
        }
    }
    (common.len() == 1).then(|| common.remove(0))
}

/// Reads answers, each file once.
struct Reader<'a> {
    results: &'a Results<'a>,
    known: HashMap<usize, Option<Rc<Answers>>>,
    problems: Vec<String>,
}

impl<'a> Reader<'a> {
    fn new(results: &'a Results<'a>) -> Self {
        Self {
            results,
            known: HashMap::new(),
            problems: Vec::new(),
        }
    }

    fn read(&mut self, measured: &Measured) -> Option<Rc<Answers>> {
        let node = self.results.nodes[measured.row];
        if let Some(known) = self.known.get(&node.0) {
            return known.clone();
        }
        let answers = match self.answers(measured.row) {
            Ok(answers) => answers.map(Rc::new),
            Err(problem) => {
                let title = self.results.study.nodes[node.0].title();
                self.problems.push(format!(
                    "{title} is compared with nothing: its answers cannot be read: {problem}"
                ));
                None
            }
        };
        self.known.insert(node.0, answers.clone());
        answers
    }

    /// None for an evaluation of a kind that keeps no answers.
    fn answers(&self, row: usize) -> Result<Option<Answers>, String> {
        let id = self.results.nodes[row];
        let node = &self.results.study.nodes[id.0];
        let output = node
            .outputs
            .iter()
            .find(|output| output.artifact == ArtifactType::Evaluation);
        let record = self.results.records[id.0].as_ref();
        let made = record
            .zip(output)
            .and_then(|(record, output)| record.outputs.get(&output.name));
        let Some(made) = made else { return Ok(None) };
        let dir = self
            .results
            .store
            .open_input(&made.digest)
            .map_err(|error| error.to_string())?;
        let path = dir.join("answers.jsonl");
        if !path.exists() {
            return Ok(None);
        }
        read(&path).map(Some)
    }
}

#[derive(Deserialize)]
struct Line {
    id: String,
    correct: bool,
}

fn read(path: &Path) -> Result<Answers, String> {
    let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let file = dcsft_cache::file::open(path).map_err(|error| fail(&error))?;
    let mut answers = Answers::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| fail(&error))?;
        let Line { id, correct } = serde_json::from_str(&line).map_err(|error| fail(&error))?;
        answers.insert(id, correct);
    }
    Ok(answers)
}
