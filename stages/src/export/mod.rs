//! Artifacts in the formats that other tools load: models for Transformers, PEFT and vLLM, sets for ms-swift, sampled
//! answers as tables.

mod copy;
mod error;
mod format;
mod model;
mod rollouts;
mod samples;

use std::fs;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::ArtifactType;
use serde::Serialize;

use copy::copy_all;
pub use error::ExportError;
pub use format::{Format, formats};

/// What an export came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The format that was written.
    pub format: Format,
    /// Samples or answers written; none for a model.
    pub rows: Option<usize>,
}

/// Writes the artifact in the folder `from` to the folder `to`, which is not there yet or is empty. It appears there
/// whole or not at all. `base` names the model that adapters belong to, for whoever loads them.
///
/// # Errors
/// [`ExportError`]: a format that the artifact does not have, a folder with something in it, a file that cannot be
/// read or written.
pub fn export(
    artifact: ArtifactType,
    from: &Path,
    to: &Path,
    format: Option<Format>,
    base: Option<&str>,
) -> Result<Exported, ExportError> {
    let known = formats(artifact);
    let format = format.unwrap_or(known[0]);
    if !known.contains(&format) {
        return Err(ExportError::Format { format, known });
    }
    ensure_empty(to)?;
    let partial = beside(to)?;
    if let Some(parent) = partial.parent() {
        fs::create_dir_all(parent).map_err(ExportError::io(parent))?;
    }
    // New: nobody's folder of this name is written into, nor removed.
    fs::create_dir(&partial).map_err(ExportError::io(&partial))?;
    let written = write(artifact, from, &partial, format, base);
    let placed = written.and_then(|rows| {
        fs::rename(&partial, to).map_err(ExportError::io(to))?;
        Ok(Exported { format, rows })
    });
    if placed.is_err() {
        // The first mistake is the one to tell.
        let _ = fs::remove_dir_all(&partial);
    }
    placed
}

fn write(
    artifact: ArtifactType,
    from: &Path,
    to: &Path,
    format: Format,
    base: Option<&str>,
) -> Result<Option<usize>, ExportError> {
    match (artifact, format) {
        (ArtifactType::Dataset, Format::Jsonl) => samples::write(from, to).map(Some),
        (ArtifactType::Rollouts, Format::Jsonl) => rollouts::write_jsonl(from, to).map(Some),
        (ArtifactType::Rollouts, Format::Parquet) => rollouts::write_parquet(from, to).map(Some),
        (ArtifactType::Model, Format::Merged) => model::write_merged(from, to).map(|()| None),
        (ArtifactType::Model, Format::Adapter) => {
            model::write_adapter(from, to, base).map(|()| None)
        }
        _ => copy_all(from, to, &[]).map(|()| None),
    }
}

fn ensure_empty(dir: &Path) -> Result<(), ExportError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(ExportError::NotEmpty(dir.to_owned())),
            None => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(ExportError::io(dir)(error)),
    }
}

/// A folder of this process in the folder that `to` will be in.
fn beside(to: &Path) -> Result<PathBuf, ExportError> {
    let whole = std::path::absolute(to).map_err(ExportError::io(to))?;
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
        return Err(ExportError::NotEmpty(whole));
    };
    let name = name.to_string_lossy();
    Ok(parent.join(format!(".{name}.{}.partial", std::process::id())))
}
