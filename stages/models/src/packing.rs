//! Sequences packed into a batch.
//!
//! Neighbours with the same prompt, such as the answers of a GRPO group, share the rows of image and prompt: those are
//! computed once, and each answer's rows attend to them.

use std::ops::Range;
use std::sync::Arc;

use dcsft_tensor::ops::{Span, Spans};

use crate::batch::{Ask, Batch, Sequence};
use crate::family::Family;
use crate::processor::Patches;

impl<'a> Batch<'a> {
    /// Packs sequences; `ask` says which rows predict.
    pub(crate) fn new(family: &'a dyn Family, sequences: &[Sequence], ask: Ask) -> Self {
        let mut packer = Packer::new(family, ask);
        for sequence in sequences {
            packer.add(sequence);
        }
        packer.finish(sequences)
    }
}

/// A row's input.
enum Source {
    /// The token of an image, in the images' own order.
    Image(usize),
    Text(usize),
}

struct Packer<'a> {
    family: &'a dyn Family,
    ask: Ask,
    sources: Vec<Source>,
    image_tokens: usize,
    tokens: Vec<u32>,
    positions: Vec<[u32; 3]>,
    span_ids: Vec<Arc<str>>,
    all: Vec<Span>,
    asked: Vec<Span>,
    asked_rows: usize,
    predictions: Vec<u32>,
    targets: Vec<u32>,
    prompts: Vec<Range<usize>>,
}

impl<'a> Packer<'a> {
    fn new(family: &'a dyn Family, ask: Ask) -> Self {
        Self {
            family,
            ask,
            sources: Vec::new(),
            image_tokens: 0,
            tokens: Vec::new(),
            positions: Vec::new(),
            span_ids: Vec::new(),
            all: Vec::new(),
            asked: Vec::new(),
            asked_rows: 0,
            predictions: Vec::new(),
            targets: Vec::new(),
            prompts: Vec::new(),
        }
    }

    fn add(&mut self, sequence: &Sequence) {
        let start = self.sources.len();
        let encoded = &*sequence.encoded;
        let [t, h, w] = &encoded.positions;
        let image_token = self.family.facts().image_token;
        for (index, &token) in encoded.ids.iter().enumerate() {
            if token == image_token {
                self.sources.push(Source::Image(self.image_tokens));
                self.image_tokens += 1;
            } else {
                self.sources.push(Source::Text(self.tokens.len()));
                self.tokens.push(token);
            }
            self.positions.push([t[index], h[index], w[index]]);
        }
        self.prompts.push(start..self.sources.len());
        match (&sequence.answers[..], self.ask) {
            ([], Ask::Labels) => self.conversation(sequence, start),
            ([answer], Ask::Labels) => self.answer_alone(sequence, start, answer),
            (answers, Ask::Labels) => self.answers_after(sequence, start, answers),
            (_, Ask::Everything) => self.whole(sequence, start, start),
            (_, Ask::Next) => self.whole(sequence, start, self.sources.len() - 1),
        }
    }

    /// Every row from `first` on is asked for.
    fn whole(&mut self, sequence: &Sequence, start: usize, first: usize) {
        let end = self.sources.len();
        self.predict(first..end);
        self.span(&sequence.id, 0..0, start..end, first..end);
    }

    /// The labels of a conversation; a label's prediction is made one row before it.
    fn conversation(&mut self, sequence: &Sequence, start: usize) {
        let end = self.sources.len();
        let labels = || {
            let labels = sequence.encoded.labels.iter().enumerate().skip(1);
            labels.filter_map(|(index, label)| label.map(|label| (index - 1, label)))
        };
        let first = labels().next().map_or(end, |(index, _)| start + index);
        for (index, label) in labels() {
            self.predictions
                .push((self.asked_rows + start + index - first) as u32);
            self.targets.push(label);
        }
        self.span(&sequence.id, 0..0, start..end, first..end);
    }

