//! From a study's cached results to what the report and the tables show.

mod answers;
mod difficulty;
pub(crate) mod groups;
pub(crate) mod history;
mod matched;
pub(crate) mod missing;
pub(crate) mod notes;
pub(crate) mod samples;
mod stages;
mod tables;
mod times;

use std::cell::OnceCell;
use std::sync::Arc;

use dcsft_cache::{Digest, Record, Store};
use dcsft_engine::key::KeyPreimage;
use dcsft_engine::kind::ArtifactType;
use dcsft_engine::results::places::{Place, places};
use dcsft_engine::results::{self, ResultRow};
use dcsft_engine::study::{NodeId, Reference, Study};
use dcsft_engine::study_id::StudyId;

use crate::output::date;
use crate::report::data::{
    ArmTime, Comparison, Difference, Fact, MatchedGap, ReportData, ResultTable, Spread, Timing,
};
use crate::report::scale::duration;
use groups::Group;
use history::History;

/// The metric of the study's tables.
pub(crate) const ACCURACY: &str = "accuracy";
/// Share of answers that are in the task's format at all.
pub(crate) const FORMAT_ACCURACY: &str = "format_accuracy";
/// Arms that others are compared with, the first that exists.
const BASELINES: [&str; 3] = ["cold_start", "baseline", "base"];

/// A study with those of its results that exist.
pub(crate) struct Results<'a> {
    /// The study.
    pub(crate) study: &'a Study,
    /// The result of each node.
    pub(crate) records: &'a [Option<Arc<Record>>],
    /// Where their artifacts are.
    pub(crate) store: &'a Store,
    /// Evaluations.
    pub(crate) rows: Vec<ResultRow>,
    /// The evaluation's node of each row.
    pub(crate) nodes: Vec<NodeId>,
    /// Where each row stands in the tables.
    pub(crate) places: Vec<Place>,
    /// Of each row, the content of the set that was evaluated, where it is known.
    samples: Vec<Option<Digest>>,
    /// Results that cannot be read, and why.
    pub(crate) unreadable: Vec<(NodeId, String)>,
    /// Evaluations that have no result yet.
    pub(crate) missing: Vec<NodeId>,
    /// Single runs compared sample by sample, and what kept others from it: made once, since it reads all answers.
    compared: OnceCell<(Vec<Comparison>, Vec<String>)>,
}

impl<'a> Results<'a> {
    /// Gathers the evaluations among `records`.
    pub(crate) fn new(
        study: &'a Study,
        records: &'a [Option<Arc<Record>>],
        store: &'a Store,
    ) -> Self {
        let results::Rows {
            rows,
            nodes,
            unreadable,
            missing,
        } = results::rows(study, records);
        Self {
            study,
            records,
            store,
            places: places(&rows, groups::SEED),
            samples: nodes
                .iter()
                .map(|node| samples_of(study, records, *node))
                .collect(),
            rows,
            nodes,
            unreadable,
            missing,
            compared: OnceCell::new(),
        }
    }

    /// See [`answers::compare`].
    fn compared(&self, groups: &[Group]) -> &(Vec<Comparison>, Vec<String>) {
        self.compared.get_or_init(|| answers::compare(self, groups))
    }

    /// The rows of a metric by arm and step.
    pub(crate) fn groups(&self, metric: &str) -> Vec<Group> {
        groups::group(&self.rows, &self.places, metric)
    }

    /// Whether two rows are of the same samples: their sets have one content, or come from one cell of a stage where the
    /// content is not known.
    pub(crate) fn same_samples(&self, a: usize, b: usize) -> bool {
        match (self.samples[a], self.samples[b]) {
            (Some(a), Some(b)) => a == b,
            _ => self.rows[a].data == self.rows[b].data,
        }
    }

    /// The tables for the terminal.
    pub(crate) fn tables(&self, all_steps: bool) -> Tables {
        let groups = self.groups(ACCURACY);
        let (times, timing) = times::arm_times(self);
        let make = if all_steps {
            tables::all_steps
        } else {
            tables::final_steps
        };
        let (comparisons, problems) = self.compared(&groups);
        let mut notes = notes::all(self, &groups);
        notes.extend(problems.iter().cloned());
        Tables {
            table: make(self, &groups, &times),
            differences: tables::differences(self, &groups),
            shown: answers::shown(self, &groups, comparisons),
            comparisons: comparisons.clone(),
            matched: matched::compare(self, &groups),
            spread: groups::spread(&groups),
            times,
            timing,
            notes,
            missing: notes::missing(self),
        }
    }

    /// The arm that the others are compared with.
    pub(crate) fn baseline(&self) -> Option<&'static str> {
        BASELINES
            .into_iter()
            .find(|arm| self.rows.iter().any(|row| row.arm == *arm))
    }
}

