//! Hearing a worker: what it says goes to the stage's log and to the run.

use std::fs::File;
use std::io::{self, Write};

use crate::stage::Event;

/// Takes what a worker says.
pub(super) struct Ear<'a> {
    pub(super) log: &'a mut File,
    pub(super) emit: &'a mut dyn FnMut(Event),
    /// The event that says how the attempt ended.
    pub(super) last: Option<Event>,
    /// The worker waits for another one.
    pub(super) waits: bool,
}

impl Ear<'_> {
    pub(super) fn hear(&mut self, line: &[u8]) -> io::Result<()> {
        let event = match serde_json::from_slice(line) {
            Ok(event) => event,
            // Something inside the stage printed.
            Err(_) => {
                let text = String::from_utf8_lossy(line);
                return match text.trim_end() {
                    "" => Ok(()),
                    text => writeln!(self.log, "{text}"),
                };
            }
        };
        self.waits = matches!(event, Event::Waits { .. });
        match event {
            Event::Done | Event::Failed { .. } | Event::Interrupted => self.last = Some(event),
            Event::Log { ref message } => {
                writeln!(self.log, "{message}")?;
                (self.emit)(event);
            }
            Event::Warning { ref message } => {
                writeln!(self.log, "warning: {message}")?;
                (self.emit)(event);
            }
            Event::Progress(_) | Event::Used(_) | Event::Waits { .. } => (self.emit)(event),
        }
        Ok(())
    }
}
