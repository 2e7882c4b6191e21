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
    let out = activation::silu(state.gate.clone()) * state.up.clone();
    record_rule([gate, up], out, || state)
}

#[derive(Clone, Debug)]
struct SwiGlu {
    gate: Tensor<2>,
    up: Tensor<2>,
}

impl Rule<2> for SwiGlu {
    /// `silu(x) = x * s(x)`, so `silu'(x) = s(x) * (1 + x * (1 - s(x)))`, s being the logistic function.
    fn gradients(self, grad: Tensor<2>, [of_gate, of_up]: [bool; 2]) -> [Option<Tensor<2>>; 2] {
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
