//! A batch of examples, packed: the rows of all samples one after the other, without padding.

use std::ops::Range;
use std::sync::Arc;

use super::MicroVlm;
use crate::error::VlmError;
use crate::model::Example;
use crate::ops::{Span, Spans};

/// What the forward pass needs to know of a batch.
pub(super) struct Batch {
    /// Samples' content IDs.
    pub(super) ids: Vec<Arc<str>>,
    /// `[samples * patches, patch values]`.
    pub(super) patches: Vec<f32>,
    /// Text tokens that are fed in, sample after sample.
    pub(super) tokens: Vec<u32>,
    /// For each row of the decoder the image row it takes, or, counted on from the last image row, the text
    /// token.
    pub(super) sources: Vec<u32>,
    /// Position of each row of the decoder in its sequence.
    pub(super) positions: Vec<u32>,
    /// The decoder's spans; all rows are asked for.
    pub(super) all_rows: Spans,
    /// The same, but only the rows that predict the answer are asked for.
    pub(super) answer_rows: Spans,
}

impl Batch {
    pub(super) fn new(model: &MicroVlm, examples: &[Example]) -> Result<Self, VlmError> {
        let per_image = model.config().patches();
        let image_rows = examples.len() * per_image;
        let mut batch = Self {
            ids: Vec::with_capacity(examples.len()),
            patches: Vec::with_capacity(image_rows * model.config().patch_values()),
            tokens: Vec::new(),
            sources: Vec::new(),
            positions: Vec::new(),
            all_rows: Spans::full(0, 0),
            answer_rows: Spans::full(0, 0),
        };
        let (mut all, mut answers) = (Vec::new(), Vec::new());
        for (index, example) in examples.iter().enumerate() {
            let prompt = model.prompt_tokens(&example.prompt, &example.answer)?;
            batch.ids.push(example.prompt.id.clone());
            batch.patches.extend(model.patches(&example.prompt.image)?);
            let start = batch.sources.len();
            batch.sources.extend((index * per_image..(index + 1) * per_image).map(|row| row as u32));
            let fed = prompt.iter().chain(&example.answer[..example.answer.len() - 1]);
            for &token in fed {
                batch.sources.push((image_rows + batch.tokens.len()) as u32);
                batch.tokens.push(token);
            }
            let end = batch.sources.len();
            batch.positions.extend(0..(end - start) as u32);
            all.push(causal(start..end, start..end));
            answers.push(causal(start..end, end - example.answer.len()..end));
        }
        batch.all_rows = Spans::new(all);
        batch.answer_rows = Spans::new(answers);
        Ok(batch)
    }
}

fn causal(own: Range<usize>, queries: Range<usize>) -> Span {
    Span { prefix: 0..0, own, queries, causal: true }
}
