//! The words for what happens in a run, whatever the form.

use std::collections::BTreeMap;

use dcsft_engine::journal::RunEvent;
use dcsft_engine::stage::Progress;
use dcsft_engine::text;
use dcsft_engine::units::duration;

/// How many stages are done, of how many.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count {
    pub(super) done: usize,
    pub(super) stages: usize,
}

impl Count {
    /// `[ 7/31]`.
    pub(super) fn text(self) -> String {
        let width = self.stages.to_string().len();
        format!("[{:>width$}/{}]", self.done, self.stages)
    }
}

/// The numbers of a progress event beside the bar: `loss 0.421  reward 0.8  820 samples/s`.
pub(super) fn numbers(progress: &Progress) -> String {
    let fields: BTreeMap<&str, f64> = progress
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let mut parts: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name} {}", short(*value)))
        .collect();
    if let Some(rate) = progress.rate {
        parts.push(format!("{} samples/s", short(rate)));
    }
    parts.join("  ")
}

/// Three significant digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// The line for a finished stage.
pub(super) fn finished(count: Count, stage: &str, seconds: f64) -> String {
    let stage = text::line(stage);
    format!("{} {stage} done in {}", count.text(), duration(seconds))
}

/// What is said of an event whatever the form; none where it is said elsewhere or not at all.
pub(super) fn remark(event: &RunEvent, verbose: bool) -> Option<String> {
    let stage = text::line(event.stage().unwrap_or_default());
    match event {
        RunEvent::StageWaits {
            holder, seconds, ..
        } => Some(waits(&stage, holder.as_deref(), *seconds)),
        RunEvent::StageRetries {
            attempts,
            message,
            delay,
            ..
        } => Some(format!(
            "{stage} failed ({message}); try {} follows in {}",
            attempts + 1,
            duration(*delay)
        )),
        RunEvent::ShardRetries {
            shard,
            attempts,
            message,
            delay,
            ..
        } => Some(format!(
            "{stage} {shard} failed ({message}); try {} follows in {}",
            attempts + 1,
            duration(*delay)
        )),
        RunEvent::ShardStarted { shard, .. } if verbose => Some(format!("{stage} {shard} started")),
        RunEvent::ShardFinished { shard, seconds, .. } if verbose => Some(match seconds {
            0.0 => format!("{stage} {shard} is done already"),
            seconds => format!("{stage} {shard} done in {}", duration(*seconds)),
        }),
        RunEvent::StageReopened { message, .. } => Some(format!("{stage} runs again: {message}")),
        RunEvent::StageFailed { failure, .. } => {
            Some(format!("{stage} failed: {}", failure.message))
        }
        RunEvent::StageSkipped { because, .. } if verbose => {
            let because = text::line(because);
            Some(format!("{stage} skipped, since {because} failed"))
        }
        RunEvent::StageInterrupted { .. } => {
            Some(format!("{stage} stopped; the next run resumes it"))
        }
        RunEvent::Interrupted => Some("interrupting: running stages save their state".to_owned()),
        RunEvent::Warning { message, .. } => Some(format!("warning: {stage}: {message}")),
        RunEvent::Log { message, .. } if verbose => Some(format!("{stage}: {message}")),
        _ => None,
    }
}

/// For whom a stage waits, and for how long it has.
pub(super) fn waits(stage: &str, holder: Option<&str>, seconds: f64) -> String {
    let holder = holder.unwrap_or("another process that computes the same");
    let so_far = if seconds >= 1.0 {
        format!(", for {} so far", duration(seconds))
    } else {
        String::new()
    };
    format!("{stage} waits for {holder}{so_far}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown: Vec<String> = [0.0, 823.4, 12.34, 1.234, 0.4211, 0.00002]
            .into_iter()
            .map(short)
            .collect();
        assert_eq!(shown, ["0", "823", "12.3", "1.23", "0.421", "2.0e-5"]);
    }
}
