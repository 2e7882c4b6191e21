//! `dcsft results SPEC`, and the table at the end of a run.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use dcsft_engine::results::ResultRow;
use dcsft_engine::results::arms::SEED;
use dcsft_engine::results::csv::table as csv_table;
use dcsft_engine::results::statistics::{Estimate, Gap, Spread};
use dcsft_engine::text;
use dcsft_engine::units::duration;
use serde::Serialize;
use serde_json::json;

use super::plan::records;
use crate::cli::{self, ResultsFormat};
use crate::collect::{Results, Tables, missing};
use crate::exit::{Exit, Failure};
use crate::origin::{self, Origin};
use crate::output::{Table, count, print_json, print_markdown, print_table, stdout, table};
use crate::report::data::{ArmTime, Comparison, Difference, MatchedGap, ResultTable, Timing};
use crate::report::scale::{percent, points};
use crate::report::words::{difference, estimate, is_lopsided, p_value, seeds_of};
use crate::settings::App;

/// Pairs at matched ID accuracy that the terminal shows.
const MATCHED: usize = 12;

/// Prints the results that are in the cache.
///
/// # Errors
/// A wrong spec; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &cli::Results) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let records = records(&plan);
    let found = Results::new(&project.study, &records, &project.store);
    let format = if app.terminal.json {
        ResultsFormat::Json
    } else {
        args.format
    };
    let mut tables = found.tables(args.all_steps);
    let mut out = stdout();
    match format {
        ResultsFormat::Json if args.seeds => print_seeds_json(&mut out, &tables)?,
        ResultsFormat::Json => print_rows(&mut out, &found)?,
        ResultsFormat::Csv if args.seeds => {
            return Err(Failure::usage("--seeds has no table to go into with --format csv")
                .help("`--json --seeds` has means and differences; the rows of `--format csv` have every seed"));
        }
        ResultsFormat::Csv => out.write_all(&csv(&found.rows)?)?,
        ResultsFormat::Markdown => print_tables(&mut out, &tables, args.seeds, Form::Markdown)?,
        ResultsFormat::Table => print_tables(&mut out, &tables, args.seeds, Form::Terminal)?,
    }
    out.flush()?;
    if matches!(format, ResultsFormat::Json | ResultsFormat::Csv) {
        tables.missing = None;
        tell_notes(app, &tables);
    }
    if let Some(missing) = missing::words(&project.study, &plan) {
        app.terminal.to_stderr(&missing);
        app.terminal.help("`dcsft run` computes them");
    }
    Ok(Exit::Done)
}

/// Each row with where its evaluation comes from.
fn print_rows(out: &mut impl Write, found: &Results<'_>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'r> {
        #[serde(flatten)]
        row: &'r ResultRow,
        origin: Option<Origin>,
    }
    let runs = origin::runs(found.store);
    for (row, node) in found.rows.iter().zip(&found.nodes) {
        let record = found.records[node.0].as_ref();
        let origin = record.map(|record| Origin::of(record, &runs));
        print_json(out, &Line { row, origin })?;
    }
    Ok(())
}

/// The notes, where stdout is for programs.
pub(crate) fn tell_notes(app: &App, tables: &Tables) {
    for note in tables.notes.iter().chain(&tables.missing) {
        app.terminal.say(&format!("note: {note}"));
    }
}

/// The end of a run: the table, the differences over seeds, what was left out, where the report is.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_summary(found: &Results<'_>, page: Option<&Path>) -> Result<(), Failure> {
    let mut out = stdout();
    let mut tables = found.tables(false);
    let missing = tables.missing.take();
    tables.notes.extend(missing);
    if !found.rows.is_empty() || !tables.notes.is_empty() {
        writeln!(out)?;
    }
    if found.rows.is_empty() {
        print_notes(&mut out, &tables.notes)?;
    } else {
        print_tables(&mut out, &tables, true, Form::Terminal)?;
    }
    if let Some(page) = page {
        writeln!(out, "\nreport: {}", page.display())?;
    }
    out.flush()?;
    Ok(())
}

