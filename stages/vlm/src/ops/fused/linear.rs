//! Linear layers with an optional adapter and activation.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::tensor::{Device, Tensor, TensorData};

use super::{Flat, close, contiguous, new, open, values};
use crate::kernels::{
    self, Left, add_product, add_product_in_parts, add_product_transposed, parallel,
};
use crate::ops::composed::{Activation, Adapter, Dropout};

/// Values of a weight that is worth other cuts of the work than along the rows.
const LARGE: usize = 1 << 16;
/// Outputs in one piece of work that is cut along them.
const COLUMNS: usize = 128;

#[derive(Debug)]
struct Linear;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    /// `[rows, in]`.
    x: Flat,
    /// `[in, out]`.
    weight: Flat,
    /// The sum before the activation, if there is one: `[rows, out]`.
    before: Option<Arc<[f32]>>,
    adapter: Option<AdapterState>,
}

#[derive(Clone, Debug)]
struct AdapterState {
    /// `[in, rank]`.
    a: Flat,
    /// `[rank, out]`.
    b: Flat,
    /// The adapter's scale, times what dropout scales the kept inputs by.
    scale: f32,
    dropped: Option<Arc<[u32]>>,
    /// `scale * dropped(x) @ a`: `[rows, rank]`.
    inner: Arc<[f32]>,
}

pub(in crate::ops) fn linear(
    x: Tensor<2>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    let plain = !x.is_autodiff() && !weight.is_autodiff();
    let rows = x.dims()[0];
    let outputs = weight.dims()[1];
    let bias = bias.cloned().unwrap_or_else(|| {
        // A layer without a bias has a constant one: it costs one row.
        Tensor::from_data(
            TensorData::new(vec![0f32; outputs], [1, outputs]),
            &Device::flex(),
        )
    });
    let (x, weight, bias) = (open(x), open(weight.clone()), open(bias));
    let factors = adapter.map(|adapter| (open(adapter.a.clone()), open(adapter.b.clone())));
    let mut state = State {
        x: contiguous(&x),
        weight: contiguous(&weight),
        before: None,
        adapter: adapter
            .zip(factors.as_ref())
            .map(|(adapter, (a, b))| AdapterState::new(adapter, a, b)),
    };
    let mut out = vec![0.0; rows * outputs];
    let inner = state.forward(values(&contiguous(&bias)), &mut out);
    if let Some(adapter) = &mut state.adapter {
        adapter.inner = inner.into();
    }
    if activation == Activation::Gelu {
        let before = out;
        out = vec![0.0; before.len()];
        parallel::rows(&mut out, outputs, |first, out| {
            kernels::gelu(&before[first * outputs..][..out.len()], out);
        });
        state.before = Some(before.into());
    }
    let out = new(out, [rows, outputs]);
    let base = [x.node(), weight.node(), bias.node()];
    let out = match factors {
        None => finish(
            Linear
                .prepare::<NoCheckpointing>(base)
                .compute_bound()
                .stateful(),
            state,
            out,
        ),
        Some((a, b)) => {
            let [x, weight, bias] = base;
            let nodes = [x, weight, bias, a.node(), b.node()];
            finish(
                Linear
                    .prepare::<NoCheckpointing>(nodes)
                    .compute_bound()
                    .stateful(),
                state,
                out,
            )
        }
    };
    close(out, plain)
}

fn finish<const N: usize>(
    prepared: OpsKind<Linear, Flex, State, NoCheckpointing, N>,
    state: State,
    out: Flat,
) -> super::Tracked
where
    Linear: Backward<Flex, N, State = State>,
{
    match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(state, out),
        OpsKind::UnTracked(prepared) => prepared.finish(out),
    }
}

impl AdapterState {
    fn new(adapter: &Adapter, a: &super::Tracked, b: &super::Tracked) -> Self {
        let keep = adapter
            .dropout
            .as_ref()
            .map_or(1.0, |Dropout { probability, .. }| 1.0 - probability);
        Self {
            a: contiguous(a),
            b: contiguous(b),
            scale: (adapter.scale / keep) as f32,
            dropped: adapter
                .dropout
                .as_ref()
                .map(|dropout| dropout.dropped.clone()),
            inner: Arc::new([]),
        }
    }

