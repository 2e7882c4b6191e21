//! Where a stage stands, and the order in which those that can start do.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dcsft_cache::{Digest, Record};

use crate::key::KeyPreimage;
use crate::study::NodeId;

/// A key that has to be computed.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) key: Digest,
    pub(super) preimage: Arc<KeyPreimage>,
}

/// Where a stage stands.
pub(super) enum State {
    /// Some input does not exist yet.
    Waiting,
    /// It has to run.
    Ready(Work),
    /// Another stage that is ready or runs has the same key.
    Follows(Work),
    Running(Work),
    Done {
        record: Arc<Record>,
        executed: bool,
    },
    Failed,
    Skipped,
    Interrupted,
}

impl State {
    /// The key in flight.
    pub(super) fn work(&self) -> Option<&Work> {
        match self {
            Self::Ready(work) | Self::Follows(work) | Self::Running(work) => Some(work),
            _ => None,
        }
    }

    pub(super) fn record(&self) -> Option<&Arc<Record>> {
        match self {
            Self::Done { record, .. } => Some(record),
            _ => None,
        }
    }
}

/// A stage of the run.
pub(super) struct Slot {
    pub(super) state: State,
    /// How many of the stages that it reads have no result.
    pub(super) missing: usize,
    /// Asked to run though there is a result; until it has.
    pub(super) forced: bool,
    /// How often its result was found damaged.
    pub(super) reopened: u32,
    /// How often results of the run had been found damaged when this one was the last time.
    pub(super) reopened_at: u32,
    /// Since when it waits for another process.
    pub(super) waits: Option<Wait>,
}

/// A stage that waits for another process.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    since: Instant,
    said: Option<Instant>,
    pause: Duration,
}

impl Wait {
    /// First and longest pause between two looks at a lock.
    const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
    /// How often it is said again.
    const SAY: Duration = Duration::from_secs(60);

    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            said: None,
            pause: Self::PAUSES.0,
        }
    }

    /// When to look again.
    pub(super) fn next(&mut self) -> Instant {
        let pause = self.pause;
        self.pause = (pause * 2).min(Self::PAUSES.1);
        Instant::now() + pause
    }

    /// Whether it is time to say so, and how many seconds it has waited.
    pub(super) fn is_to_be_said(&mut self) -> Option<f64> {
        if self.said.is_some_and(|said| said.elapsed() < Self::SAY) {
            return None;
        }
        self.said = Some(Instant::now());
        Some(self.since.elapsed().as_secs_f64())
    }
}

/// A stage in the queue: the most urgent first, then in the order of the study.
struct Turn {
    urgency: f64,
    id: NodeId,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.urgency
            .total_cmp(&other.urgency)
            .then(other.id.cmp(&self.id))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

/// The stages that can start. One that was taken back meanwhile may still be in it: whoever takes a stage out looks.
#[derive(Default)]
pub(super) struct Queue {
    /// Those that need no accelerator, and those that do.
    turns: [BinaryHeap<Turn>; 2],
    /// Those whose key another process has, by when to look again.
    later: BinaryHeap<Reverse<(Instant, NodeId)>>,
}

impl Queue {
    pub(super) fn push(&mut self, id: NodeId, urgency: f64, accelerated: bool) {
        self.turns[usize::from(accelerated)].push(Turn { urgency, id });
    }

    pub(super) fn push_later(&mut self, id: NodeId, at: Instant) {
        self.later.push(Reverse((at, id)));
    }

    /// The next stage whose time to look again has come.
    pub(super) fn pop_due(&mut self) -> Option<NodeId> {
        let Reverse((at, _)) = self.later.peek()?;
        if *at > Instant::now() {
            return None;
        }
        self.later.pop().map(|Reverse((_, id))| id)
    }

    /// The most urgent stage; of those that need an accelerator only if one is free.
    pub(super) fn pop(&mut self, accelerator: bool) -> Option<NodeId> {
        let [plain, accelerated] = &mut self.turns;
        let from = match (plain.peek(), accelerated.peek()) {
            (Some(a), Some(b)) if accelerator && b > a => accelerated,
            (None, Some(_)) if accelerator => accelerated,
            _ => plain,
        };
        from.pop().map(|turn| turn.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.iter().all(BinaryHeap::is_empty) && self.later.is_empty()
    }

    /// How many could start now.
    pub(super) fn len(&self) -> usize {
        self.turns.iter().map(BinaryHeap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_urgent_stage_comes_first_and_ties_keep_their_order() {
        let mut queue = Queue::default();
        for (id, urgency, accelerated) in [
            (0, 1.0, false),
            (1, 3.0, true),
            (2, 2.0, false),
            (3, 2.0, true),
            (4, 2.0, false),
        ] {
            queue.push(NodeId(id), urgency, accelerated);
        }
        let order =
            [true, false, true, true, true, true].map(|free| queue.pop(free).map(|NodeId(id)| id));
        assert_eq!(order, [Some(1), Some(2), Some(3), Some(4), Some(0), None]);
    }
}
