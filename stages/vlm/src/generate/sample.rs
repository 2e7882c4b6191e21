//! From logits to a token: repetition penalty, temperature, then top-k, then top-p, as in Hugging Face's chain.

use dcsft_tensor::host::exp_in_place;
use dcsft_tensor::rng::StreamKey;

use crate::model::Sampling;

/// Draws tokens under fixed settings; holds the buffers that this takes.
pub struct Sampler<'a> {
    sampling: &'a Sampling,
    order: Vec<u32>,
}

impl<'a> Sampler<'a> {
    /// For these settings.
    pub fn new(sampling: &'a Sampling) -> Self {
        Self {
            sampling,
            order: Vec::new(),
        }
    }

    /// The token of one row, and its log-probability before penalty, top-k and top-p. Overwrites the logits.
    ///
    /// `before`: the tokens of the prompt and those written so far; `key` names the row's draws; `position` is the
    /// index of the token in its answer.
    pub(super) fn draw(
        &mut self,
        logits: &mut [f32],
        before: [&[u32]; 2],
        key: &StreamKey,
        position: usize,
    ) -> (u32, f32) {
        let greedy = self.sampling.temperature == 0.0;
        let inverse = if greedy {
            1.0
        } else {
            (1.0 / self.sampling.temperature) as f32
        };
        let mut plain = logits.to_vec();
        self.penalise(logits, before);
        let token = if greedy {
            argmax(logits)
        } else {
            self.weigh(logits, inverse);
            pick(logits, key.clone().number(position as u64).uniform())
        };
        let (top, chosen) = (plain[argmax(&plain)], plain[token]);
        let total = exp_in_place(&mut plain, top, inverse);
        let logprob = ((chosen - top) * inverse) - libm::log(f64::from(total)) as f32;
        (token as u32, logprob)
    }

    /// Logits to the probabilities that tokens are drawn with: penalty, temperature, top-k, top-p.
    pub fn probabilities(&mut self, logits: &mut [f32], before: [&[u32]; 2]) {
        self.penalise(logits, before);
        self.weigh(logits, (1.0 / self.sampling.temperature) as f32);
        let total: f64 = logits.iter().map(|&weight| f64::from(weight)).sum();
        for weight in logits {
            *weight = (f64::from(*weight) / total) as f32;
        }
    }

    /// Logits to weights: `exp(logit / temperature)` up to a factor, zero for what top-k and top-p leave out.
    fn weigh(&mut self, logits: &mut [f32], inverse: f32) {
        let top = logits[argmax(logits)];
        exp_in_place(logits, top, inverse);
        self.restrict(logits);
    }

    /// Makes tokens less likely that are there already (Keskar et al. 2019): positive logits are divided by the
    /// penalty, negative ones multiplied.
    fn penalise(&mut self, logits: &mut [f32], before: [&[u32]; 2]) {
        let penalty = self.sampling.repetition_penalty as f32;
        if penalty == 1.0 {
            return;
        }
        self.order.clear();
        self.order.extend(before.concat());
        self.order.sort_unstable();
        self.order.dedup();
        for &token in &self.order {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit = if *logit > 0.0 {
                    *logit / penalty
                } else {
                    *logit * penalty
                };
            }
        }
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

/// The index at which the running sum of the weights passes the part `share` of their total.
fn pick(weights: &[f32], share: f64) -> usize {
    let kept: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let threshold = share * kept;
    let (mut sum, mut last) = (0.0, 0);
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 {
            last = index;
            sum += f64::from(weight);
            if sum > threshold {
                break;
            }
        }
    }
    last
}
