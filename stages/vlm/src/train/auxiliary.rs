//! A linear classifier on the pooled image tokens, trained beside the answers.

use burn::tensor::{Device, Float, Tensor, TensorData};
use dcsft_tensor::host::send;
use dcsft_tensor::ops::{Activation, linear, token_logprobs, weighted_sum};
use dcsft_tensor::params::{Param, ParamId, ParamSet};
use dcsft_tensor::rng::StreamKey;

/// The classifier. It belongs to the trainer, not to the model.
pub(crate) struct AuxiliaryHead {
    pub(crate) params: ParamSet,
    weight: ParamId,
    bias: ParamId,
}

impl AuxiliaryHead {
    /// Weights `N(0, 1 / width)`, biases 0.
    pub(crate) fn new(width: usize, classes: usize, seed: u64, device: &Device) -> Self {
        let mut stream = StreamKey::new("auxiliary head", seed).stream();
        let scale = 1.0 / libm::sqrt(width as f64);
        let weight = (0..width * classes)
            .map(|_| (stream.normal() * scale) as f32)
            .collect();
        let mut params = ParamSet::default();
        let weight = params.push(param(
            "auxiliary.weight",
            weight,
            [width, classes],
            true,
            device,
        ));
        let bias = params.push(param(
            "auxiliary.bias",
            vec![0.0; classes],
            [1, classes],
            false,
            device,
        ));
        Self {
            params,
            weight,
            bias,
        }
    }

    /// Sum of the cross-entropies of `labels` times `weights`, one for each; `pooled`: `[batch, width]`. `params` are the
    /// classifier's, or a copy of them.
    pub(crate) fn loss(
        &self,
        params: &ParamSet,
        pooled: Tensor<2>,
        labels: &[u32],
        weights: &[f32],
    ) -> Tensor<1> {
        let (weight, bias) = (params.get(self.weight), params.get(self.bias));
        let logits = linear(pooled, weight, Some(bias), None, Activation::None);
        weighted_sum(token_logprobs(logits, labels, 1.0), weights).neg()
    }
}

fn param(name: &str, value: Vec<f32>, shape: [usize; 2], decay: bool, device: &Device) -> Param {
    let value = send::<2, Float>(TensorData::new(value, shape), device)
        .autodiff()
        .require_grad();
    Param {
        name: name.to_owned(),
        value,
        trainable: true,
        decay,
    }
}
