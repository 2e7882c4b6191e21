//! Writing JSON lines, and removing what may be anything.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use dcsft_engine::stage::StageError;
use serde::Serialize;

/// A file of JSON lines being written.
pub(crate) struct JsonLines {
    path: PathBuf,
    out: BufWriter<File>,
}

impl JsonLines {
    /// Starts the file.
    pub(crate) fn create(path: &Path) -> Result<Self, StageError> {
        let file = File::create_new(path).map_err(StageError::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            out: BufWriter::new(file),
        })
    }

    /// Appends a line.
    pub(crate) fn write<T: Serialize>(&mut self, value: &T) -> Result<(), StageError> {
        let mut line = serde_json::to_vec(value)
            .map_err(|error| StageError::failed(format!("{}: {error}", self.path.display())))?;
        line.push(b'\n');
        self.out
            .write_all(&line)
            .map_err(StageError::io(&self.path))
    }

    /// Writes out what is buffered.
    pub(crate) fn finish(mut self) -> Result<(), StageError> {
        self.out.flush().map_err(StageError::io(&self.path))
    }
}

/// Removes what has this name, file or folder.
pub(crate) fn remove(path: &Path) -> std::io::Result<()> {
    if path.is_dir() && !path.is_symlink() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}
