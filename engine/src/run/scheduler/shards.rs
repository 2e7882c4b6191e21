//! A stage that is computed in shards: each is a turn in the queue and an attempt of its own; when all are done, the
//! stage itself has a turn, which takes what they have.

use std::sync::Arc;

use super::Scheduler;
use super::message::Unit;
use super::parts::InShards;
use super::state::State;
use crate::journal::RunEvent;
use crate::run::RunError;
use crate::run::outcome::Step;
use crate::run::prepared::Prepared;
use crate::stage::Progress;
use crate::study::NodeId;

impl Scheduler<'_> {
    /// Into how many shards a stage is cut that starts while `active` stages, itself included, run or could start.
    pub(super) fn shards_of(&self, id: NodeId, active: usize) -> u32 {
        self.admission.shards_for(self.ask_of(id), active)
    }

    /// What a stage whose turn it is has to do next, where it is in shards.
    pub(super) fn next_of_shards(&mut self, id: NodeId) -> Option<Step> {
        let State::InShards(shards) = &mut self.slots[id.0].state else {
            return None;
        };
        let step = shards.next();
        if matches!(step, Step::Join(_))
            && let Some(work) = std::mem::take(&mut self.slots[id.0].state).into_work()
        {
            self.slots[id.0].state = State::Running { work, wait: None };
        }
        Some(step)
    }

    /// Puts the shards of a stage in line.
    pub(super) fn cut(&mut self, id: NodeId, prepared: Arc<Prepared>, of: u32) {
        let state = std::mem::take(&mut self.slots[id.0].state);
        if let Some(work) = state.into_work() {
            let shards = InShards::new(work, prepared, of);
            self.slots[id.0].state = State::InShards(Box::new(shards));
            (0..of).for_each(|_| self.enqueue(id));
        }
    }

    /// A shard is done, in so many seconds if it had to be computed.
    pub(super) fn finish_shard(&mut self, unit: Unit, seconds: f64) -> Result<(), RunError> {
        let (Some(shard), State::InShards(shards)) = (unit.shard, &mut self.slots[unit.id.0].state)
        else {
            return Ok(());
        };
        if shards.finish(shard) {
            self.enqueue(unit.id);
        }
        self.emit(RunEvent::ShardFinished {
            stage: self.title(unit.id),
            shard,
            seconds,
        })
    }

    /// The progress of the stage that a unit belongs to.
    pub(super) fn progress_of(&mut self, unit: Unit, progress: Progress) -> Progress {
        match (unit.shard, &mut self.slots[unit.id.0].state) {
            (Some(shard), State::InShards(shards)) => shards.progress(shard, progress),
            _ => progress,
        }
    }

    /// Whether what a unit says still counts: not what a shard says whose stage has failed, or waits.
    pub(super) fn counts(&self, unit: Unit) -> bool {
        unit.shard.is_none() || matches!(self.slots[unit.id.0].state, State::InShards(_))
    }

    /// Stages of which some shards did not come to their turn are interrupted when the run ends.
    pub(super) fn interrupt_shards(&mut self) -> Result<(), RunError> {
        for id in (0..self.slots.len()).map(NodeId) {
            if matches!(self.slots[id.0].state, State::InShards(_)) {
                self.interrupt(id)?;
            }
        }
        Ok(())
    }
}
