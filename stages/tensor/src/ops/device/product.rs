//! Products of matrices. Numbers of 32 bits are multiplied and added in 32 bits on any device.

use burn::tensor::Tensor;

#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::host::on_host;
use crate::ops::graph::{Rule, asks, plain, record_rule};

/// `a @ b` of each pair of matrices, of tensors without a place in the autodiff graph; nothing is repeated to fit.
pub(in crate::ops) fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    if a.dtype() == burn::tensor::DType::F32 && !on_host(&a) {
        return super::kernels::product(a, b);
    }
    a.matmul(b)
}

/// `a @ b` as one step of the autodiff graph.
pub(in crate::ops) fn product_in_graph(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let [of_a, of_b] = [asks(&a), asks(&b)];
    let (left, right) = (plain(a.clone()), plain(b.clone()));
    let y = product(left.clone(), right.clone());
    record_rule([a, b], y, || Factors {
        a: of_b.then_some(left),
        b: of_a.then_some(right),
    })
}

/// What is kept of `a @ b`: the factor that the other one's gradient is made with.
#[derive(Clone, Debug)]
struct Factors {
    a: Option<Tensor<2>>,
    b: Option<Tensor<2>>,
}

impl Rule<2> for Factors {
    fn gradients(self, grad: Tensor<2>, _: [bool; 2]) -> [Option<Tensor<2>>; 2] {
        let of_a = self.b.map(|b| product(grad.clone(), b.transpose()));
        let of_b = self.a.map(|a| product(a.transpose(), grad));
        [of_a, of_b]
    }
}
