//! The order in which the stages that can start do.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::study::NodeId;

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