/// `results.jsonl`, `results.csv` and `results.md` beside the page of a report.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn write_files(found: &Results<'_>, folder: &Path) -> Result<(), Failure> {
    let (mut lines, mut markdown) = (Vec::new(), Vec::new());
    found
        .rows
        .iter()
        .try_for_each(|row| print_json(&mut lines, row))?;
    print_tables(&mut markdown, &found.tables(true), true, Form::Markdown)?;
    for (name, bytes) in [
        ("results.jsonl", lines),
        ("results.csv", csv(&found.rows)?),
        ("results.md", markdown),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(Failure::write(path))?;
    }
    Ok(())
}

/// Where tables are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Terminal,
    Markdown,
}

impl Form {
    fn print(self, out: &mut impl Write, table: &Table) -> std::io::Result<()> {
        match self {
            Self::Terminal => print_table(out, table),
            Self::Markdown => print_markdown(out, table),
        }
    }
}

fn print_tables(
    out: &mut impl Write,
    tables: &Tables,
    seeds: bool,
    form: Form,
) -> Result<(), Failure> {
    if tables.table.rows.is_empty() {
        writeln!(out, "no evaluation has a result yet")?;
        return Ok(print_notes(out, &tables.notes)?);
    }
    let (list, step) = results_table(tables);
    form.print(out, &list)?;
    writeln!(out, "\n{}", caption(&tables.table, tables.spread, step))?;
    if !tables.times.is_empty() {
        writeln!(out, "{}", tables.timing.words())?;
    }
    for line in speed_ups(&tables.times, &tables.timing) {
        writeln!(out, "{line}")?;
    }
    print_matched(out, &tables.matched)?;
    if tables.shown > 0 {
        writeln!(out)?;
        form.print(out, &comparisons_table(&tables.comparisons[..tables.shown]))?;
        writeln!(out, "\n{COMPARED}")?;
    }
    if tables.comparisons.len() > tables.shown {
        let more = count(tables.comparisons.len() - tables.shown, "pair", "pairs");
        writeln!(
            out,
            "{more} more: `results --json --seeds`, and the report."
        )?;
    }
    if seeds
        && matches!(tables.spread, Spread::StandardError { .. })
        && !tables.differences.is_empty()
    {
        writeln!(out)?;
        form.print(out, &differences_table(&tables.differences))?;
        writeln!(
            out,
            "\nPaired by seed, in points of accuracy; mean ± standard error."
        )?;
    }
    Ok(print_notes(out, &tables.notes)?)
}

/// What stands below comparisons of single runs.
const COMPARED: &str = "\
Sample by sample, in points of accuracy ± half the 95% interval, or [low, high] where that is lopsided; `better` and
`worse` count the samples that only one of the two has right, p is that of the exact McNemar test.";

/// Notes, after an empty line.
fn print_notes(out: &mut impl Write, notes: &[String]) -> std::io::Result<()> {
    if !notes.is_empty() {
        writeln!(out)?;
    }
    notes
        .iter()
        .try_for_each(|note| writeln!(out, "note: {}", text::line(note)))
}

/// How the numbers of the table are to be read; `step` is that of all arms, where no column has it.
fn caption(table: &ResultTable, spread: Spread, step: Option<u64>) -> String {
    let mut text = format!("Accuracy in percent; {}", spread.words());
    if spread == Spread::Wilson95
        && table
            .rows
            .iter()
            .flat_map(|row| row.cells.iter().flatten())
            .any(is_lopsided)
    {
        text += ", -below/+above where it is lopsided";
    }
    if table.is_mixed() {
        text += "; [low, high] is the 95% Wilson interval of a single run";
    }
    if table.lacks_seeds() {
        text += "; (n) is a mean over n seeds only";
    }
    if let Some(step) = step {
        text += &format!("; trained arms at step {step}");
    }
    text + "."
}