    fn rank(&self) -> usize {
        self.b.layout().shape()[0]
    }

    /// Sets to zero what dropout drops of `rows` of the input, which begin with row `first`.
    fn drop_inputs(&self, rows: &mut [f32], width: usize, first: usize) {
        let Some(dropped) = &self.dropped else { return };
        let start = (first * width) as u32;
        let end = start + rows.len() as u32;
        let range = dropped.partition_point(|&index| index < start)
            ..dropped.partition_point(|&index| index < end);
        for &index in &dropped[range] {
            rows[(index - start) as usize] = 0.0;
        }
    }
}

impl State {
    fn sizes(&self) -> [usize; 2] {
        let shape = self.weight.layout().shape();
        [shape[0], shape[1]]
    }

    /// `x @ weight + bias` with the adapter's path into `out`; gives the adapter's inner values.
    fn forward(&self, bias: &[f32], out: &mut [f32]) -> Vec<f32> {
        let [inputs, outputs] = self.sizes();
        let rank = self.adapter.as_ref().map_or(0, AdapterState::rank);
        let mut inner = vec![0.0; out.len() / outputs * rank];
        if out.len() <= parallel::ROWS * outputs && inputs * outputs >= LARGE {
            self.forward_by_columns(bias, out, &mut inner);
            return inner;
        }
        let (x, weight) = (values(&self.x), values(&self.weight));
        parallel::two_rows(out, outputs, &mut inner, rank, |first, out, inner| {
            let rows = out.len() / outputs;
            let x = &x[first * inputs..][..rows * inputs];
            for out in out.chunks_exact_mut(outputs) {
                out.copy_from_slice(bias);
            }
            add_product_in_parts(
                rows,
                inputs,
                outputs,
                Left::rows(x, inputs),
                weight,
                outputs,
                out,
                outputs,
            );
            let Some(adapter) = &self.adapter else { return };
            self.inner(adapter, x, first, inner);
            add_product(
                rows,
                rank,
                outputs,
                Left::rows(inner, rank),
                values(&adapter.b),
                outputs,
                out,
                outputs,
            );
        });
        inner
    }

    /// `scale * dropped(x) @ a` of some rows, the first of which is row `first`, into `inner`.
    fn inner(&self, adapter: &AdapterState, x: &[f32], first: usize, inner: &mut [f32]) {
        let (inputs, rank) = (self.sizes()[0], adapter.rank());
        let kept = self.kept_inputs(adapter, x, first);
        let (rows, left) = (inner.len() / rank, Left::rows(&kept, inputs));
        add_product_in_parts(
            rows,
            inputs,
            rank,
            left,
            values(&adapter.a),
            rank,
            inner,
            rank,
        );
        for value in inner {
            *value *= adapter.scale;
        }
    }

