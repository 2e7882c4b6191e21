//! From a study's cached results to what the report and the tables show.

mod answers;
mod difficulty;
pub(crate) mod history;
mod matched;
pub(crate) mod missing;
pub(crate) mod notes;
mod results;
pub(crate) mod samples;
mod stages;
mod tables;
mod times;

use dcsft_cache::Store;
use dcsft_engine::results::arms::{self, Group};
use dcsft_engine::results::statistics::Spread;
use dcsft_engine::study::StudyId;
use dcsft_engine::units::{date, duration};

use crate::report::data::{
    ArmTime, Comparison, Difference, Fact, MatchedGap, ReportData, ResultTable, Timing,
};
use history::History;

pub(crate) use results::{ACCURACY, FORMAT_ACCURACY, Results};

impl Results<'_> {
    /// See [`answers::compare`].
    fn compared(&self, groups: &[Group]) -> &(Vec<Comparison>, Vec<String>) {
        self.compared.get_or_init(|| answers::compare(self, groups))
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
            spread: arms::spread(&groups),
            times,
            timing,
            notes,
            missing: notes::missing(self),
        }
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
        (name, text.to_owned())
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
        spread: arms::spread(&groups),
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
