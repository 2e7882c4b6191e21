//! A batch of examples, packed: the rows of all samples one after the other, without padding.
//!
//! Neighbours that ask the same question of the same image, such as the answers of a GRPO group, share the rows
//! of image and prompt: those are computed once, and each answer's rows attend to them.

use std::ops::Range;
use std::sync::Arc;

use dcsft_tensor::ops::{Span, Spans};
use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::Example;

use super::MicroVlm;

/// What the forward pass needs to know of a batch.
pub(super) struct Batch {
    /// Content ID of each image's sample.
    pub(super) image_ids: Vec<Arc<str>>,
    /// Content ID of each of the decoder's spans.
    pub(super) span_ids: Vec<Arc<str>>,
    /// Bytes of the images' patches, image after image.
    pub(super) patches: Vec<u8>,
    /// The image of each example.
    pub(super) image_of: Vec<u32>,
    /// Text tokens that are fed in.
    pub(super) tokens: Vec<u32>,
    /// For each row of the decoder the image row it takes, or, counted on from the last image row, the text
    /// token.
    pub(super) sources: Vec<u32>,
    /// Position of each row of the decoder in its sequence.
    pub(super) positions: Vec<u32>,
    /// The decoder's spans; all rows are asked for.
    pub(super) all_rows: Spans,
    /// The same, but only the rows that predict a token of an answer are asked for.
    pub(super) answer_rows: Spans,
    /// Where each answer token's prediction is among the rows asked for, if not simply in order.
    pub(super) predictions: Option<Vec<u32>>,
}

impl Batch {
    /// Packs `examples`; `share` lets neighbours share rows.
    pub(super) fn new(
        model: &MicroVlm,
        examples: &[Example],
        share: bool,
    ) -> Result<Self, VlmError> {
        let mut packer = Packer::new(model, examples.len());
        let same = |a: &Example, b: &Example| share && a.prompt.is_same(&b.prompt);
        for group in examples.chunk_by(same) {
            packer.add(group)?;
        }
        Ok(packer.finish())
    }
}

struct Packer<'a> {
    model: &'a MicroVlm,
    batch: Batch,
    /// The source of each row: an image's row or a text token.
    sources: Vec<Source>,
    all: Vec<Span>,
    asked: Vec<Span>,
    /// Rows asked for so far.
    asked_rows: usize,
    predictions: Vec<u32>,
    shared: bool,
}

enum Source {
    Image(usize),
    Text(usize),
}

impl<'a> Packer<'a> {
    fn new(model: &'a MicroVlm, examples: usize) -> Self {
        let batch = Batch {
            image_ids: Vec::with_capacity(examples),
            span_ids: Vec::with_capacity(examples),
            patches: Vec::new(),
            image_of: Vec::with_capacity(examples),
            tokens: Vec::new(),
            sources: Vec::new(),
            positions: Vec::new(),
            all_rows: Spans::full(0, 0),
            answer_rows: Spans::full(0, 0),
            predictions: None,
        };
        let (all, asked) = (Vec::with_capacity(examples), Vec::with_capacity(examples));
        Self {
            model,
            batch,
            sources: Vec::new(),
            all,
            asked,
            asked_rows: 0,
            predictions: Vec::new(),
            shared: false,
        }
    }

    /// Adds examples of one prompt.
    fn add(&mut self, group: &[Example]) -> Result<(), VlmError> {
        let prompt = &group[0].prompt;
        let per_image = self.model.config().patches();
        let mut tokens = Vec::new();
        for example in group {
            tokens = self.model.prompt_tokens(prompt, &example.answer)?;
            self.batch.image_of.push(self.batch.image_ids.len() as u32);
        }
        let image = self.model.image(prompt)?.load()?;
        let index = self.batch.image_ids.len();
        self.batch.image_ids.push(prompt.id.clone());
        self.batch
            .patches
            .extend(self.model.patches(image.as_ref())?);
        let start = self.sources.len();
        self.sources
            .extend((index * per_image..(index + 1) * per_image).map(Source::Image));
        self.feed(&tokens);
        self.place(start, 0);
        if let [example] = group {
            self.answer_alone(start, example);
        } else {
            self.answers_after(start..self.sources.len(), group);
        }
        Ok(())
    }

    /// One answer, in one span with its prompt.
    fn answer_alone(&mut self, start: usize, example: &Example) {
        let first = self.sources.len();
        self.feed(&example.answer[..example.answer.len() - 1]);
        self.place(first, first - start);
        let end = self.sources.len();
        let predicting = end - example.answer.len()..end;
        self.predictions.extend(
            (self.asked_rows..)
                .take(predicting.len())
                .map(|row| row as u32),
        );
        self.span(&example.prompt.id, 0..0, start..end, predicting);
    }

    /// Several answers, each in a span of its own after the prompt's. The prompt's last row predicts the first
    /// token of all of them.
    fn answers_after(&mut self, prompt: Range<usize>, group: &[Example]) {
        self.shared = true;
        let id = &group[0].prompt.id;
        let first_prediction = self.asked_rows as u32;
        self.span(id, 0..0, prompt.clone(), prompt.end - 1..prompt.end);
        for example in group {
            let start = self.sources.len();
            self.feed(&example.answer[..example.answer.len() - 1]);
            self.place(start, prompt.len());
            let own = start..self.sources.len();
            self.predictions.push(first_prediction);
            self.predictions
                .extend((self.asked_rows..).take(own.len()).map(|row| row as u32));
            if !own.is_empty() {
                self.span(id, prompt.clone(), own.clone(), own);
            }
        }
    }

    fn feed(&mut self, tokens: &[u32]) {
        for &token in tokens {
            self.sources.push(Source::Text(self.batch.tokens.len()));
            self.batch.tokens.push(token);
        }
    }

    /// Numbers the rows from `start` on, beginning with `position`.
    fn place(&mut self, start: usize, position: usize) {
        let count = self.sources.len() - start;
        self.batch
            .positions
            .extend((position..position + count).map(|position| position as u32));
    }

    fn span(
        &mut self,
        id: &Arc<str>,
        prefix: Range<usize>,
        own: Range<usize>,
        predicting: Range<usize>,
    ) {
        self.batch.span_ids.push(id.clone());
        self.asked_rows += predicting.len();
        self.all.push(Span {
            prefix: prefix.clone(),
            own: own.clone(),
            queries: own.clone(),
            causal: true,
        });
        self.asked.push(Span {
            prefix,
            own,
            queries: predicting,
            causal: true,
        });
    }

    fn finish(self) -> Batch {
        let image_rows = self.batch.image_ids.len() * self.model.config().patches();
        let index = |source: &Source| match source {
            Source::Image(row) => *row as u32,
            Source::Text(token) => (image_rows + token) as u32,
        };
        Batch {
            sources: self.sources.iter().map(index).collect(),
            all_rows: Spans::new(self.all),
            answer_rows: Spans::new(self.asked),
            predictions: self.shared.then_some(self.predictions),
            ..self.batch
        }
    }
}
