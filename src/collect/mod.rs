//! From a study's cached results to what the report and the tables show.

mod difficulty;
pub(crate) mod groups;
mod history;
mod matched;
pub(crate) mod missing;
pub(crate) mod samples;
mod stages;
mod tables;
mod times;

use std::sync::Arc;

use dcsft_cache::{Record, Store};
use dcsft_engine::results::{self, ResultRow};
use dcsft_engine::study::Study;
use dcsft_engine::study_id::StudyId;

use crate::output::date;
use crate::report::data::{
    ArmTime, Difference, Fact, MatchedGap, ReportData, ResultTable, Spread, Timing,
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
    /// Evaluations.
    pub(crate) rows: Vec<ResultRow>,
}

impl<'a> Results<'a> {
    /// Gathers the evaluations among `records`.
    pub(crate) fn new(study: &'a Study, records: &'a [Option<Arc<Record>>]) -> Self {
        Self {
            study,
            records,
            rows: results::rows(study, records),
        }
    }

    /// The rows of a metric by arm and step.
    pub(crate) fn groups(&self, metric: &str) -> Vec<Group> {
        groups::group(&self.rows, metric)
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
        Tables {
            table: make(self, &groups, &times),
            differences: tables::differences(self, &groups),
            matched: matched::compare(self, &groups),
            spread: groups::spread(&groups),
            times,
            timing,
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
    /// Comparisons at matched in-distribution accuracy.
    pub(crate) matched: Vec<MatchedGap>,
    /// How intervals are to be read.
    pub(crate) spread: Spread,
    /// Training times.
    pub(crate) times: Vec<ArmTime>,
    /// What these times are.
    pub(crate) timing: Timing,
}

/// Everything the report shows.
pub(crate) fn report_data(results: &Results<'_>, store: &Store) -> ReportData {
    let study = results.study;
    let history = History::read(&store.runs_dir(), &StudyId::of(study, store.root()));
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
    ReportData {
        study: study.name.clone(),
        sources: sources.collect(),
        overrides: study.overrides.clone(),
        facts: facts(results, &history),
        baseline: results.baseline().map(str::to_owned),
        spread: groups::spread(&groups),
        table: tables::final_steps(results, &groups, &times),
        differences: tables::differences(results, &groups),
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
