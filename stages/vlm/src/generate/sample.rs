//! From logits to a token: repetition penalty, temperature, then top-k, then top-p, as in Hugging Face's chain.

use std::cmp::Ordering;

use dcsft_tensor::host::exp_in_place;

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
    /// `before`: the tokens of the prompt and those written so far; `uniform` gives the random number in `[0, 1)` that it
    /// draws with, if it takes one.
    pub(super) fn draw(
        &mut self,
        logits: &mut [f32],
        before: [&[u32]; 2],
        uniform: impl FnOnce() -> f64,
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
            pick(logits, uniform())
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
        if by_k {
            self.keep_likeliest(weights, top_k);
        }
        if top_p < 1.0 {
            self.keep_share(weights, top_p);
        }
    }

    /// Of the tokens in `order` those as likely as the k-th or likelier; the others' weights become zero.
    fn keep_likeliest(&mut self, weights: &mut [f32], top_k: usize) {
        let (_, &mut nth, _) = self
            .order
            .select_nth_unstable_by(top_k - 1, |&a, &b| likelier(weights, a, b));
        let smallest = weights[nth as usize];
        self.order.retain(|&token| {
            let kept = weights[token as usize] >= smallest;
            if !kept {
                weights[token as usize] = 0.0;
            }
            kept
        });
        // In an order that does not depend on how they were found: weights are added in it.
        self.order.sort_unstable();
    }

    /// Of the tokens in `order` the likeliest that come to the part `top_p` of their weight; the others' weights become
    /// zero. A few tokens have nearly all of it: only as many are sorted as it takes.
    fn keep_share(&mut self, weights: &mut [f32], top_p: f64) {
        let weight = |token: u32| f64::from(weights[token as usize]);
        let enough = top_p * self.order.iter().map(|&token| weight(token)).sum::<f64>();
        let (mut sum, mut kept, mut sorted) = (0.0, 0, 0);
        // A token stays while those before it fall short of top_p.
        while sum < enough && sorted < self.order.len() {
            let left = &mut self.order[sorted..];
            let part = left.len().min(sorted.max(FIRST_SORTED));
            if part < left.len() {
                left.select_nth_unstable_by(part, |&a, &b| likelier(weights, a, b));
            }
            left[..part].sort_unstable_by(|&a, &b| likelier(weights, a, b));
            for &token in &left[..part] {
                if sum >= enough {
                    break;
                }
                sum += weight(token);
                kept += 1;
            }
            sorted += part;
        }
        for &token in &self.order[kept..] {
            weights[token as usize] = 0.0;
        }
    }
}

/// How many tokens are sorted at first.
const FIRST_SORTED: usize = 256;

/// Likely tokens first, the lower id first among equals.
fn likelier(weights: &[f32], a: u32, b: u32) -> Ordering {
    weights[b as usize]
        .total_cmp(&weights[a as usize])
        .then(a.cmp(&b))
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

#[cfg(test)]
mod tests {
    use dcsft_tensor::rng::StreamKey;

    use super::*;

    /// The definition: all tokens sorted, then cut off.
    fn restricted(weights: &[f32], top_k: usize, top_p: f64) -> Vec<f32> {
        let mut order: Vec<u32> = (0..weights.len() as u32).collect();
        order.sort_by(|&a, &b| likelier(weights, a, b));
        if top_k > 0 && top_k < weights.len() {
            let smallest = weights[order[top_k - 1] as usize];
            order.retain(|&token| weights[token as usize] >= smallest);
        }
        let weight = |token: &u32| f64::from(weights[*token as usize]);
        let enough = top_p * order.iter().map(weight).sum::<f64>();
        let (mut sum, mut left) = (0.0, vec![0.0; weights.len()]);
        for token in &order {
            if top_p < 1.0 && sum >= enough {
                break;
            }
            sum += weight(token);
            left[*token as usize] = weights[*token as usize];
        }
        left
    }

    #[test]
    fn top_k_and_top_p_keep_what_a_full_sort_keeps() {
        let mut stream = StreamKey::new("restrict test", 0).stream();
        // Flat and steep; multiples of a quarter tie, and their sums are exact in any order.
        for steepness in [0.0, 1.0, 4.0] {
            let weights: Vec<f32> = (0..3000)
                .map(|_| ((stream.uniform().powf(steepness) * 400.0).round() / 4.0) as f32)
                .collect();
            for (top_k, top_p) in [
                (0, 0.3),
                (0, 0.999),
                (1, 1.0),
                (40, 1.0),
                (40, 0.5),
                (2999, 0.9),
            ] {
                let sampling = Sampling {
                    top_k,
                    top_p,
                    ..Sampling::default()
                };
                let mut got = weights.clone();
                Sampler::new(&sampling).restrict(&mut got);
                assert_eq!(
                    got,
                    restricted(&weights, top_k, top_p),
                    "steepness {steepness}, top-k {top_k}, top-p {top_p}"
                );
            }
        }
    }
}
