//! Plain lines: for logs, pipes and batch systems.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dcsft_engine::journal::RunEvent;
use dcsft_engine::run::Reporter;
use dcsft_engine::text;

use super::words::{Count, finished, numbers, remark};
use crate::terminal::Terminal;

/// A stage that goes on says so this often.
const EVERY: Duration = Duration::from_secs(30);

/// Plain lines on stderr.
pub(crate) struct Lines {
    terminal: Terminal,
    count: Count,
    last: BTreeMap<String, Instant>,
}

impl Lines {
    /// Lines on `terminal`.
    pub(crate) fn new(terminal: Terminal) -> Self {
        Self {
            terminal,
            count: Count::default(),
            last: BTreeMap::new(),
        }
    }
}

impl Reporter for Lines {
    fn event(&mut self, event: &RunEvent) {
        if let Some(text) = remark(event, self.terminal.verbose) {
            self.terminal.say(&text);
        }
        match event {
            RunEvent::Started { stages, .. } => {
                self.count = Count {
                    done: 0,
                    stages: *stages,
                }
            }
            RunEvent::StageStarted { stage, .. } => {
                self.last.insert(stage.clone(), Instant::now());
                self.terminal.say(&format!(
                    "{} {} started",
                    self.count.text(),
                    text::line(stage)
                ));
            }
            RunEvent::Progress { stage, progress } => {
                let now = Instant::now();
                let due = self
                    .last
                    .get(stage)
                    .is_none_or(|last| now.duration_since(*last) >= EVERY);
                if due {
                    self.last.insert(stage.clone(), now);
                    let (done, total, unit) = (progress.done, progress.total, &progress.unit);
                    self.terminal.say(&format!(
                        "{} {unit} {done}/{total}  {}",
                        text::line(stage),
                        numbers(progress)
                    ));
                }
            }
            RunEvent::StageCached { stage, .. } => {
                self.count.done += 1;
                if self.terminal.verbose {
                    self.terminal.say(&format!(
                        "{} {} cached",
                        self.count.text(),
                        text::line(stage)
                    ));
                }
            }
            RunEvent::StageFinished { stage, result } => {
                self.count.done += 1;
                self.last.remove(stage);
                self.terminal
                    .say(&finished(self.count, stage, result.seconds));
            }
            _ => {}
        }
    }
}
