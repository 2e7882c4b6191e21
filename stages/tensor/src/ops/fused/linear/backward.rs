//! Gradients of a linear layer.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};

use super::{AdapterState, LARGE, Linear, State};
use crate::kernels::{self, MatMut, MatRef, add_product, parallel};
use crate::ops::composed::Activation;
use crate::ops::fused::{new, values};

impl State {
    /// Gradients of the input, the weight, the bias and the adapter's factors, as far as `asked` for.
    fn backward(&self, grad: &[f32], asked: [bool; 5]) -> [Vec<f32>; 5] {
        let [inputs, outputs] = self.sizes;
        let rank = self.adapter.as_ref().map_or(0, AdapterState::rank);
        let whole = asked[0].then(|| self.weight.whole());
        // Sums of a large weight for every piece of the rows would cost more than the products.
        let apart = asked[1] && inputs * outputs >= LARGE;
        let sizes = [inputs * outputs, outputs, inputs * rank, rank * outputs];
        let mut sizes = [0, 1, 2, 3].map(|index| if asked[index + 1] { sizes[index] } else { 0 });
        if apart {
            sizes[0] = 0;
        }
        let mut x_grad = vec![0.0; values(&self.x).len()];
        let sums = parallel::rows_and_sums(
            &mut x_grad,
            inputs,
            sizes.iter().sum(),
            |first, out, sums| {
                let (weight, sums) = sums.split_at_mut(sizes[0]);
                let (bias, sums) = sums.split_at_mut(sizes[1]);
                let (a, b) = sums.split_at_mut(sizes[2]);
                let rows = out.len() / inputs;
                let grad = &grad[first * outputs..][..rows * outputs];
                let grad = self.before_activation(grad, first);
                let chunk = Chunk {
                    first,
                    rows,
                    grad: &grad,
                };
                if let Some(whole) = &whole {
                    let weight = MatRef::new(values(whole), [inputs, outputs]);
                    let grad = MatRef::new(&grad, [rows, outputs]);
                    let out = MatMut::new(out, [rows, inputs]);
                    add_product(grad, weight.transposed(), out);
                }
                if asked[1] && !apart {
                    let x = &values(&self.x)[first * inputs..];
                    let x = MatRef::new(x, [rows, inputs]).transposed();
                    let grad = MatRef::new(&grad, [rows, outputs]);
                    add_product(x, grad, MatMut::new(weight, [inputs, outputs]));
                }
                if asked[2] {
                    for grad in grad.chunks_exact(outputs) {
                        for (sum, value) in bias.iter_mut().zip(grad) {
                            *sum += value;
                        }
                    }
                }
                if let Some(adapter) = &self.adapter {
                    self.adapter_backward(adapter, &chunk, asked, [out, a, b]);
                }
            },
        );
        let mut rest = &sums[..];
        let [weight, bias, a, b] = sizes.map(|size| {
            let (own, after) = rest.split_at(size);
            rest = after;
            own.to_vec()
        });
        let weight = if apart {
            self.weight_grad(grad)
        } else {
            weight
        };
        [x_grad, weight, bias, a, b]
    }

    /// The gradient of a large weight, cut along its inputs.
    fn weight_grad(&self, grad: &[f32]) -> Vec<f32> {
        let [inputs, outputs] = self.sizes;
        let grad = self.before_activation(grad, 0);
        let (x, rows) = (values(&self.x), grad.len() / outputs);
        let mut out = vec![0.0; inputs * outputs];
        parallel::rows(&mut out, outputs, |first, out| {
            let count = out.len() / outputs;
            let x = MatRef::strided(&x[first..], [rows, count], inputs).transposed();
            let grad = MatRef::new(&grad, [rows, outputs]);
            add_product(x, grad, MatMut::new(out, [count, outputs]));
        });
        out
    }

