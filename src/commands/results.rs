//! `dcsft results SPEC`, and the table at the end of a run.

use std::io::Write;
use std::path::Path;

use comfy_table::Table;
use dcsft_engine::results::ResultRow;
use serde_json::json;

use super::plan::records;
use crate::cli::{self, ResultsFormat};
use crate::collect::{Results, Tables, missing};
use crate::exit::{Exit, Failure};
use crate::output::{self, print_json, print_table, stdout, table};
use crate::report::data::{ArmTime, Difference, Estimate, Gap, Spread, Timing};
use crate::report::scale::{duration, percent, points};
use crate::settings::App;

/// Prints the results that are in the cache.
///
/// # Errors
/// A wrong spec; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &cli::Results) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let records = records(&plan);
    let found = Results::new(&project.study, &records);
    let format = if app.terminal.json {
        ResultsFormat::Json
    } else {
        args.format
    };
    let mut out = stdout();
    match format {
        ResultsFormat::Json if args.seeds => print_seeds_json(&mut out, &found, args.all_steps)?,
        ResultsFormat::Json => found
            .rows
            .iter()
            .try_for_each(|row| print_json(&mut out, row))?,
        ResultsFormat::Csv => out.write_all(&csv(&found.rows)?)?,
        ResultsFormat::Markdown => {
            print_tables(&mut out, &found, args.all_steps, args.seeds, true)?
        }
        ResultsFormat::Table => print_tables(&mut out, &found, args.all_steps, args.seeds, false)?,
    }
    out.flush()?;
    if let Some(missing) = missing::words(&project.study, &plan) {
        app.terminal.to_stderr(&missing);
        app.terminal.help("`dcsft run` computes them");
    }
    Ok(Exit::Done)
}

/// The end of a run: the table, the differences over seeds, where the report is.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_summary(found: &Results<'_>, page: Option<&Path>) -> Result<(), Failure> {
    let mut out = stdout();
    if !found.rows.is_empty() {
        writeln!(out)?;
        print_tables(&mut out, found, false, true, false)?;
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
    print_tables(&mut markdown, found, true, true, true)?;
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

fn print_tables(
    out: &mut impl Write,
    found: &Results<'_>,
    all_steps: bool,
    seeds: bool,
    markdown: bool,
) -> Result<(), Failure> {
    let tables = found.tables(all_steps);
    if tables.table.rows.is_empty() {
        writeln!(out, "no evaluation has a result yet")?;
        return Ok(());
    }
    let print = |out: &mut _, table: Table| {
        print_table(
            out,
            &if markdown {
                output::markdown(table)
            } else {
                table
            },
        )
    };
    print(out, results_table(&tables))?;
    writeln!(out, "\nAccuracy in percent; {}.", tables.spread.words())?;
    if !tables.times.is_empty() {
        writeln!(out, "{}", tables.timing.words())?;
    }
    for line in speed_ups(&tables.times, &tables.timing) {
        writeln!(out, "{line}")?;
    }
    for one in &tables.matched {
        let se = one
            .gap
            .se
            .map(|se| format!(" ± {}", percent(se)))
            .unwrap_or_default();
        let (arm, versus, gap) = (&one.arm, &one.versus, points(one.gap.mean));
        let wins = format!("{} of {} seeds", one.gap.wins, one.gap.pairs);
        writeln!(
            out,
            "At matched ID accuracy, OOD of {arm} is {gap}{se} against {versus} (better on {wins})."
        )?;
    }
    if seeds
        && matches!(tables.spread, Spread::StandardError { .. })
        && !tables.differences.is_empty()
    {
        writeln!(out)?;
        print(out, differences_table(&tables.differences))?;
        writeln!(
            out,
            "\nPaired by seed, in points of accuracy; mean ± standard error."
        )?;
    }
    Ok(())
}

fn results_table(tables: &Tables) -> Table {
    let (data, times) = (&tables.table, &tables.times);
    let steps = data.rows.iter().any(|row| row.step.is_some());
    let means = data.sets.iter().filter(|(_, ood)| *ood).count() > 1;
    let formats = data.rows.iter().any(|row| row.format.is_some());
    let scored = times.iter().any(|time| time.scoring > 0.0);
    let mut heading = vec!["arm".to_owned()];
    heading.extend(steps.then(|| "step".to_owned()));
    heading.extend(
        data.sets
            .iter()
            .map(|(set, ood)| format!("{set} ({})", if *ood { "OOD" } else { "ID" })),
    );
    heading.extend(means.then(|| "OOD mean".to_owned()));
    heading.extend(formats.then(|| "in format".to_owned()));
    heading.extend((!times.is_empty()).then(|| tables.timing.heading().to_owned()));
    heading.extend(scored.then(|| "with scoring".to_owned()));
    let headings: Vec<&str> = heading.iter().map(String::as_str).collect();
    let mut list = table(&headings, &(1..headings.len()).collect::<Vec<_>>());
    for row in &data.rows {
        let time = times.iter().find(|time| time.arm == row.arm);
        let mut cells = vec![row.arm.clone()];
        cells.extend(steps.then(|| row.step.map(|step| step.to_string()).unwrap_or_default()));
        cells.extend(
            row.cells
                .iter()
                .map(|cell| cell.as_ref().map(estimate).unwrap_or_default()),
        );
        cells.extend(means.then(|| row.ood.as_ref().map(estimate).unwrap_or_default()));
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
    list
}

fn estimate(estimate: &Estimate) -> String {
    format!(
        "{} ±{:>4}",
        percent(estimate.value),
        percent(estimate.half_width())
    )
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
            lines.push(format!(
                "{} takes {ratio:.1}x the training time of {} in {}{with}.",
                grpo.arm,
                sft.arm,
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

/// Means over seeds, then paired differences, one object per line.
fn print_seeds_json(
    out: &mut impl Write,
    found: &Results<'_>,
    all_steps: bool,
) -> Result<(), Failure> {
    let tables = found.tables(all_steps);
    for row in &tables.table.rows {
        let sets = tables
            .table
            .sets
            .iter()
            .zip(&row.cells)
            .map(|((set, ood), cell)| (set.as_str(), if *ood { "ood" } else { "id" }, *cell));
        for (set, split, cell) in sets.chain([("mean", "id", row.id), ("mean", "ood", row.ood)]) {
            let Some(Estimate { value, low, high }) = cell else {
                continue;
            };
            print_json(
                out,
                &json!({
                    "arm": row.arm, "step": row.step, "set": set, "split": split, "metric": "accuracy",
                    "mean": value, "interval": [low, high], "spread": tables.spread,
                }),
            )?;
        }
    }
    tables
        .differences
        .iter()
        .try_for_each(|one| print_json(out, one))?;
    for one in &tables.matched {
        print_json(out, &json!({"matched_id": one}))?;
    }
    Ok(())
}

/// All rows with a heading; axes as `axis=value` pairs in one column.
fn csv(rows: &[ResultRow]) -> Result<Vec<u8>, Failure> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |arm: &str, axes: String, rest: [String; 8]| {
        let fields = [arm.to_owned(), axes].into_iter().chain(rest);
        writer.write_record(fields).map_err(Failure::failed)
    };
    write(
        "arm",
        "axes".to_owned(),
        ResultRow::COLUMNS.map(str::to_owned),
    )?;
    for row in rows {
        let axes: Vec<String> = row
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={}", dcsft_engine::study::plain(value)))
            .collect();
        write(&row.arm, axes.join(" "), row.cells())?;
    }
    writer
        .into_inner()
        .map_err(|error| Failure::failed(error.error()))
}
