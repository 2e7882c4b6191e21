//! Log-probabilities of given tokens. The logits are kept, and of each row the log of the sum of its weights.

use burn::tensor::{Int, Tensor, TensorData};

use super::width::{typed, wide};
use crate::host::send;
use crate::ops::graph::{Rule, plain, record_rule};

/// As [`crate::ops::token_logprobs`].
pub fn token_logprobs(logits: Tensor<2>, targets: &[u32], temperature: f64) -> Tensor<1> {
    let values = plain(logits.clone());
    let rows = targets.len();
    let targets: Vec<i32> = targets.iter().map(|&target| target as i32).collect();
    let targets = send(TensorData::new(targets, [rows, 1]), &values.device());
    let scaled = wide(&values) / temperature;
    let most = scaled.clone().max_dim(1);
    let log_sum = (scaled.clone() - most.clone()).exp().sum_dim(1).log() + most;
    let out = scaled.gather(1, Tensor::clone(&targets)) - log_sum.clone();
    let out = record_rule([logits], out, || TokenLogprobs {
        logits: values,
        targets,
        log_sum,
        temperature,
    });
    out.reshape([rows])
}

#[derive(Clone, Debug)]
struct TokenLogprobs {
    logits: Tensor<2>,
    /// `[rows, 1]`, as are the logs of sums.
    targets: Tensor<2, Int>,
    log_sum: Tensor<2>,
    temperature: f64,
}

impl Rule<1> for TokenLogprobs {
    /// `(1 at the target - probability) * grad / temperature`.
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [asked.then(|| {
            let [rows, vocab] = self.logits.dims();
            let probability = (wide(&self.logits) / self.temperature - self.log_sum).exp();
            let tokens = Tensor::<1, Int>::arange(0..vocab as i64, &self.logits.device());
            let tokens = tokens.reshape([1, vocab]).expand([rows, vocab]);
            let target = tokens.equal(self.targets.expand([rows, vocab])).float();
            let gradient = (target - probability) * (wide(&grad) / self.temperature);
            typed(gradient, self.logits.dtype())
        })]
    }
}