    /// The gradient before the activation.
    fn before_activation<'a>(&self, grad: &'a [f32], first: usize) -> std::borrow::Cow<'a, [f32]> {
        let Some(before) = &self.before else {
            return grad.into();
        };
        let start = first * self.sizes[1];
        let mut out = vec![0.0; grad.len()];
        let before = &before[start..start + grad.len()];
        match self.activation {
            Activation::GeluTanh => kernels::gelu_tanh_backward(before, grad, &mut out),
            _ => kernels::gelu_backward(before, grad, &mut out),
        }
        out.into()
    }

    /// Adds the adapter's part to the gradient of the input, and to those of its factors.
    fn adapter_backward(
        &self,
        adapter: &AdapterState,
        chunk: &Chunk,
        asked: [bool; 5],
        [x_grad, a_grad, b_grad]: [&mut [f32]; 3],
    ) {
        let [inputs, outputs] = self.sizes;
        let (rank, &Chunk { first, rows, grad }) = (adapter.rank(), chunk);
        let mut inner_grad = vec![0.0; rows * rank];
        let grad = MatRef::new(grad, [rows, outputs]);
        let b = MatRef::new(values(&adapter.b), [rank, outputs]);
        let inner = MatMut::new(&mut inner_grad, [rows, rank]);
        add_product(grad, b.transposed(), inner);
        for value in &mut inner_grad {
            *value *= adapter.scale;
        }
        if asked[0] {
            let inner = MatRef::new(&inner_grad, [rows, rank]);
            let a = MatRef::new(values(&adapter.a), [inputs, rank]).transposed();
            if adapter.dropped.is_none() {
                add_product(inner, a, MatMut::new(x_grad, [rows, inputs]));
            } else {
                let mut path = vec![0.0; rows * inputs];
                add_product(inner, a, MatMut::new(&mut path, [rows, inputs]));
                adapter.drop_inputs(&mut path, inputs, first);
                for (sum, value) in x_grad.iter_mut().zip(path) {
                    *sum += value;
                }
            }
        }
        if asked[3] {
            let kept = self.kept_inputs(
                adapter,
                &values(&self.x)[first * inputs..][..rows * inputs],
                first,
            );
            let kept = MatRef::new(&kept, [rows, inputs]).transposed();
            let inner = MatRef::new(&inner_grad, [rows, rank]);
            add_product(kept, inner, MatMut::new(a_grad, [inputs, rank]));
        }
        if asked[4] {
            let inner = MatRef::new(&adapter.inner[first * rank..], [rows, rank]);
            add_product(
                inner.transposed(),
                grad,
                MatMut::new(b_grad, [rank, outputs]),
            );
        }
    }
}

/// Rows that are worked on together, and the gradient of their sums before the activation.
struct Chunk<'a> {
    first: usize,
    rows: usize,
    grad: &'a [f32],
}

impl Backward<Flex, 3> for Linear {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [x, weight, bias] = ops.parents;
        let asked = [x.is_some(), weight.is_some(), bias.is_some(), false, false];
        let [x_grad, weight_grad, bias_grad, _, _] = ops.state.backward(values(&grad), asked);
        let [inputs, outputs] = ops.state.sizes;
        let rows = x_grad.len() / inputs;
        let parents = [
            (x, x_grad, [rows, inputs]),
            (weight, weight_grad, [inputs, outputs]),
            (bias, bias_grad, [1, outputs]),
        ];
        for (node, grad, shape) in parents {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, new(grad, shape));
            }
        }
    }
}

impl Backward<Flex, 5> for Linear {
    type State = State;

    fn backward(self, ops: Ops<State, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let asked = ops.parents.each_ref().map(Option::is_some);
        let all = ops.state.backward(values(&grad), asked);
        let [inputs, outputs] = ops.state.sizes;
        let rank = ops.state.adapter.as_ref().map_or(0, AdapterState::rank);
        let rows = all[0].len() / inputs;
        let shapes = [
            [rows, inputs],
            [inputs, outputs],
            [1, outputs],
            [inputs, rank],
            [rank, outputs],
        ];
        for ((node, grad), shape) in ops.parents.into_iter().zip(all).zip(shapes) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, new(grad, shape));
            }
        }
    }
}
