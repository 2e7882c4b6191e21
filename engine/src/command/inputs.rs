//! Whether a program has left its inputs alone. They are in the cache, and other results are made of the same files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::stage::StageError;

/// What is to be seen of the inputs' files without reading them.
#[derive(Debug, PartialEq)]
pub(super) struct Seen(BTreeMap<PathBuf, (u64, Option<SystemTime>)>);

impl Seen {
    /// Looks at all files of all inputs.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub(super) fn of(inputs: &BTreeMap<String, Vec<PathBuf>>) -> Result<Self, StageError> {
        let mut files = BTreeMap::new();
        for dir in inputs.values().flatten() {
            look(dir, &mut files)?;
        }
        Ok(Self(files))
    }

    /// Looks again.
    ///
    /// # Errors
    /// If a file is new, gone or another one.
    pub(super) fn compare(
        &self,
        inputs: &BTreeMap<String, Vec<PathBuf>>,
    ) -> Result<(), StageError> {
        let now = Self::of(inputs)?;
        let all = self.0.keys().chain(now.0.keys());
        let Some(path) = all
            .into_iter()
            .find(|path| self.0.get(*path) != now.0.get(*path))
        else {
            return Ok(());
        };
        let dirs = inputs
            .iter()
            .flat_map(|(name, dirs)| dirs.iter().map(move |dir| (name, dir)));
        let (name, file) = dirs
            .filter_map(|(name, dir)| Some((name.as_str(), path.strip_prefix(dir).ok()?)))
            .next()
            .unwrap_or(("", path));
        Err(StageError::failed(format!(
            "the program wrote to its input `{name}`: `{}` is not what it was. Inputs are to be read only: \
             copy what is to be changed. The next run makes the input again",
            file.display()
        )))
    }
}

fn look(
    dir: &Path,
    files: &mut BTreeMap<PathBuf, (u64, Option<SystemTime>)>,
) -> Result<(), StageError> {
    for entry in fs::read_dir(dir).map_err(StageError::io(dir))? {
        let entry = entry.map_err(StageError::io(dir))?;
        let path = entry.path();
        let about = entry.metadata().map_err(StageError::io(&path))?;
        if about.is_dir() {
            look(&path, files)?;
        } else {
            files.insert(path, (about.len(), about.modified().ok()));
        }
    }
    Ok(())
}
