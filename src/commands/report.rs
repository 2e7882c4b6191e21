//! `dcsft report SPEC`, and the report that `run` writes.

use std::io::Write;
use std::path::{Path, PathBuf};

use dcsft_cache::Digest;
use serde_json::json;

use super::plan::records;
use super::results;
use crate::cli;
use crate::collect::{self, Results};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};
use crate::report;
use crate::settings::{App, Project};

/// Says from which results a report was made.
const STAMP: &str = ".stamp";

/// Writes the report from what is in the cache and prints where it is.
///
/// # Errors
/// A wrong spec; a file that cannot be written.
pub(crate) fn run(app: &App, args: &cli::Report) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let records = records(&project.plan(&[], false)?);
    let found = Results::new(&project.study, &records);
    let folder = args.out.clone().unwrap_or_else(|| folder(&project));
    let page = write(&project, &found, &folder, &[])?;
    let mut out = stdout();
    if app.terminal.json {
        print_json(&mut out, &json!({"report": page}))?;
    } else {
        writeln!(out, "{}", page.display())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Brings the report up to date; one that was made from the same results stays as it is. Returns the page.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn update(
    project: &Project,
    found: &Results<'_>,
    failed: &[String],
) -> Result<PathBuf, Failure> {
    let folder = folder(project);
    let page = folder.join("index.html");
    let current = std::fs::read_to_string(folder.join(STAMP)).ok();
    if page.exists() && current.as_deref() == Some(&stamp(found, failed)) {
        return Ok(page);
    }
    write(project, found, &folder, failed)
}

fn write(
    project: &Project,
    found: &Results<'_>,
    folder: &Path,
    failed: &[String],
) -> Result<PathBuf, Failure> {
    let data = collect::report_data(found, &project.store);
    let page = report::write(&data, folder).map_err(Failure::failed)?;
    results::write_files(found, folder)?;
    let path = folder.join(STAMP);
    std::fs::write(&path, stamp(found, failed)).map_err(Failure::write(path))?;
    Ok(page)
}

/// `reports/NAME` in the cache.
fn folder(project: &Project) -> PathBuf {
    let name = &project.study.name;
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let safe = safe.trim_start_matches('.');
    project
        .store
        .root()
        .join("reports")
        .join(if safe.is_empty() { "report" } else { safe })
}

/// A digest of all that a report is made from.
fn stamp(found: &Results<'_>, failed: &[String]) -> String {
    let study = found.study;
    let mut text = format!(
        "{}\n{:?}\n{failed:?}\n",
        env!("CARGO_PKG_VERSION"),
        study.overrides
    );
    for (path, source) in &study.sources {
        text += &format!(
            "{} {}\n",
            path.display(),
            Digest::of_bytes(source.as_bytes())
        );
    }
    for record in found.records {
        match record {
            Some(record) => {
                text += &format!(
                    "{} {} {}\n",
                    record.key,
                    record.created_unix,
                    record.seconds().to_bits()
                )
            }
            None => text.push_str("none\n"),
        }
    }
    Digest::of_bytes(text.as_bytes()).to_string()
}
