//! A batch of sequences, packed: their rows one after the other, without padding.
//!
//! Neighbours with the same prompt, such as the answers of a GRPO group, share the rows of image and prompt: those are
//! computed once, and each answer's rows attend to them.

use std::ops::Range;
use std::sync::Arc;

use dcsft_vlm::ops::{Rotary, Span, Spans};

use super::vision::{VisionPlan, frequencies};
use crate::processor::{Encoded, Patches};
use crate::qwen2_5_vl::config::QwenConfig;

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
pub(crate) struct Batch {
    /// Content ID of each image's sample.
    pub(crate) image_ids: Vec<Arc<str>>,
    /// Content ID of each of the decoder's spans.
    pub(crate) span_ids: Vec<Arc<str>>,
    /// The images.
    pub(crate) vision: Option<VisionPlan>,
    /// Text tokens that are fed in.
    pub(crate) tokens: Vec<u32>,
    /// For each row of the decoder the merged image token it takes, in window order, or, counted on from the last of
    /// these, the text token.
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

impl Batch {
    pub(crate) fn new(config: &QwenConfig, sequences: &[Sequence], ask: Ask) -> Self {
        let mut packer = Packer::new(config, ask);
        for sequence in sequences {
            packer.add(sequence);
        }
        packer.finish(sequences)
    }
}

/// A row's input.
enum Source {
    /// The merged token of an image, in the images' own order.
    Image(usize),
    Text(usize),
}

struct Packer<'a> {
    config: &'a QwenConfig,
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
    fn new(config: &'a QwenConfig, ask: Ask) -> Self {
        Self {
            config,
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
        for (index, &token) in encoded.ids.iter().enumerate() {
            if token == self.config.image_token_id {
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

    /// One answer, in one span with its prompt.
    fn answer_alone(&mut self, sequence: &Sequence, start: usize, answer: &[u32]) {
        self.feed(answer, sequence.encoded.next_position);
        let end = self.sources.len();
        let predicting = end - answer.len()..end;
        self.predict(predicting.clone());
        self.targets.extend(answer);
        self.span(&sequence.id, 0..0, start..end, predicting);
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

    fn finish(self, sequences: &[Sequence]) -> Batch {
        let images: Vec<&Patches> = sequences
            .iter()
            .flat_map(|sequence| &sequence.encoded.images)
            .collect();
        let vision = (!images.is_empty()).then(|| VisionPlan::new(&images, &self.config.vision));
        let source = |source: &Source| match *source {
            Source::Image(token) => vision.as_ref().map_or(0, |plan| plan.place[token]),
            Source::Text(token) => (self.image_tokens + token) as u32,
        };
        Batch {
            image_ids: sequences
                .iter()
                .flat_map(|sequence| sequence.encoded.images.iter().map(|_| sequence.id.clone()))
                .collect(),
            span_ids: self.span_ids,
            sources: self.sources.iter().map(source).collect(),
            vision,
            tokens: self.tokens,
            rotary: mrope(&self.positions, self.config),
            all_rows: Spans::new(self.all),
            asked_rows: Spans::new(self.asked),
            predictions: self.predictions,
            targets: self.targets,
            prompts: self.prompts,
        }
    }
}

/// Multimodal rotary angles (M-RoPE, Wang et al. 2024): the pairs of a head are cut into sections, which turn with
/// time, height and width in turn.
pub fn mrope(positions: &[[u32; 3]], config: &QwenConfig) -> Rotary {
    let frequencies = frequencies(config.text.rope_theta, config.text.head_dim);
    let axes: Vec<usize> = config
        .text
        .mrope_section
        .iter()
        .enumerate()
        .flat_map(|(section, &width)| std::iter::repeat_n(section % 3, width))
        .collect();
    let angle = |position: &[u32; 3]| {
        let pairs = frequencies.iter().zip(&axes);
        pairs
            .map(|(frequency, &axis)| position[axis] as f32 * frequency)
            .collect::<Vec<_>>()
    };
    let angles: Vec<f32> = positions.iter().flat_map(angle).collect();
    Rotary::new(&angles, config.text.head_dim / 2)
}
