//! Whoever watches a run.

use std::io::{self, Write};

use crate::journal::RunEvent;
use crate::text;

/// Takes the events of a run, on the thread that runs it.
pub trait Reporter {
    /// Something happened.
    fn event(&mut self, event: &RunEvent);
}

impl<F: FnMut(&RunEvent)> Reporter for F {
    fn event(&mut self, event: &RunEvent) {
        self(event);
    }
}

/// Writes one JSON object per line: `dcsft run --json`.
#[derive(Debug)]
pub struct JsonReporter<W> {
    out: W,
    error: Option<io::Error>,
    finished: bool,
}

impl<W: Write> JsonReporter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            error: None,
            finished: false,
        }
    }

    /// Whether the run's last event was written.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Says whether all events were written.
    ///
    /// # Errors
    /// The first one that a write ended in, after which nothing was written. A reader that went away is none.
    pub fn written(&mut self) -> io::Result<()> {
        self.error
            .take()
            .filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
            .map_or(Ok(()), Err)
    }

    fn write(&mut self, event: &RunEvent) -> io::Result<()> {
        let line = serde_json::to_string(event)?;
        writeln!(self.out, "{}", text::json(&line))?;
        self.out.flush()
    }
}

impl<W: Write> Reporter for JsonReporter<W> {
    fn event(&mut self, event: &RunEvent) {
        self.finished |= matches!(event, RunEvent::Finished { .. });
        // What cannot be told is no reason to end the run.
        if self.error.is_none() {
            self.error = self.write(event).err();
        }
    }
}
