//! The forward and backward passes of an update.

use std::ops::Range;

use burn::tensor::Tensor;
use dcsft_tensor::ops::{joined, sent_back};
use dcsft_tensor::params::ParamSet;
use rayon::prelude::*;

use crate::model::{Below, Example, Forward, Output, VisionLanguageModel};
use crate::train::error::TrainError;
use crate::train::gradients::{Gather, GradientSum};
use crate::train::objective::{At, Loss, Objective, Seen};
use crate::train::team::Replica;

/// What learns: the model, and the objective's own weights if there are any.
#[derive(Clone, Copy)]
pub(super) struct Learner<'m> {
    pub(super) model: &'m dyn VisionLanguageModel,
    pub(super) own: Option<&'m ParamSet>,
}

impl<'m> From<&'m Replica> for Learner<'m> {
    fn from(replica: &'m Replica) -> Self {
        Self {
            model: replica.model.as_ref(),
            own: replica.own.as_ref(),
        }
    }
}

impl<'m> Learner<'m> {
    pub(super) fn sets(&self) -> Vec<&'m ParamSet> {
        [self.model.params()].into_iter().chain(self.own).collect()
    }
}

/// Rows whose loss was taken together, and what is to be read of it.
pub(super) type Part<'r> = (&'r [usize], Tensor<1>);

/// The passes of one update.
pub(super) struct Passes<'p, O: Objective> {
    pub(super) objective: &'p O,
    pub(super) round: &'p O::Round,
    pub(super) at: At,
    pub(super) checkpointing: bool,
    /// Logits that are in memory at once, unless a single answer has more.
    pub(super) logits_at_once: usize,
}

impl<O: Objective> Passes<'_, O> {
    /// Adds the gradients of one micro-batch to `sum`, and gives what is to be read of its parts. Copies of the model work on
    /// parts of it side by side; where it is cut depends on its size alone, and the parts are added up in order.
    pub(super) fn micro_batch<'r>(
        &self,
        learner: Learner<'_>,
        rows: &'r [usize],
        sum: &mut dyn Gather,
    ) -> Result<Vec<Part<'r>>, TrainError> {
        let pieces: Vec<&[usize]> = match self.objective.apart() {
            Some(apart) => rows.chunks(apart.max(1)).collect(),
            None => vec![rows],
        };
        let twin = |_: usize| {
            let own = learner.own.map(|own| {
                let mut own = own.clone();
                own.detach();
                own
            });
            Some((learner.model.twin()?, own))
        };
        let twins: Option<Vec<_>> = match pieces.len() {
            1 => None,
            pieces => (0..pieces).map(twin).collect(),
        };
        let Some(twins) = twins else {
            return self.add(learner, rows, sum);
        };
        let work = pieces.into_par_iter().zip(&twins);
        let parts: Vec<_> = work
            .map(|(rows, (model, own))| {
                let learner = Learner {
                    model: model.as_ref(),
                    own: own.as_ref(),
                };
                let mut sum = GradientSum::zero(&learner.sets());
                let parts = self.add(learner, rows, &mut sum)?;
                Ok((parts, sum))
            })
            .collect::<Result<_, TrainError>>()?;
        let join = |(parts, part): (Vec<Part<'r>>, GradientSum)| {
            sum.join(part);
            parts
        };
        Ok(parts.into_iter().flat_map(join).collect())
    }

    /// Adds the gradients of some rows to `sum`.
    fn add<'r>(
        &self,
        learner: Learner<'_>,
        rows: &'r [usize],
        sum: &mut dyn Gather,
    ) -> Result<Vec<Part<'r>>, TrainError> {
        let examples = self.objective.examples(self.round, self.at, rows)?;
        let options = Forward {
            dropout: self.objective.dropout(self.at),
            checkpointing: self.checkpointing,
        };
        let vocabulary = learner.model.tokenizer().vocab_size();
        let cuts = cut(&examples, self.logits_at_once / vocabulary.max(1));
        if cuts.len() > 1
            && let Some(below) = learner.model.forward_below(&examples, &options)?
        {
            return Ok(self.add_in_parts(learner, rows, (&examples, cuts), below, sum));
        }
        let Output {
            logits,
            pooled,
            tape,
        } = learner.model.forward(&examples, &options)?;
        let seen = Seen {
            examples: &examples,
            logits,
            pooled,
            own: learner.own,
        };
        let Loss { tensor, record } = self.objective.loss(self.round, self.at, rows, &seen);
        sum.backward(&learner.sets(), tensor, &seen.logits, tape);
        Ok(vec![(rows, record)])
    }

    /// The same with the logits of a few examples at a time, whose loss goes back to the head's input before those of the
    /// next are computed.
    fn add_in_parts<'r>(
        &self,
        learner: Learner<'_>,
        rows: &'r [usize],
        (examples, cuts): (&[Example], Vec<Range<usize>>),
        below: Below<'_>,
        sum: &mut dyn Gather,
    ) -> Vec<Part<'r>> {
        let sets = learner.sets();
        let (mut parts, mut pulls, mut first) = (Vec::new(), Vec::new(), 0);
        for range in cuts {
            let examples = &examples[range.clone()];
            let count = tokens(examples);
            let leaf = below.rows.clone().inner().narrow(0, first, count);
            let leaf = leaf.autodiff().require_grad();
            first += count;
            let seen = Seen {
                examples,
                logits: (below.head)(leaf.clone()),
                pooled: None,
                own: learner.own,
            };
            let rows = &rows[range];
            let Loss { tensor, record } = self.objective.loss(self.round, self.at, rows, &seen);
            let mut gradients = tensor.backward();
            let pull = leaf.grad_remove(&mut gradients);
            pulls.push(pull.unwrap_or_else(|| leaf.inner().zeros_like()));
            sum.add(&sets, gradients);
            parts.push((rows, record));
        }
        let pull = joined(pulls, 0);
        match below.tape {
            Some(tape) => tape.backward(pull, &mut |gradients| sum.add(&sets, gradients)),
            None => sum.add(&sets, sent_back(below.rows, pull).backward()),
        }
        parts
    }
}

/// Cuts examples into as few stretches as hold at most so many tokens of answers each; a longer one is alone.
pub(super) fn cut(examples: &[Example], most: usize) -> Vec<Range<usize>> {
    let (mut cuts, mut start, mut so_far) = (Vec::new(), 0, 0usize);
    for (index, example) in examples.iter().enumerate() {
        let own = example.answer.len();
        if index > start && so_far.saturating_add(own) > most {
            cuts.push(start..index);
            (start, so_far) = (index, 0);
        }
        so_far += own;
    }
    cuts.push(start..examples.len());
    cuts
}

/// Tokens of all answers.
pub(super) fn tokens(examples: &[Example]) -> usize {
    let answers = examples.iter().map(|example| example.answer.len());
    answers.sum::<usize>()
}
