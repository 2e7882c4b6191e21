//! Bars on a terminal: one for the run, one for each running stage.

use std::collections::BTreeMap;
use std::time::Duration;

use dcsft_engine::journal::RunEvent;
use dcsft_engine::run::Reporter;
use dcsft_engine::stage::Progress;
use dcsft_engine::text;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words::{Count, finished, numbers, remark};
use crate::terminal::Terminal;

const TICK: Duration = Duration::from_millis(120);
/// Redraws a second at most: a training step may take a millisecond.
const RATE: u8 = 10;

/// Bars on stderr.
pub(crate) struct Bars {
    terminal: Terminal,
    multi: MultiProgress,
    overall: ProgressBar,
    stages: BTreeMap<String, ProgressBar>,
    /// Shards that are done, of the stages that are cut.
    shards: BTreeMap<String, u32>,
    count: Count,
}

impl Bars {
    /// Bars on `terminal`.
    pub(crate) fn new(terminal: Terminal) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(RATE));
        let overall = ProgressBar::hidden();
        Self {
            terminal,
            multi,
            overall,
            stages: BTreeMap::new(),
            shards: BTreeMap::new(),
            count: Count::default(),
        }
    }

    fn say(&self, text: &str) {
        // Above the bars, where it stays.
        if self.multi.println(text::block(text)).is_err() {
            self.terminal.say(text);
        }
    }

    fn start_overall(&mut self) {
        if !self.overall.is_hidden() || self.count.done == self.count.stages {
            return;
        }
        let bar = self.multi.add(ProgressBar::new(self.count.stages as u64));
        bar.set_style(style(
            "{bar:24.cyan/dim} {pos}/{len} stages  {elapsed}{msg:.dim}",
        ));
        bar.set_position(self.count.done as u64);
        bar.enable_steady_tick(TICK);
        self.overall = bar;
    }

    fn advance(&mut self) {
        self.count.done += 1;
        self.overall.set_position(self.count.done as u64);
    }

    fn start(&mut self, stage: &str) {
        self.start_overall();
        let bar = self
            .multi
            .insert_before(&self.overall, ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {prefix}  {elapsed:.dim}"));
        bar.set_prefix(text::line(stage).into_owned());
        bar.enable_steady_tick(TICK);
        self.stages.insert(stage.to_owned(), bar);
    }

    fn progress(&mut self, stage: &str, progress: &Progress) {
        let Some(bar) = self.stages.get(stage) else {
            return;
        };
        if bar.length() != Some(progress.total) {
            // What comes last is cut where the terminal is narrow: a line that wraps cannot be drawn over.
            bar.set_style(style(&format!(
                "{{spinner:.cyan}} {{prefix}}  {{bar:18.cyan/dim}} {{pos}}/{{len}} {}  {{eta}} left  {{wide_msg}}",
                text::line(&progress.unit).replace(['{', '}'], "")
            )));
            bar.set_length(progress.total);
            // A resumed stage begins where it stopped; the time left must not count that as speed.
            bar.set_position(progress.done);
            bar.reset_eta();
        }
        bar.set_message(text::line(&numbers(progress)).into_owned());
        bar.set_position(progress.done);
    }

    /// A shard of a stage is done: `rollout 2/4` says how many are.
    fn count_shard(&mut self, stage: &str, of: u32) {
        let done = self.shards.entry(stage.to_owned()).or_default();
        *done += 1;
        if let Some(bar) = self.stages.get(stage) {
            bar.set_prefix(format!("{} {done}/{of}", text::line(stage)));
        }
    }

    fn stop(&mut self, stage: &str) {
        self.shards.remove(stage);
        if let Some(bar) = self.stages.remove(stage) {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
    }
}

impl Reporter for Bars {
    fn event(&mut self, event: &RunEvent) {
        if let Some(text) = remark(event, self.terminal.verbose) {
            self.say(&text);
        }
        match event {
            RunEvent::Started { stages, .. } => {
                self.count = Count {
                    done: 0,
                    stages: *stages,
                }
            }
            RunEvent::StageStarted { stage, .. } => self.start(stage),
            RunEvent::Progress { stage, progress } => self.progress(stage, progress),
            RunEvent::ShardFinished { stage, shard, .. } => self.count_shard(stage, shard.of),
            RunEvent::StageCached { stage, .. } => {
                self.advance();
                self.stop(stage);
            }
            RunEvent::StageFinished { stage, result } => {
                self.advance();
                self.stop(stage);
                self.say(&finished(self.count, stage, result.seconds));
            }
            RunEvent::StageFailed { stage, .. }
            | RunEvent::StageRetries { stage, .. }
            | RunEvent::StageInterrupted { stage } => self.stop(stage),
            RunEvent::Finished { .. } => self.overall.finish_and_clear(),
            _ => {}
        }
    }
}

/// A bar's style; the templates are constants of this file.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
