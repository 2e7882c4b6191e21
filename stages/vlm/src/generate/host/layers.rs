//! The layers of a model on plain slices.

use crate::error::VlmError;
use crate::kernels::{self, Left, add_product_in_parts, add_row};
use crate::micro::{Block, Linear, MicroVlm, NORM_EPSILON, Norm};
use crate::model::VisionLanguageModel;
use crate::params::ParamId;
use crate::weights::{self, Matrix};

pub(super) struct HostLinear {
    /// `[inputs, outputs]`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
}

pub(super) struct HostNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

pub(super) struct HostBlock {
    pub(super) norm1: HostNorm,
    pub(super) qkv: HostLinear,
    out: HostLinear,
    norm2: HostNorm,
    fc1: HostLinear,
    fc2: HostLinear,
}

impl HostLinear {
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let (rows, outputs) = (x.len() / self.inputs, self.bias.len());
        let mut out = vec![0.0; rows * outputs];
        let left = Left::rows(x, self.inputs);
        add_product_in_parts(
            rows,
            self.inputs,
            outputs,
            left,
            &self.weight,
            outputs,
            &mut out,
            outputs,
        );
        add_row(&self.bias, &mut out);
        out
    }
}

impl HostNorm {
    pub(super) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        kernels::layer_norm(x, &self.scale, &self.shift, NORM_EPSILON as f32, &mut out);
        out
    }
}

impl HostBlock {
    /// What comes after attention: its output layer and the MLP, each added to `x`.
    pub(super) fn finish(&self, x: &mut [f32], mixed: &[f32]) {
        add(x, &self.out.apply(mixed));
        let hidden = self.fc1.apply(&self.norm2.apply(x));
        let mut active = vec![0.0; hidden.len()];
        kernels::gelu(&hidden, &mut active);
        add(x, &self.fc2.apply(&active));
    }
}

/// Adds as many values as `to` has.
pub(super) fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

/// Copies weights from the device.
pub(super) struct Reader<'a>(pub(super) &'a MicroVlm);

impl Reader<'_> {
    pub(super) fn values(&self, id: ParamId) -> Result<Vec<f32>, VlmError> {
        weights::values(self.0.params().get(id))
    }

    pub(super) fn linear(&self, layer: &Linear) -> Result<HostLinear, VlmError> {
        let weight = Matrix::from_tensor(self.0.params().get(layer.weight))?;
        Ok(HostLinear {
            inputs: weight.shape[0],
            weight: weight.values,
            bias: self.values(layer.bias)?,
        })
    }

    pub(super) fn norm(&self, norm: Norm) -> Result<HostNorm, VlmError> {
        Ok(HostNorm {
            scale: self.values(norm.scale)?,
            shift: self.values(norm.shift)?,
        })
    }

    pub(super) fn block(&self, block: &Block) -> Result<HostBlock, VlmError> {
        Ok(HostBlock {
            norm1: self.norm(block.norm1)?,
            qkv: self.linear(&block.qkv)?,
            out: self.linear(&block.out)?,
            norm2: self.norm(block.norm2)?,
            fc1: self.linear(&block.fc1)?,
            fc2: self.linear(&block.fc2)?,
        })
    }
}
