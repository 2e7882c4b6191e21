//! `dcsft.toml`: how a project runs, for all who work on it. Beside the spec or in a folder above it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dcsft_engine::run::slurm::SlurmOptions;
use dcsft_engine::units;
use serde::Deserialize;

use crate::cli::ExecutorName;
use crate::exit::Failure;

const NAME: &str = "dcsft.toml";

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ProjectFile {
    /// Where stages run if the command line does not say.
    pub(crate) executor: Option<ExecutorName>,
    /// The remote cache if the command line does not name one. A folder is meant from where the file is.
    pub(crate) remote: Option<String>,
    slurm: Slurm,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Slurm {
    partition: Option<String>,
    account: Option<String>,
    flags: Vec<String>,
    poll: Option<String>,
}

impl ProjectFile {
    /// The file that a spec belongs to; empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or says something unknown.
    pub(crate) fn of(spec: &Path) -> Result<Self, Failure> {
        let Some(path) = find(spec) else {
            return Ok(Self::default());
        };
        let wrong =
            |error: &dyn std::fmt::Display| Failure::usage(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(&error))?;
        let mut file: Self = toml::from_str(&text).map_err(|error| wrong(&error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        file.remote = file
            .remote
            .map(|remote| match remote.contains("://") || remote.is_empty() {
                true => remote,
                false => folder.join(remote).to_string_lossy().into_owned(),
            });
        Ok(file)
    }

    /// How to use the cluster.
    ///
    /// # Errors
    /// For a time that is none.
    pub(crate) fn slurm(self) -> Result<SlurmOptions, Failure> {
        let defaults = SlurmOptions::default();
        let poll = match &self.slurm.poll {
            None => defaults.poll,
            Some(text) => units::seconds(text)
                .filter(|seconds| units::is_time(*seconds))
                .map(Duration::from_secs_f64)
                .ok_or_else(|| {
                    Failure::usage(format!(
                        "{NAME}: `poll` takes a time such as `10s`, not `{text}`"
                    ))
                })?,
        };
        Ok(SlurmOptions {
            partition: self.slurm.partition,
            account: self.slurm.account,
            flags: self.slurm.flags,
            poll,
        })
    }
}

fn find(spec: &Path) -> Option<PathBuf> {
    let spec = std::path::absolute(spec).ok()?;
    let folders = spec.ancestors().skip(1);
    folders
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file())
}
