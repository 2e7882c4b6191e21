//! What threads say while they work, as events of the run.

use dcsft_cache::Digest;

use super::Scheduler;
use super::message::Unit;
use crate::journal::RunEvent;
use crate::run::RunError;
use crate::run::outcome::Word;
use crate::stage::{Event, Shard};

impl Scheduler<'_> {
    pub(super) fn pass_on(&mut self, unit: Unit, word: Word) -> Result<(), RunError> {
        if !self.counts(unit) {
            return Ok(());
        }
        let stage = self.title(unit.id);
        let work = self.slots[unit.id.0].state.work();
        let key = work.map(|work| work.key);
        let event = match (word, unit.shard) {
            (Word::Said(Event::Progress(progress)), _) => {
                let progress = self.progress_of(unit, progress);
                Some(RunEvent::Progress { stage, progress })
            }
            (word, None) => of_stage(stage, key, word),
            (word, Some(shard)) => of_shard(stage, key, shard, word),
        };
        event.map_or(Ok(()), |event| self.emit(event))
    }
}

/// What a word of a whole stage means for the run; none for what only the executor is told.
fn of_stage(stage: String, key: Option<Digest>, word: Word) -> Option<RunEvent> {
    let event = match word {
        Word::Started {
            device,
            threads,
            log,
        } => RunEvent::StageStarted {
            stage,
            key: key?,
            device,
            threads,
            log,
        },
        Word::Retries {
            attempts,
            message,
            delay,
        } => RunEvent::StageRetries {
            stage,
            attempts,
            message,
            delay: delay.as_secs_f64(),
        },
        Word::Said(Event::Log { message }) => RunEvent::Log { stage, message },
        Word::Warns(message) | Word::Said(Event::Warning { message }) => {
            RunEvent::Warning { stage, message }
        }
        Word::Said(said) => return waits(stage, key, said),
    };
    Some(event)
}

/// The same of a shard.
fn of_shard(stage: String, key: Option<Digest>, shard: Shard, word: Word) -> Option<RunEvent> {
    let event = match word {
        Word::Started {
            device,
            threads,
            log,
        } => RunEvent::ShardStarted {
            stage,
            shard,
            device,
            threads,
            log,
        },
        Word::Retries {
            attempts,
            message,
            delay,
        } => RunEvent::ShardRetries {
            stage,
            shard,
            attempts,
            message,
            delay: delay.as_secs_f64(),
        },
        // Whatever a shard warns of, the stage itself does too.
        Word::Said(Event::Log { message } | Event::Warning { message }) => RunEvent::Log {
            stage,
            message: format!("{shard}: {message}"),
        },
        Word::Warns(message) => RunEvent::Warning { stage, message },
        Word::Said(said) => return waits(stage, key, said),
    };
    Some(event)
}

fn waits(stage: String, key: Option<Digest>, said: Event) -> Option<RunEvent> {
    match said {
        Event::Waits { holder, seconds } => Some(RunEvent::StageWaits {
            stage,
            key: key?,
            holder: Some(holder),
            seconds,
        }),
        _ => None,
    }
}