/// What the terminal shows.
pub(crate) struct Tables {
    /// Arms by sets.
    pub(crate) table: ResultTable,
    /// Paired differences at last steps.
    pub(crate) differences: Vec<Difference>,
    /// Comparisons of single runs, sample by sample.
    pub(crate) comparisons: Vec<Comparison>,
    /// How many of these a table for people shows.
    pub(crate) shown: usize,
    /// Comparisons at matched in-distribution accuracy.
    pub(crate) matched: Vec<MatchedGap>,
    /// How intervals are to be read.
    pub(crate) spread: Spread,
    /// Training times.
    pub(crate) times: Vec<ArmTime>,
    /// What these times are.
    pub(crate) timing: Timing,
    /// What was left out, and what else the numbers do not say by themselves.
    pub(crate) notes: Vec<String>,
    /// Evaluations without a result.
    pub(crate) missing: Option<String>,
}

/// The content of the set that a node evaluated: of the record that made it, else of the evaluation's own key.
fn samples_of(study: &Study, records: &[Option<Arc<Record>>], node: NodeId) -> Option<Digest> {
    let is_set = |reference: &&Reference| {
        let mut outputs = study.nodes[reference.node.0].outputs.iter();
        outputs.any(|output| {
            output.name == reference.output && output.artifact == ArtifactType::Dataset
        })
    };
    let inputs = &study.nodes[node.0].inputs;
    let (name, set) = inputs
        .iter()
        .find_map(|(name, references)| Some((name, references.iter().find(is_set)?)))?;
    let made = records[set.node.0].as_ref();
    if let Some(made) = made.and_then(|record| record.outputs.get(&set.output)) {
        return Some(made.digest);
    }
    let preimage: KeyPreimage = records[node.0].as_ref()?.explain.parse().ok()?;
    Some(preimage.inputs.get(name)?.first()?.digest)
}

/// Everything the report shows.
pub(crate) fn report_data(results: &Results<'_>, store: &Store, device: &str) -> ReportData {
    let study = results.study;
    let study_id = StudyId::of(study, store.root());
    let history = History::read(&store.runs_dir(), &study_id, device);
    let groups = results.groups(ACCURACY);
    let sources = study.files().map(|(path, text)| {
        let name = path
            .file_name()
            .unwrap_or(path.as_os_str())
            .to_string_lossy()
            .into_owned();
        (name, text.clone())
    });
    let (times, timing) = times::arm_times(results);
    let difficulty = difficulty::read(results, store);
    let (comparisons, problems) = results.compared(&groups);
    let mut notes = notes::all(results, &groups);
    notes.extend(problems.iter().cloned());
    notes.extend(notes::missing(results));
    ReportData {
        study: study.name.clone(),
        sources: sources.collect(),
        overrides: study.overrides.clone(),
        facts: facts(results, &history),
        baseline: results.baseline().map(str::to_owned),
        spread: groups::spread(&groups),
        table: tables::final_steps(results, &groups, &times),
        differences: tables::differences(results, &groups),
        comparisons: comparisons.clone(),
        notes,
        matched: matched::compare(results, &groups),
        curves: tables::curves(results, &groups),
        times,
        timing,
        histogram: difficulty.histogram,
        filter: difficulty.filter,
        gallery: difficulty.gallery,
        stages: stages::boxes(results, &history),
        nodes: stages::rows(results, &history),
    }
}

/// The facts of the run below the title.
fn facts(results: &Results<'_>, history: &History) -> Vec<Fact> {
    let done = results
        .records
        .iter()
        .filter(|record| record.is_some())
        .count();
    let header = history.header.as_ref();
    let machine = header.and_then(|header| header.machine.as_ref());
    let overrides = &results.study.overrides;
    let facts = [
        (
            "overrides",
            Some(overrides.join(" ")).filter(|text| !text.is_empty()),
        ),
        ("run", header.map(|header| date(header.started_unix))),
        (
            "dcsft",
            header
                .and_then(|header| header.program.as_ref())
                .map(ToString::to_string),
        ),
        ("device", header.map(|header| header.device.clone())),
        ("host", machine.and_then(|machine| machine.host.clone())),
        ("processor", machine.map(ToString::to_string)),
        (
            "threads of a stage, at most",
            history.threads.map(|threads| threads.to_string()),
        ),
        (
            "stages",
            Some(format!("{done} of {}", results.records.len())),
        ),
        ("executed", header.map(|_| history.executed().to_string())),
        ("cached", header.map(|_| history.cached.to_string())),
        ("wall time", history.seconds.map(duration)),
    ];
    let facts = facts.into_iter().filter_map(|(name, value)| {
        Some(Fact {
            name: name.to_owned(),
            value: value?,
        })
    });
    facts.collect()
}
