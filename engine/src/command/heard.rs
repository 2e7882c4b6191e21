//! What a program says while it runs: lines for the log, and JSON objects with an `event` among them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::stage::{Progress, StageContext};

/// A line that is meant for the engine.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
enum Said {
    /// How far it is.
    Progress(Progress),
    /// A line for the log.
    Log { message: String },
    /// Something that every run is to show.
    Warning { message: String },
}

/// Passes a line on.
pub(super) fn hear(line: &[u8], ctx: &mut StageContext) {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end();
    match text.starts_with('{').then(|| serde_json::from_str(text)) {
        Some(Ok(Said::Progress(progress))) => ctx.progress(progress),
        Some(Ok(Said::Log { message })) => ctx.log(message),
        Some(Ok(Said::Warning { message })) => ctx.warn(message),
        // What is none of the engine's business is the program's own.
        Some(Err(_)) | None if !text.is_empty() => ctx.log(text),
        _ => {}
    }
}

/// The file that a program may write events to, read as it grows.
pub(super) struct Events {
    reader: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
}

impl Events {
    /// Makes the file.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(super) fn create(path: &Path) -> std::io::Result<Self> {
        File::create(path)?;
        Ok(Self {
            reader: BufReader::new(File::open(path)?),
            begun: Vec::new(),
        })
    }

    /// Passes on what has been written since the last time; at the `end` also a line that was not ended.
    pub(super) fn hear(&mut self, ctx: &mut StageContext, end: bool) {
        while matches!(self.reader.read_until(b'\n', &mut self.begun), Ok(1..)) {
            if self.begun.ends_with(b"\n") || end {
                hear(&self.begun, ctx);
                self.begun.clear();
            }
        }
        if end && !self.begun.is_empty() {
            hear(&std::mem::take(&mut self.begun), ctx);
        }
    }
}