    /// As [`State::forward`] for a few rows, as generation has them: cut along the outputs, so that every thread has
    /// work and the weight is read once.
    fn forward_by_columns(&self, bias: &[f32], out: &mut [f32], inner: &mut [f32]) {
        let [inputs, outputs] = self.sizes();
        let rows = out.len() / outputs;
        let (x, weight) = (values(&self.x), values(&self.weight));
        if let Some(adapter) = &self.adapter {
            self.inner(adapter, x, 0, inner);
        }
        let inner = &*inner;
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); outputs.div_ceil(COLUMNS)];
        parallel::for_each(parts.iter_mut().enumerate().collect(), |(index, part)| {
            let first = index * COLUMNS;
            let columns = COLUMNS.min(outputs - first);
            *part = bias[first..first + columns].repeat(rows);
            let left = Left::rows(x, inputs);
            add_product_in_parts(
                rows,
                inputs,
                columns,
                left,
                &weight[first..],
                outputs,
                part,
                columns,
            );
            if let Some(adapter) = &self.adapter {
                let (rank, b) = (adapter.rank(), &values(&adapter.b)[first..]);
                let left = Left::rows(inner, rank);
                add_product(rows, rank, columns, left, b, outputs, part, columns);
            }
        });
        for (row, out) in out.chunks_exact_mut(outputs).enumerate() {
            for (part, out) in parts.iter().zip(out.chunks_mut(COLUMNS)) {
                out.copy_from_slice(&part[row * out.len()..][..out.len()]);
            }
        }
    }

    fn kept_inputs<'a>(
        &self,
        adapter: &AdapterState,
        x: &'a [f32],
        first: usize,
    ) -> std::borrow::Cow<'a, [f32]> {
        if adapter.dropped.is_none() {
            return x.into();
        }
        let mut kept = x.to_vec();
        adapter.drop_inputs(&mut kept, self.sizes()[0], first);
        kept.into()
    }

    /// Gradients of the input, the weight, the bias and the adapter's factors, as far as `asked` for.
    fn backward(&self, grad: &[f32], asked: [bool; 5]) -> [Vec<f32>; 5] {
        let [inputs, outputs] = self.sizes();
        let rank = self.adapter.as_ref().map_or(0, AdapterState::rank);
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
                if asked[0] {
                    let left = Left::rows(&grad, outputs);
                    add_product_transposed(
                        rows,
                        outputs,
                        inputs,
                        left,
                        values(&self.weight),
                        outputs,
                        out,
                        inputs,
                    );
                }
                if asked[1] && !apart {
                    let x = &values(&self.x)[first * inputs..];
                    let left = Left::transposed(x, inputs);
                    add_product(inputs, rows, outputs, left, &grad, outputs, weight, outputs);
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
        let [inputs, outputs] = self.sizes();
        let grad = self.before_activation(grad, 0);
        let (x, rows) = (values(&self.x), grad.len() / outputs);
        let mut out = vec![0.0; inputs * outputs];
        parallel::rows(&mut out, outputs, |first, out| {
            let left = Left::transposed(&x[first..], inputs);
            let count = out.len() / outputs;
            add_product(count, rows, outputs, left, &grad, outputs, out, outputs);
        });
        out
    }

    /// The gradient before the activation.
    fn before_activation<'a>(&self, grad: &'a [f32], first: usize) -> std::borrow::Cow<'a, [f32]> {
        let Some(before) = &self.before else {
            return grad.into();
        };
        let start = first * self.sizes()[1];
        let mut out = vec![0.0; grad.len()];
        kernels::gelu_backward(&before[start..start + grad.len()], grad, &mut out);
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
        let [inputs, outputs] = self.sizes();
        let (rank, &Chunk { first, rows, grad }) = (adapter.rank(), chunk);
        let mut inner_grad = vec![0.0; rows * rank];
        let left = Left::rows(grad, outputs);
        add_product_transposed(
            rows,
            outputs,
            rank,
            left,
            values(&adapter.b),
            outputs,
            &mut inner_grad,
            rank,
        );
        for value in &mut inner_grad {
            *value *= adapter.scale;
        }
        if asked[0] {
            let (left, a_factor) = (Left::rows(&inner_grad, rank), values(&adapter.a));
            if adapter.dropped.is_none() {
                add_product_transposed(rows, rank, inputs, left, a_factor, rank, x_grad, inputs);
            } else {
                let mut path = vec![0.0; rows * inputs];
                add_product_transposed(rows, rank, inputs, left, a_factor, rank, &mut path, inputs);
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
            let left = Left::transposed(&kept, inputs);
            add_product(inputs, rows, rank, left, &inner_grad, rank, a_grad, rank);
        }
        if asked[4] {
            let left = Left::transposed(&adapter.inner[first * rank..], rank);
            add_product(rank, rows, outputs, left, grad, outputs, b_grad, outputs);
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
        let [inputs, outputs] = ops.state.sizes();
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
        let [inputs, outputs] = ops.state.sizes();
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
