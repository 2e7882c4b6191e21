//! From logits to a token: temperature, then top-k, then top-p, as in Hugging Face's chain.

use crate::kernels::exp_in_place;
use crate::model::Sampling;
use crate::rng::StreamKey;

/// Draws tokens under fixed settings; holds the buffers that this takes.
pub(super) struct Sampler<'a> {
    sampling: &'a Sampling,
    order: Vec<u32>,
}

impl<'a> Sampler<'a> {
    pub(super) fn new(sampling: &'a Sampling) -> Self {
        Self {
            sampling,
            order: Vec::new(),
        }
    }

    /// The token of one row, and its log-probability before top-k and top-p. Overwrites the logits.
    ///
    /// `key` names the row's draws; `position` is the index of the token in its answer.
    pub(super) fn draw(
        &mut self,
        logits: &mut [f32],
        key: &StreamKey,
        position: usize,
    ) -> (u32, f32) {
        let greedy = self.sampling.temperature == 0.0;
        let inverse = if greedy {
            1.0
        } else {
            (1.0 / self.sampling.temperature) as f32
        };
        let largest = argmax(logits);
        let chosen = |logit: f32, largest: f32, total: f32| {
            ((logit - largest) * inverse) - libm::log(f64::from(total)) as f32
        };
        let top = logits[largest];
        if greedy {
            let total = exp_in_place(logits, top, 1.0);
            return (largest as u32, chosen(top, top, total));
        }
        let plain = logits.to_vec();
        let total = exp_in_place(logits, top, inverse);
        self.restrict(logits);
        let kept: f64 = logits.iter().map(|&weight| f64::from(weight)).sum();
        let threshold = key.clone().number(position as u64).uniform() * kept;
        let mut sum = 0.0;
        let mut token = largest;
        for (index, &weight) in logits.iter().enumerate() {
            if weight > 0.0 {
                token = index;
                sum += f64::from(weight);
                if sum > threshold {
                    break;
                }
            }
        }
        (token as u32, chosen(plain[token], top, total))
    }

    /// Sets the weights that top-k and top-p leave out to zero.
    fn restrict(&mut self, weights: &mut [f32]) {
        let Sampling { top_k, top_p, .. } = *self.sampling;
        let by_k = top_k > 0 && top_k < weights.len();
        if !by_k && top_p >= 1.0 {
            return;
        }
        self.order.clear();
        self.order.extend(0..weights.len() as u32);
        // Likely tokens first, the lower id first among equals.
        self.order.sort_by(|&a, &b| {
            weights[b as usize]
                .total_cmp(&weights[a as usize])
                .then(a.cmp(&b))
        });
        if by_k {
            let smallest = weights[self.order[top_k - 1] as usize];
            // Tokens as likely as the k-th stay.
            let kept = self
                .order
                .iter()
                .take_while(|&&token| weights[token as usize] >= smallest)
                .count();
            for token in self.order.drain(kept..) {
                weights[token as usize] = 0.0;
            }
        }
        if top_p < 1.0 {
            let total: f64 = self
                .order
                .iter()
                .map(|&token| f64::from(weights[token as usize]))
                .sum();
            let mut sum = 0.0;
            for &token in &self.order {
                // A token stays while those before it fall short of top_p.
                if sum >= top_p * total {
                    weights[token as usize] = 0.0;
                } else {
                    sum += f64::from(weights[token as usize]);
                }
            }
        }
    }
}

/// The index of the largest value, the lowest among equals.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}