/// The table, and the step of all its arms that have one, where that is the same.
fn results_table(tables: &Tables) -> (Table, Option<u64>) {
    let (data, times) = (&tables.table, &tables.times);
    let known: BTreeSet<u64> = data.rows.iter().filter_map(|row| row.step).collect();
    let steps = known.len() > 1;
    let seeds = data.is_mixed() || data.lacks_seeds();
    let means = data.sets.iter().filter(|(_, ood)| *ood).count() > 1;
    let formats = data.rows.iter().any(|row| row.format.is_some());
    let scored = times.iter().any(|time| time.scoring > 0.0);
    let mut heading = vec!["arm".to_owned()];
    heading.extend(steps.then(|| "step".to_owned()));
    heading.extend(seeds.then(|| "seeds".to_owned()));
    heading.extend(
        data.sets
            .iter()
            .map(|(set, ood)| format!("{} ({})", text::line(set), if *ood { "OOD" } else { "ID" })),
    );
    heading.extend(means.then(|| "OOD mean".to_owned()));
    heading.extend(formats.then(|| "in\nformat".to_owned()));
    heading.extend((!times.is_empty()).then(|| tables.timing.heading().replacen(' ', "\n", 1)));
    heading.extend(scored.then(|| "with\nscoring".to_owned()));
    let headings: Vec<&str> = heading.iter().map(String::as_str).collect();
    let mut list = table(&headings, &(1..headings.len()).collect::<Vec<_>>());
    for row in &data.rows {
        let time = times.iter().find(|time| time.arm == row.arm);
        let cell = |cell: &Option<Estimate>| {
            let text = cell
                .as_ref()
                .map(|one| estimate(one, row.seeds, data.seeds));
            text.unwrap_or_default()
        };
        let mut cells = vec![row.arm.clone()];
        cells.extend(steps.then(|| row.step.map(|step| step.to_string()).unwrap_or_default()));
        cells.extend(seeds.then(|| seeds_of(row.seeds, data.seeds)));
        cells.extend(row.cells.iter().map(cell));
        cells.extend(means.then(|| cell(&row.ood)));
        cells.extend(formats.then(|| row.format.map(percent).unwrap_or_default()));
        cells.extend(
            (!times.is_empty())
                .then(|| time.map(|time| duration(time.training)).unwrap_or_default()),
        );
        cells.extend(scored.then(|| {
            time.map(|time| duration(time.training + time.scoring))
                .unwrap_or_default()
        }));
        list.add_row(cells);
    }
    (list, known.into_iter().next().filter(|_| !steps))
}

fn print_matched(out: &mut impl Write, matched: &[MatchedGap]) -> std::io::Result<()> {
    for one in matched.iter().take(MATCHED) {
        writeln!(out, "{}", matched_line(one))?;
    }
    if matched.len() > MATCHED {
        let more = count(matched.len() - MATCHED, "pair", "pairs");
        writeln!(
            out,
            "{more} more at matched ID accuracy: `results --json --seeds`, and the report."
        )?;
    }
    Ok(())
}

/// `At matched ID accuracy (70.0 to 80.0), OOD of a is +1.2 ± 0.3 against b (better on 4 of 5 seeds).`
fn matched_line(one: &MatchedGap) -> String {
    let (arm, versus) = (text::line(&one.arm), text::line(&one.versus));
    let (Some(gap), Some([low, high])) = (one.gap, one.range) else {
        return format!(
            "At matched ID accuracy, {arm} and {versus} are not compared: their ranges of ID do not overlap."
        );
    };
    let se = gap
        .se
        .map(|se| format!(" ± {}", percent(se)))
        .unwrap_or_default();
    let wins = match gap.pairs {
        1 if one.apart == 0 => "one run each".to_owned(),
        pairs => format!(
            "better on {} of {}",
            gap.wins,
            count(pairs, "seed", "seeds")
        ),
    };
    let apart = match one.apart {
        0 => String::new(),
        apart => format!(", ranges do not overlap on {apart} more"),
    };
    format!(
        "At matched ID accuracy, OOD of {arm} is {}{se} against {versus} ({wins}{apart}; ID {} to {}).",
        points(gap.mean),
        percent(low),
        percent(high)
    )
}

