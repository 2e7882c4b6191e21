//! Answers that earlier runs have drawn to the same questions, from the same model, with the same settings.
//!
//! A draw is keyed by seed, sample, generation and position, and its numbers do not depend on the other answers of its
//! batch: whoever draws it gets the same. So more answers per sample, more samples, or another reward cost only the
//! answers that nobody has drawn yet.

use std::collections::HashMap;
use std::path::Path;

use dcsft_engine::stage::{Cost, StageContext};
use dcsft_vlm::model::Completion;

use crate::data::{DataError, Dataset, Generation, Rollouts};

/// Answers by sample, each list from generation 0 on.
#[derive(Default)]
pub(crate) struct Lent {
    samples: HashMap<String, Answers>,
}

struct Answers {
    completions: Vec<Completion>,
    /// What one of them took its lender to draw.
    cost: Cost,
}

impl Lent {
    /// What the stage's relatives have in their output `rollouts`. One that cannot be read lends nothing.
    pub(crate) fn from_relatives(ctx: &mut StageContext) -> Self {
        let mut lent = Self::default();
        for relative in ctx.relatives().to_vec() {
            let Some(dir) = relative.outputs.get("rollouts") else {
                continue;
            };
            if let Err(error) = lent.add(dir, relative.cost) {
                ctx.log(format!("{} lends no answers: {error}", relative.label));
            }
        }
        lent
    }

    fn add(&mut self, dir: &Path, cost: Cost) -> Result<(), DataError> {
        let rollouts = Rollouts::open(dir)?;
        let n = rollouts.info.n;
        let cost = cost / (n * rollouts.records.len()).max(1) as f64;
        for record in rollouts.records {
            let known = self.samples.get(&record.id);
            if known.is_none_or(|known| known.completions.len() < n) {
                let completions = record.generations.into_iter().map(completion).collect();
                let answers = Answers { completions, cost };
                self.samples.insert(record.id, answers);
            }
        }
        Ok(())
    }

    /// At most the first `most` answers to the sample with content ID `id`.
    pub(crate) fn to(&self, id: &str, most: usize) -> &[Completion] {
        self.samples.get(id).map_or(&[], |answers| {
            &answers.completions[..most.min(answers.completions.len())]
        })
    }

    /// How many of `most` answers to each sample of a set there are.
    pub(crate) fn count(&self, data: &Dataset, most: usize) -> usize {
        let samples = data.samples().iter();
        samples.map(|sample| self.to(&sample.id, most).len()).sum()
    }

    /// What those of a sample would take to draw.
    pub(crate) fn cost(&self, id: &str, most: usize) -> Cost {
        let each = self.samples.get(id).map_or(Cost::default(), |a| a.cost);
        each * self.to(id, most).len() as f64
    }
}

fn completion(generation: Generation) -> Completion {
    let Generation {
        tokens,
        logprobs,
        finished,
        ..
    } = generation;
    Completion {
        tokens,
        logprobs,
        finished,
    }
}
