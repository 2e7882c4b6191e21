//! The loop that writes answers: prompts are taken up where places are free, and all answers under way get their next token
//! together.

use std::ops::Range;

use burn::tensor::Tensor;
use dcsft_tensor::ops::Continuation;
use dcsft_tensor::rng::StreamKey;

use super::asked::{Asked, Places, Row, Vocabulary};
use super::draw::{Chooser, Turn};
use super::{Decoder, Step, TakenUp};
use crate::error::VlmError;
use crate::model::{Completion, Sampling};

/// Writes answers `generations` to each prompt that a decoder has, token by token; gives those of each prompt.
///
/// # Errors
/// [`VlmError::Device`] where the device has failed, [`VlmError::Logits`] at the first logits that are no numbers, and what
/// the decoder says.
pub fn write(
    decoder: &mut dyn Decoder,
    vocabulary: &Vocabulary<'_>,
    places: Places,
    generations: Range<u32>,
    sampling: &Sampling,
) -> Result<Vec<Vec<Completion>>, VlmError> {
    let each = generations.len();
    let mut writer = Writer {
        vocabulary,
        sampling,
        generations,
        chooser: None,
        prompts: Vec::new(),
        answers: Vec::new(),
        rows: Vec::new(),
    };
    loop {
        let under_way = writer.under_way();
        let free = places.prompts.saturating_sub(under_way.len());
        if under_way.is_empty() || free >= places.refill.max(1) {
            let most = free.max(1);
            if let Some(taken) = decoder.take_up(&under_way, most)? {
                writer.take_up(taken)?;
                continue;
            }
        }
        if writer.rows.is_empty() {
            break;
        }
        let logits = decoder.step(&writer.steps());
        writer.go_on(logits)?;
    }
    let mut answers = writer.answers.into_iter();
    let prompts = writer.prompts.iter();
    Ok(prompts
        .map(|_| answers.by_ref().take(each).collect())
        .collect())
}

/// The answers so far.
struct Writer<'a> {
    vocabulary: &'a Vocabulary<'a>,
    sampling: &'a Sampling,
    generations: Range<u32>,
    /// Once there are logits.
    chooser: Option<Chooser<'a>>,
    /// All that were taken up.
    prompts: Vec<Asked>,
    /// Prompt after prompt.
    answers: Vec<Completion>,
    /// The answers that get another token, prompt after prompt.
    rows: Vec<Row>,
}

impl Writer<'_> {
    /// The prompts with answers that are not at their end.
    fn under_way(&self) -> Vec<usize> {
        let rows = self.rows.chunk_by(|a, b| a.owner.prefix == b.owner.prefix);
        rows.map(|rows| rows[0].owner.prefix).collect()
    }

    /// Draws the first tokens of the answers to prompts.
    fn take_up(&mut self, taken: TakenUp) -> Result<(), VlmError> {
        let TakenUp { asked, logits } = taken;
        let (first, each) = (self.answers.len(), self.generations.len());
        let new = self.rows_of(&asked);
        let empty = Completion {
            tokens: Vec::new(),
            logprobs: Vec::new(),
            finished: false,
        };
        self.answers.resize(first + new.len(), empty);
        let going_on: Vec<usize> = self.rows.iter().map(|row| row.owner.sequence).collect();
        let chooser = self
            .chooser
            .get_or_insert_with(|| Chooser::new(&logits, self.vocabulary, self.sampling));
        chooser.enter(&going_on, first, &asked, each);
        self.prompts.extend(asked);
        // All answers to a prompt draw their first token from the same logits.
        let going_on = self.draw(logits, new, each)?;
        self.rows.extend(going_on);
        Ok(())
    }

    /// The answers to prompts that are taken up next.
    fn rows_of(&self, asked: &[Asked]) -> Vec<Row> {
        let (first, each) = (self.prompts.len(), self.generations.len());
        let numbers = (first..).zip(asked);
        let rows = numbers.flat_map(|(prefix, asked)| {
            let key = StreamKey::new("rollout", self.sampling.seed).text(&asked.id);
            let of_prompt = self.generations.clone().enumerate();
            of_prompt.map(move |(index, generation)| Row {
                owner: Continuation {
                    prefix,
                    sequence: prefix * each + index,
                },
                key: key.clone().number(u64::from(generation)),
            })
        });
        rows.collect()
    }

    /// The last token of each answer, which the model is fed.
    fn steps(&self) -> Vec<Step> {
        let step = |row: &Row| {
            let answer = &self.answers[row.owner.sequence].tokens;
            let before = answer.len() - 1;
            Step {
                owner: row.owner,
                token: answer[before],
                position: self.prompts[row.owner.prefix].position + before,
            }
        };
        self.rows.iter().map(step).collect()
    }

    /// Adds a token to each answer.
    fn go_on(&mut self, logits: Tensor<2>) -> Result<(), VlmError> {
        let rows = std::mem::take(&mut self.rows);
        self.rows = self.draw(logits, rows, 1)?;
        Ok(())
    }

    /// Draws a token for each row, `share` of them in a row from the same logits; gives those that go on.
    fn draw(
        &mut self,
        logits: Tensor<2>,
        rows: Vec<Row>,
        share: usize,
    ) -> Result<Vec<Row>, VlmError> {
        if rows.is_empty() {
            return Ok(rows);
        }
        let turn = Turn {
            rows: &rows,
            prompts: &self.prompts,
            answers: &self.answers,
            share,
        };
        let chooser = self.chooser.as_mut().expect("prompts were taken up");
        let drawn = chooser.draw(logits, &turn)?;
        let mut going_on = Vec::with_capacity(rows.len());
        for (row, (token, logprob)) in rows.into_iter().zip(drawn) {
            let room = self.prompts[row.owner.prefix].room;
            let answer = &mut self.answers[row.owner.sequence];
            answer.tokens.push(token);
            answer.logprobs.push(logprob);
            answer.finished = self.vocabulary.stops.contains(&token);
            let room = answer.tokens.len() < self.sampling.max_new_tokens.min(room);
            if !answer.finished && room {
                going_on.push(row);
            }
        }
        Ok(going_on)
    }
}
