//! A linear layer with its adapter and activation.
//!
//! The adapter's path is computed in the layer's own type, whatever its factors are kept in, as under PyTorch's autocast.
//! What is kept of it beside the inputs is as wide as its rank; which inputs dropout sets to zero is drawn again on the way
//! back.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI, PI};

use burn::tensor::{DType, Tensor};

use super::product::{product, product_in_graph};
use super::width::{typed, wide};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::host::on_host;
use crate::ops::composed::{Activation, Adapter, activate};
use crate::ops::dropout::{DrawnMask, Mask};
use crate::ops::graph::{Rule, plain, record_rule};
use crate::quant::{dequantised, is_quantised};

/// As [`crate::ops::linear`].
pub fn linear(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    let y = match adapter {
        None if is_quantised(weight) => of_quantised(x, weight),
        None => product_in_graph(x, weight.clone()),
        Some(adapter) => adapted(x, weight, adapter),
    };
    let y = match bias {
        None => y,
        Some(bias) => y + bias.clone(),
    };
    activated(y, activation)
}

/// `x @ weight`, of a quantised weight.
fn of_quantised(x: Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    let (own, weight) = (plain(x.clone()), plain(weight.clone()));
    let dtype = own.dtype();
    let y = product(own, dequantised(&weight, dtype));
    record_rule([x], y, || Product { weight, dtype })
}

/// What is kept of `x @ weight`.
#[derive(Clone, Debug)]
struct Product {
    /// Quantised.
    weight: Tensor<2>,
    /// Of the layer.
    dtype: DType,
}

impl Rule<1> for Product {
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [asked.then(|| product(grad, dequantised(&self.weight, self.dtype).transpose()))]
    }
}

fn adapted(x: Tensor<2>, weight: &Tensor<2>, adapter: &Adapter) -> Tensor<2> {
    let factors = [&adapter.a, &adapter.b].map(Tensor::clone);
    let [a, b] = factors.clone().map(plain);
    // A quantised weight has no place in the graph: another input that asks for no gradient stands in for it.
    let in_graph = match is_quantised(weight) {
        true => a.clone(),
        false => weight.clone(),
    };
    let [of_a, of_b] = factors;
    let inputs = [x, in_graph, of_a, of_b];
    let (x, weight) = (plain(inputs[0].clone()), plain(weight.clone()));
    let dtype = x.dtype();
    let factors = [a.dtype(), b.dtype()];
    let [a, b] = [a, b].map(|factor| typed(factor, dtype));
    let dropout = adapter.dropout.as_ref();
    let mask = dropout.map(|dropout| dropout.on(x.dims(), &x.device()));
    let kept = mask.as_ref().map(Mask::drawn);
    let inner = product(dropped(x.clone(), kept.as_ref()), a.clone()) * adapter.scale;
    let y = product(x.clone(), dequantised(&weight, dtype)) + product(inner.clone(), b.clone());
    record_rule(inputs, y, || Adapted {
        x,
        weight,
        a,
        b,
        inner,
        scale: adapter.scale,
        mask,
        factors,
    })
}

/// What is kept of `x @ weight + (scale * dropped(x) @ a) @ b`.
#[derive(Clone, Debug)]
struct Adapted {
    x: Tensor<2>,
    /// Perhaps quantised.
    weight: Tensor<2>,
    /// In the type of `x`.
    a: Tensor<2>,
    b: Tensor<2>,
    /// `scale * dropped(x) @ a`, `[rows, rank]`.
    inner: Tensor<2>,
    scale: f64,
    mask: Option<Mask>,
    /// The types that the factors are kept in.
    factors: [DType; 2],
}

fn dropped(x: Tensor<2>, kept: Option<&DrawnMask>) -> Tensor<2> {
    match kept {
        None => x,
        Some(kept) => kept.apply(x),
    }
}

fn transposed(tensor: &Tensor<2>) -> Tensor<2> {
    tensor.clone().transpose()
}

impl Rule<4> for Adapted {
    fn gradients(
        self,
        grad: Tensor<2>,
        [of_x, of_weight, of_a, of_b]: [bool; 4],
    ) -> [Option<Tensor<2>>; 4] {
        let inner = product(grad.clone(), transposed(&self.b)) * self.scale;
        let [a, b] = self.factors;
        let kept = self.mask.as_ref().map(Mask::drawn);
        let kept = kept.as_ref();
        [
            of_x.then(|| {
                let path = product(inner.clone(), transposed(&self.a));
                let weight = dequantised(&self.weight, grad.dtype());
                product(grad.clone(), weight.transpose()) + dropped(path, kept)
            }),
            of_weight.then(|| product(transposed(&self.x), grad.clone())),
            of_a.then(|| {
                let x = dropped(self.x.clone(), kept);
                typed(product(x.transpose(), inner.clone()), a)
            }),
            of_b.then(|| typed(product(transposed(&self.inner), grad.clone()), b)),
        ]
    }
}

fn activated(x: Tensor<2>, activation: Activation) -> Tensor<2> {
    if activation == Activation::None {
        return x;
    }
    let state = Activated {
        before: plain(x.clone()),
        activation,
    };
    let out = state.value();
    record_rule([x], out, || state)
}

#[derive(Clone, Debug)]
struct Activated {
    before: Tensor<2>,
    activation: Activation,
}

impl Activated {
    fn value(&self) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&self.before) {
            return super::kernels::gelu(&self.before, self.activation == Activation::GeluTanh);
        }
        let dtype = self.before.dtype();
        typed(activate(wide(&self.before), self.activation), dtype)
    }
}

impl Rule<1> for Activated {
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&grad) {
            let tanh = self.activation == Activation::GeluTanh;
            let gradient = || super::kernels::gelu_gradient(&self.before, &grad, tanh);
            return [asked.then(gradient)];
        }
        let x = wide(&self.before);
        let slope = match self.activation {
            Activation::None => return [asked.then_some(grad)],
            Activation::Gelu => gelu_slope(x),
            Activation::GeluTanh => gelu_tanh_slope(x),
        };
        [asked.then(|| typed(wide(&grad) * slope, self.before.dtype()))]
    }
}

/// Of `x * P(x)`, P being the normal distribution: `P(x) + x * P'(x)`.
fn gelu_slope(x: Tensor<2>) -> Tensor<2> {
    let share = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    let density = (x.clone() * x.clone() * -0.5).exp() * (1.0 / (2.0 * PI).sqrt());
    share + x * density
}

/// Of `x / 2 * (1 + tanh(u))` with `u = sqrt(2 / pi) * (x + 0.044715 * x^3)`.
fn gelu_tanh_slope(x: Tensor<2>) -> Tensor<2> {
    /// Hendrycks and Gimpel 2016.
    const CUBIC: f64 = 0.044_715;
    let root = FRAC_2_PI.sqrt();
    let square = x.clone() * x.clone();
    let tanh = (x.clone() * (square.clone() * CUBIC + 1.0) * root).tanh();
    let inner = (square * (3.0 * CUBIC) + 1.0) * root;
    let bend = (tanh.clone() * tanh.clone()).neg() + 1.0;
    (tanh + 1.0) * 0.5 + x * bend * inner * 0.5
}
