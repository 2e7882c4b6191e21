//! The next tokens of all answers that are being written: drawn by the processor, or by the device that has the logits.

use burn::tensor::Tensor;
use dcsft_tensor::host;
use dcsft_tensor::ops::draw::{Draw, Drawer, Drawing};
use rayon::prelude::*;

use super::asked::{Asked, Row, Vocabulary};
use super::sample::Sampler;
use crate::error::VlmError;
use crate::model::{Completion, Sampling};

/// Rows times vocabulary from which on the rows are worth sharing out among threads.
const SHARED_OUT: usize = 1 << 17;

/// The rows that draw, and what there is of them.
pub(super) struct Turn<'a> {
    pub(super) rows: &'a [Row],
    pub(super) prompts: &'a [Asked],
    pub(super) answers: &'a [Completion],
    /// So many rows in a row draw from the same logits.
    pub(super) share: usize,
}

/// Draws tokens.
pub(super) struct Chooser<'a> {
    vocabulary: &'a Vocabulary<'a>,
    sampling: &'a Sampling,
    /// None where the processor draws.
    drawer: Option<Drawer>,
}

impl<'a> Chooser<'a> {
    /// For logits of the device that `logits` are on.
    pub(super) fn new(
        logits: &Tensor<2>,
        vocabulary: &'a Vocabulary<'a>,
        sampling: &'a Sampling,
    ) -> Self {
        let greedy = sampling.temperature == 0.0;
        let how = Drawing {
            inverse_temperature: (!greedy).then(|| (1.0 / sampling.temperature) as f32),
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            penalty: sampling.repetition_penalty as f32,
        };
        Self {
            drawer: Drawer::new(how, vocabulary.size, &logits.device()),
            vocabulary,
            sampling,
        }
    }

    /// Takes up prompts with `each` answers to each, numbered from `first` on; `going_on` are those before them that are not
    /// at their end.
    pub(super) fn enter(&mut self, going_on: &[usize], first: usize, asked: &[Asked], each: usize) {
        if let Some(drawer) = &mut self.drawer {
            let tokens: Vec<&[u32]> = asked.iter().map(|asked| &*asked.tokens).collect();
            drawer.enter(going_on, first, &tokens, each);
        }
    }

    /// The next token of each row and its log-probability.
    ///
    /// # Errors
    /// [`VlmError::Logits`] for the first row whose logits are no numbers; [`VlmError::Device`].
    pub(super) fn draw(
        &mut self,
        logits: Tensor<2>,
        turn: &Turn<'_>,
    ) -> Result<Vec<(u32, f32)>, VlmError> {
        let Some(drawer) = &mut self.drawer else {
            return self.by_processor(host::values(logits)?, turn);
        };
        let draws = turn.rows.iter().enumerate().map(|(index, row)| Draw {
            row: index / turn.share,
            answer: row.owner.sequence,
            uniform: row.uniform(turn.index(row)),
        });
        let draws: Vec<Draw> = draws.collect();
        let drawn = drawer.draw(&logits, &draws)?;
        let mut tokens = Vec::with_capacity(drawn.len());
        for ((drawn, draw), row) in drawn.into_iter().zip(&draws).zip(turn.rows) {
            let Some(drawn) = drawn else {
                let own = host::values(logits.clone().narrow(0, draw.row, 1))?;
                let value = first_wrong(&own).unwrap_or(f32::NAN);
                return Err(turn.wrong(row, value));
            };
            tokens.push(drawn);
        }
        Ok(tokens)
    }

    /// Each row draws for itself: threads change nothing.
    fn by_processor(
        &self,
        mut logits: Vec<f32>,
        turn: &Turn<'_>,
    ) -> Result<Vec<(u32, f32)>, VlmError> {
        let size = self.vocabulary.size;
        if turn.share > 1 {
            let each = logits.chunks_exact(size);
            logits = each.flat_map(|row| row.repeat(turn.share)).collect();
        }
        let sampler = || Sampler::new(self.sampling);
        if logits.len() < SHARED_OUT {
            let mut sampler = sampler();
            let each = turn.rows.iter().zip(logits.chunks_exact_mut(size));
            return each
                .map(|(row, logits)| self.draw_one(&mut sampler, row, turn, logits))
                .collect();
        }
        // The first row in order whose logits are no numbers is the one to be named.
        let each = turn.rows.par_iter().zip(logits.par_chunks_exact_mut(size));
        let drawn: Vec<Result<_, _>> = each
            .map_init(sampler, |sampler, (row, logits)| {
                self.draw_one(sampler, row, turn, logits)
            })
            .collect();
        drawn.into_iter().collect()
    }

    fn draw_one(
        &self,
        sampler: &mut Sampler<'_>,
        row: &Row,
        turn: &Turn<'_>,
        logits: &mut [f32],
    ) -> Result<(u32, f32), VlmError> {
        if let Some(value) = first_wrong(logits) {
            return Err(turn.wrong(row, value));
        }
        let before = [
            &*turn.prompts[row.owner.prefix].tokens,
            &turn.answers[row.owner.sequence].tokens,
        ];
        Ok(sampler.draw(logits, before, || row.uniform(turn.index(row))))
    }
}

impl Turn<'_> {
    /// Which token of its answer a row draws, from 0.
    fn index(&self, row: &Row) -> usize {
        self.answers[row.owner.sequence].tokens.len()
    }

    fn wrong(&self, row: &Row, value: f32) -> VlmError {
        VlmError::Logits {
            sample: self.prompts[row.owner.prefix].id.to_string(),
            token: self.index(row) + 1,
            value,
        }
    }
}

/// The first logit that is no number, or infinite.
fn first_wrong(logits: &[f32]) -> Option<f32> {
    logits.iter().copied().find(|logit| !logit.is_finite())
}
