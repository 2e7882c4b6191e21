//! `dcsft report SPEC`, and the report that `run` writes.

mod folder;

use std::io::Write;
use std::path::{Path, PathBuf};

use dcsft_cache::{Digest, file};
use dcsft_engine::record::Execution;
use serde_json::json;

use super::plan::records;
use super::results;
use crate::cli;
use crate::collect::{self, Results};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};
use crate::report;
use crate::settings::{App, Project};
use folder::PAGE;

/// Says from which results a report was made, and what was written.
const STAMP: &str = ".stamp";

/// Writes the report from what is in the cache and prints where it is.
///
/// # Errors
/// A wrong spec; a file that cannot be written.
pub(crate) fn run(app: &App, args: &cli::Report) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let records = records(&project.plan(&[], false)?);
    let found = Results::new(&project.study, &records, &project.store);
    let page = match &args.out {
        Some(folder) => write(&project, &found, folder, &[])?,
        None => {
            let folder = folder::claim(&project)?;
            write(&project, &found, &folder, &[])?
        }
    };
    let mut out = stdout();
    if app.terminal.json {
        print_json(&mut out, &json!({"report": page}))?;
    } else {
        writeln!(out, "{}", page.display())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Brings the report up to date; one that was made from the same results, and is as it was written, stays as it is.
/// Returns the page.
///
/// # Errors
/// A file that cannot be written.
pub(crate) fn update(
    project: &Project,
    found: &Results<'_>,
    failed: &[String],
) -> Result<PathBuf, Failure> {
    let folder = folder::claim(project)?;
    let stamped = file::text(&folder.join(STAMP)).ok();
    let current = stamped.and_then(|text| Stamp::parse(&text));
    if current
        .is_some_and(|stamp| stamp.made_from == made_from(found, failed) && stamp.is_whole(&folder))
    {
        return Ok(folder.join(PAGE));
    }
    write(project, found, &folder, failed)
}

fn write(
    project: &Project,
    found: &Results<'_>,
    folder: &Path,
    failed: &[String],
) -> Result<PathBuf, Failure> {
    let data = collect::report_data(found, &project.store, &project.device);
    let page = report::write(&data, folder).map_err(Failure::failed)?;
    results::write_files(found, folder)?;
    // Last: what a kill leaves unfinished has no stamp that fits.
    let path = folder.join(STAMP);
    let stamp =
        Stamp::of(folder, made_from(found, failed)).map_err(Failure::write(folder.to_owned()))?;
    file::write(&path, stamp.text()).map_err(Failure::write(path))?;
    Ok(page)
}

/// The stamp of a report: a line for what it was made from, and one for each file.
struct Stamp {
    made_from: Digest,
    files: Vec<(String, Digest)>,
}

impl Stamp {
    /// Of the files in `folder`.
    fn of(folder: &Path, made_from: Digest) -> std::io::Result<Self> {
        let mut files = Vec::new();
        for below in ["", "figures"] {
            for entry in std::fs::read_dir(folder.join(below))? {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                let ours = [PAGE, "results.jsonl", "results.csv", "results.md"]
                    .contains(&name.as_str())
                    || (below == "figures" && !name.ends_with(".part"));
                if ours && entry.file_type()?.is_file() {
                    let (digest, _) = Digest::of_reader(file::open(&entry.path())?)?;
                    let path = Path::new(below).join(&name);
                    files.push((path.to_string_lossy().into_owned(), digest));
                }
            }
        }
        files.sort();
        Ok(Self { made_from, files })
    }

    fn text(&self) -> String {
        let files = self.files.iter();
        let lines = files.map(|(name, digest)| format!("{digest} {name}\n"));
        std::iter::once(format!("{}\n", self.made_from))
            .chain(lines)
            .collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let made_from = lines.next()?.parse().ok()?;
        let file = |line: &str| {
            let (digest, name) = line.split_once(' ')?;
            Some((name.to_owned(), digest.parse().ok()?))
        };
        let files: Option<Vec<_>> = lines.map(file).collect();
        Some(Self {
            made_from,
            files: files?,
        })
        .filter(|stamp| stamp.files.iter().any(|(name, _)| name == PAGE))
    }

    /// Whether every file is as it was written.
    fn is_whole(&self, folder: &Path) -> bool {
        self.files.iter().all(|(name, digest)| {
            let found = file::open(&folder.join(name)).and_then(Digest::of_reader);
            found.is_ok_and(|(found, _)| found == *digest)
        })
    }
}

/// A digest of all that a report is made from.
fn made_from(found: &Results<'_>, failed: &[String]) -> Digest {
    let study = found.study;
    let mut text = format!(
        "{}\n{:?}\n{failed:?}\n",
        crate::program::this(),
        study.overrides
    );
    for source in &study.sources {
        text += &format!(
            "{} {}\n",
            source,
            Digest::of_bytes(source.text().as_bytes())
        );
    }
    for record in found.records {
        match record {
            Some(record) => {
                text += &format!(
                    "{} {} {}\n",
                    record.key,
                    record.created_unix,
                    Execution::of(record).seconds.to_bits()
                )
            }
            None => text.push_str("none\n"),
        }
    }
    Digest::of_bytes(text.as_bytes())
}
