//! The MLP of a gated unit (Shazeer 2020).

use burn::tensor::Tensor;
use dcsft_tensor::ops::{self, Activation};
use dcsft_vlm::lora::ModuleGroup;

use crate::modules::{Layers, Linear};
use crate::pass::{Pass, Rows};

/// A SwiGLU layer.
#[derive(Clone, Debug)]
pub struct Swiglu {
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Swiglu {
    /// `gate_proj`, `up_proj` and `down_proj` of the module `name`.
    pub fn new(
        layers: &mut Layers,
        group: ModuleGroup,
        name: &str,
        [width, inner]: [usize; 2],
        bias: bool,
    ) -> Self {
        let mut linear =
            |part: &str, sizes| layers.linear(group, &format!("{name}.{part}"), sizes, bias);
        Self {
            gate: linear("gate_proj", [width, inner]),
            up: linear("up_proj", [width, inner]),
            down: linear("down_proj", [inner, width]),
        }
    }

    /// `down(silu(gate(x)) * up(x))`.
    pub fn apply(&self, pass: Pass<'_>, x: Tensor<2>, rows: Rows<'_>) -> Tensor<2> {
        let gate = pass.linear(x.clone(), &self.gate, rows, Activation::None);
        let up = pass.linear(x, &self.up, rows, Activation::None);
        pass.linear(ops::swiglu(gate, up), &self.down, rows, Activation::None)
    }
}
