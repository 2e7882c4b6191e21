//! The gate of a SwiGLU layer.

use burn::tensor::{Tensor, activation};

use super::width::{typed, wide};
use crate::ops::graph::{Rule, plain, record_rule};

/// As [`crate::ops::swiglu`].
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let state = SwiGlu {
        gate: plain(gate.clone()),
        up: plain(up.clone()),
    };
    let out = state.value();
    record_rule([gate, up], out, || state)
}

#[derive(Clone, Debug)]
struct SwiGlu {
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl SwiGlu {
    fn value(&self) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(&self.gate) {
            return super::kernels::swiglu(&self.gate, &self.up);
        }
        activation::silu(self.gate.clone()) * self.up.clone()
    }
}

impl Rule<2> for SwiGlu {
    /// `silu(x) = x * s(x)`, so `silu'(x) = s(x) * (1 + x * (1 - s(x)))`, s being the logistic function.
    fn gradients(self, grad: Tensor<2>, [of_gate, of_up]: [bool; 2]) -> [Option<Tensor<2>>; 2] {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(&grad) {
            let [gate, up] = super::kernels::swiglu_gradients(&self.gate, &self.up, &grad);
            return [of_gate.then_some(gate), of_up.then_some(up)];
        }
        let dtype = self.gate.dtype();
        let (grad, gate) = (wide(&grad), wide(&self.gate));
        let logistic = activation::sigmoid(gate.clone());
        let silu = gate.clone() * logistic.clone();
        let up = of_up.then(|| typed(grad.clone() * silu.clone(), dtype));
        let gate = of_gate.then(|| {
            let slope = logistic.clone() + silu.clone() * (logistic.neg() + 1.0);
            typed(grad * wide(&self.up) * slope, dtype)
        });
        [gate, up]
    }
}
