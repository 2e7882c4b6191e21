//! A batch of sequences, [packed](crate::packing): their rows one after the other, without padding.

use std::ops::Range;
use std::sync::Arc;

use dcsft_tensor::ops::{Rotary, Spans};

use crate::processor::Encoded;
use crate::tower::Tower;

/// One sequence, or several answers to one prompt.
#[derive(Clone)]
pub struct Sequence {
    /// The sample's content ID.
    pub id: Arc<str>,
    /// The prompt, or a whole conversation with its labels.
    pub encoded: Arc<Encoded>,
    /// Answers that continue the prompt; none if the conversation carries its own labels.
    pub answers: Vec<Arc<[u32]>>,
}

/// What the forward pass needs to know of a batch.
pub(crate) struct Batch<'a> {
    /// Content ID of each of the decoder's spans.
    pub(crate) span_ids: Vec<Arc<str>>,
    /// The images.
    pub(crate) tower: Option<Box<dyn Tower + 'a>>,
    /// Rows that leave the tower.
    pub(crate) image_tokens: usize,
    /// Text tokens that are fed in.
    pub(crate) tokens: Vec<u32>,
    /// For each row of the decoder the row of the tower that it takes, or, counted on from the last of these, the text
    /// token.
    pub(crate) sources: Vec<u32>,
    /// Angles of the rows.
    pub(crate) rotary: Rotary,
    /// The decoder's spans; all rows are asked for.
    pub(crate) all_rows: Spans,
    /// The same, but only rows from the first that predicts a label on are asked for.
    pub(crate) asked_rows: Spans,
    /// Where each label's prediction is among the rows asked for.
    pub(crate) predictions: Vec<u32>,
    /// The labels.
    pub(crate) targets: Vec<u32>,
    /// Rows of each sequence's prompt, or of the sequence.
    pub(crate) prompts: Vec<Range<usize>>,
}

/// What is predicted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The labels.
    Labels,
    /// What follows every row.
    Everything,
    /// What follows each prompt.
    Next,
}

impl Batch<'_> {
    /// The decoder's spans in its last layer, or before it.
    pub(crate) fn spans(&self, last: bool) -> &Spans {
        match last {
            true => &self.asked_rows,
            false => &self.all_rows,
        }
    }

    /// For each row that a layer gives out the row of the tower it took, or one past the last of these.
    pub(crate) fn image_sources(&self, last: bool) -> Vec<u32> {
        let most = self.image_tokens as u32;
        let rows = self
            .spans(last)
            .iter()
            .flat_map(|span| span.queries.clone());
        rows.map(|row| self.sources[row].min(most)).collect()
    }
}