fn comparisons_table(comparisons: &[Comparison]) -> Table {
    let heading = [
        "arm",
        "against",
        "set",
        "difference",
        "better",
        "worse",
        "p",
    ];
    let mut list = table(&heading, &[3, 4, 5, 6]);
    for one in comparisons {
        let row = |set: String, text: String, rest: [String; 3]| {
            let names = [one.arm.clone(), one.versus.clone(), set, text];
            names.into_iter().chain(rest).collect::<Vec<String>>()
        };
        for set in &one.sets {
            let paired = &set.paired;
            let mut name = set.set.clone();
            if set.unshared > 0 {
                name += &format!(" ({} shared, {} not)", paired.n, set.unshared);
            }
            let counts = [
                paired.better.to_string(),
                paired.worse.to_string(),
                p_value(paired.p),
            ];
            list.add_row(row(
                name,
                difference(paired.difference, paired.interval),
                counts,
            ));
        }
        for (name, mean) in [("ID mean", one.id), ("OOD mean", one.ood)] {
            if let Some((value, interval)) = mean {
                let none = [String::new(), String::new(), String::new()];
                list.add_row(row(name.to_owned(), difference(value, interval), none));
            }
        }
    }
    list
}

/// `grpo takes 3.4x the training time of sft/easy+medium in CPU time (2.5x with the rollout scoring that this needs)`,
/// for each setting that both were trained with.
fn speed_ups(times: &[ArmTime], timing: &Timing) -> Vec<String> {
    let mut lines = Vec::new();
    for grpo in times {
        let Some(setting) = grpo.arm.strip_prefix("grpo") else {
            continue;
        };
        let curated = format!("/easy+medium{setting}");
        for sft in times
            .iter()
            .filter(|time| time.arm.ends_with(&curated) && time.training > 0.0)
        {
            let with = if sft.scoring > 0.0 {
                let ratio = grpo.training / (sft.training + sft.scoring);
                format!(" ({ratio:.1}x with the rollout scoring that this needs)")
            } else {
                String::new()
            };
            let ratio = grpo.training / sft.training;
            let (grpo, sft) = (text::line(&grpo.arm), text::line(&sft.arm));
            lines.push(format!(
                "{grpo} takes {ratio:.1}x the training time of {sft} in {}{with}.",
                timing.name()
            ));
        }
    }
    lines
}

fn differences_table(differences: &[Difference]) -> Table {
    let mut list = table(
        &["arm", "against", "OOD", "better on", "ID", "better on"],
        &[2, 3, 4, 5],
    );
    for one in differences {
        let cells = |gap: Option<&Gap>| match gap {
            Some(gap) => {
                let se = gap
                    .se
                    .map(|se| format!(" ±{:>4}", percent(se)))
                    .unwrap_or_default();
                [
                    format!("{}{se}", points(gap.mean)),
                    format!("{} of {}", gap.wins, gap.pairs),
                ]
            }
            None => [String::new(), String::new()],
        };
        let ([ood, ood_wins], [id, id_wins]) = (cells(one.ood.as_ref()), cells(one.id.as_ref()));
        list.add_row([
            one.arm.clone(),
            one.versus.clone(),
            ood,
            ood_wins,
            id,
            id_wins,
        ]);
    }
    list
}

/// Means over seeds, then what is compared, one object per line.
fn print_seeds_json(out: &mut impl Write, tables: &Tables) -> Result<(), Failure> {
    for row in &tables.table.rows {
        let sets = tables
            .table
            .sets
            .iter()
            .zip(&row.cells)
            .map(|((set, ood), cell)| (set.as_str(), if *ood { "ood" } else { "id" }, *cell));
        for (set, split, cell) in sets.chain([("mean", "id", row.id), ("mean", "ood", row.ood)]) {
            let Some(estimate) = cell else {
                continue;
            };
            print_json(
                out,
                &json!({
                    "arm": row.arm, "step": row.step, "set": set, "split": split, "metric": "accuracy",
                    "mean": estimate.value, "interval": [estimate.low, estimate.high], "spread": estimate.spread(),
                    "seeds": row.seeds.map(|_| estimate.runs), "seeds_of": tables.table.seeds,
                }),
            )?;
        }
    }
    tables
        .differences
        .iter()
        .try_for_each(|one| print_json(out, one))?;
    for one in &tables.comparisons {
        print_json(out, &json!({"compared": one}))?;
    }
    for one in &tables.matched {
        print_json(out, &json!({"matched_id": one}))?;
    }
    Ok(())
}

/// All rows with a heading, a column per axis.
fn csv(rows: &[ResultRow]) -> Result<Vec<u8>, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for line in csv_table(rows, SEED) {
        writer.write_record(line).map_err(Failure::failed)?;
    }
    writer
        .into_inner()
        .map_err(|error| Failure::failed(error.error()))
}