    /// One answer, in one span with its prompt. Labels that the prompt has come before it.
    fn answer_alone(&mut self, sequence: &Sequence, start: usize, answer: &[u32]) {
        self.feed(answer, sequence.encoded.next_position);
        let end = self.sources.len();
        let answers = end - answer.len();
        let labels = sequence.encoded.labels.iter().enumerate().skip(1);
        let labels: Vec<(usize, u32)> = labels
            .filter_map(|(index, label)| Some((start + index - 1, (*label)?)))
            .collect();
        let first = labels.first().map_or(answers, |(row, _)| *row);
        let asked = self.asked_rows;
        for (row, label) in labels {
            self.predictions.push((asked + row - first) as u32);
            self.targets.push(label);
        }
        let rows = answers..end;
        let predictions = rows.map(|row| (asked + row - first) as u32);
        self.predictions.extend(predictions);
        self.targets.extend(answer);
        self.span(&sequence.id, 0..0, start..end, first..end);
    }

    /// Several answers, each in a span of its own after the prompt's. The prompt's last row predicts the first
    /// token of all of them.
    fn answers_after(&mut self, sequence: &Sequence, start: usize, answers: &[Arc<[u32]>]) {
        let prompt = start..self.sources.len();
        let first = self.asked_rows as u32;
        self.span(
            &sequence.id,
            0..0,
            prompt.clone(),
            prompt.end - 1..prompt.end,
        );
        for answer in answers {
            let start = self.sources.len();
            self.feed(answer, sequence.encoded.next_position);
            let own = start..self.sources.len();
            self.predictions.push(first);
            self.predict(own.clone());
            self.targets.extend(&**answer);
            if !own.is_empty() {
                self.span(&sequence.id, prompt.clone(), own.clone(), own);
            }
        }
    }

    /// Feeds in all of an answer but its last token.
    fn feed(&mut self, answer: &[u32], position: u32) {
        for (&token, position) in answer[..answer.len() - 1].iter().zip(position..) {
            self.sources.push(Source::Text(self.tokens.len()));
            self.tokens.push(token);
            self.positions.push([position; 3]);
        }
    }

    /// The rows are the next that are asked for, and each predicts.
    fn predict(&mut self, rows: Range<usize>) {
        let first = self.asked_rows as u32;
        self.predictions.extend(first..first + rows.len() as u32);
    }

    fn span(
        &mut self,
        id: &Arc<str>,
        prefix: Range<usize>,
        own: Range<usize>,
        asked: Range<usize>,
    ) {
        self.asked_rows += asked.len();
        self.span_ids.push(id.clone());
        let span = |queries| Span {
            prefix: prefix.clone(),
            own: own.clone(),
            queries,
            causal: true,
        };
        self.all.push(span(own.clone()));
        self.asked.push(span(asked));
    }

    fn finish(self, sequences: &[Sequence]) -> Batch<'a> {
        let images = sequences.iter().flat_map(|sequence| {
            let images = sequence.encoded.images.iter();
            images.map(|image| (sequence.id.clone(), image))
        });
        let (ids, images): (Vec<Arc<str>>, Vec<&Patches>) = images.unzip();
        let tower = (!images.is_empty()).then(|| self.family.tower(ids, &images));
        let source = |source: &Source| match *source {
            Source::Image(token) => tower.as_ref().map_or(0, |tower| tower.row_of(token)) as u32,
            Source::Text(token) => (self.image_tokens + token) as u32,
        };
        Batch {
            span_ids: self.span_ids,
            sources: self.sources.iter().map(source).collect(),
            tower,
            image_tokens: self.image_tokens,
            tokens: self.tokens,
            rotary: self.family.decoder().config.rotary(&self.positions),
            all_rows: Spans::new(self.all),
            asked_rows: Spans::new(self.asked),
            predictions: self.predictions,
            targets: self.targets,
            prompts: self.prompts,
        }
    }
}
