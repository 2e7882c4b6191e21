//! Linear layers with an optional adapter and activation.

mod backward;
mod weight;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

use super::{Flat, Input, new, record, values};
use crate::kernels::{self, MatMut, MatRef, add_product, add_product_in_parts, add_row, parallel};
use crate::ops::{Activation, Adapter, Dropout};

use weight::Held;
pub(in crate::ops) use weight::Weight;

/// Values of a weight that is worth other cuts of the work than along the rows.
const LARGE: usize = 1 << 16;
/// Outputs in one piece of work that is cut along them.
const COLUMNS: usize = 128;

/// Values of a layer before and after its activation.
type Activate = fn(&[f32], &mut [f32]);

#[derive(Debug)]
struct Linear;

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct State {
    /// `[rows, in]`.
    x: Flat,
    weight: Held,
    /// Inputs and outputs.
    sizes: [usize; 2],
    /// The sum before the activation, if there is one: `[rows, out]`.
    before: Option<Arc<[f32]>>,
    activation: Activation,
    adapter: Option<AdapterState>,
    sums: Sums,
}

/// How the products of an output are added up. What PyTorch does on CPUs is done here too, so that both round in the
/// same places.
#[derive(Clone, Copy, Debug)]
enum Sums {
    /// One after another, as in its convolutions.
    InOrder,
    /// As [`add_product_in_parts`] does, as in its linear layers.
    InParts,
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
    weight: Weight,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
) -> Tensor<2> {
    layer(x, weight, bias, adapter, activation, Sums::InParts)
}

pub(in crate::ops) fn convolve(patches: Tensor<2>, kernel: &Tensor<2>) -> Tensor<2> {
    let activation = Activation::None;
    let kernel = Weight::Plain(kernel.clone());
    layer(patches, kernel, None, None, activation, Sums::InOrder)
}

fn layer(
    x: Tensor<2>,
    weight: Weight,
    bias: Option<&Tensor<2>>,
    adapter: Option<&Adapter>,
    activation: Activation,
    sums: Sums,
) -> Tensor<2> {
    let rows = x.dims()[0];
    let sizes @ [_, outputs] = weight.sizes();
    let biased = bias.is_some();
    let bias = bias.cloned().unwrap_or_else(|| {
        // A layer without a bias has a constant one: it costs one row.
        Tensor::from_data(
            TensorData::new(vec![0f32; outputs], [1, outputs]),
            &Device::flex(),
        )
    });
    let [x, bias] = [x, bias].map(Input::new);
    let (weight, in_graph) = weight.split();
    let factors = adapter.map(|adapter| [&adapter.a, &adapter.b].map(|f| Input::new(f.clone())));
    let all = [&x, &in_graph, &bias].into_iter();
    let asked = all.chain(factors.iter().flatten()).any(Input::asks);
    let mut state = State {
        x: x.contiguous(),
        weight,
        sizes,
        before: None,
        activation,
        adapter: adapter
            .zip(factors.as_ref())
            .map(|(adapter, factors)| AdapterState::new(adapter, factors)),
        sums,
    };
    let mut out = vec![0.0; rows * outputs];
    let row = bias.contiguous();
    let inner = state.forward(biased.then(|| values(&row)), &mut out);
    if let Some(adapter) = &mut state.adapter {
        adapter.inner = inner.into();
    }
    let activate: Option<Activate> = match activation {
        Activation::None => None,
        Activation::Gelu => Some(kernels::gelu),
        Activation::GeluTanh => Some(kernels::gelu_tanh),
    };
    if let Some(activate) = activate {
        let before = out;
        out = vec![0.0; before.len()];
        parallel::rows(&mut out, outputs, |first, out| {
            activate(&before[first * outputs..][..out.len()], out);
        });
        // Nothing is copied for a backward pass that there will not be.
        if asked {
            state.before = Some(before.into());
        }
    }
    let out = new(out, [rows, outputs]);
    match factors {
        None => record(Linear, [x, in_graph, bias], out, || state),
        Some([a, b]) => record(Linear, [x, in_graph, bias, a, b], out, || state),
    }
}

impl AdapterState {
    fn new(adapter: &Adapter, [a, b]: &[Input; 2]) -> Self {
        let keep = adapter
            .dropout
            .as_ref()
            .map_or(1.0, |dropout| 1.0 - dropout.probability());
        Self {
            a: a.contiguous(),
            b: b.contiguous(),
            scale: (adapter.scale / keep) as f32,
            dropped: adapter.dropout.as_ref().map(Dropout::dropped),
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
    /// `x @ weight + bias` with the adapter's path into `out`; gives the adapter's inner values.
    fn forward(&self, bias: Option<&[f32]>, out: &mut [f32]) -> Vec<f32> {
        let [inputs, outputs] = self.sizes;
        let rank = self.adapter.as_ref().map_or(0, AdapterState::rank);
        let whole = self.weight.whole();
        let (x, weight) = (values(&self.x), values(&whole));
        let mut inner = vec![0.0; out.len() / outputs * rank];
        if out.len() <= parallel::ROWS * outputs && inputs * outputs >= LARGE {
            self.forward_by_columns(weight, bias, out, &mut inner);
            return inner;
        }
        parallel::two_rows(out, outputs, &mut inner, rank, |first, out, inner| {
            let x = &x[first * inputs..][..out.len() / outputs * inputs];
            let rows = out.len() / outputs;
            let weight = MatRef::new(weight, [inputs, outputs]);
            self.product(x, weight, out);
            if let Some(bias) = bias {
                add_row(bias, out);
            }
            let Some(adapter) = &self.adapter else { return };
            self.inner(adapter, x, first, inner);
            let b = MatRef::new(values(&adapter.b), [rank, outputs]);
            let inner = MatRef::new(inner, [rows, rank]);
            add_product_in_parts(inner, b, MatMut::new(out, [rows, outputs]));
        });
        inner
    }

    /// Adds `x @ weight` to `out`; `weight` may be some columns of this layer's.
    fn product(&self, x: &[f32], weight: MatRef<'_>, out: &mut [f32]) {
        let (inputs, columns) = (self.sizes[0], weight.columns());
        let rows = out.len() / columns;
        let (x, out) = (
            MatRef::new(x, [rows, inputs]),
            MatMut::new(out, [rows, columns]),
        );
        match self.sums {
            Sums::InOrder => add_product(x, weight, out),
            Sums::InParts => add_product_in_parts(x, weight, out),
        }
    }

    /// `scale * dropped(x) @ a` of some rows, the first of which is row `first`, into `inner`.
    fn inner(&self, adapter: &AdapterState, x: &[f32], first: usize, inner: &mut [f32]) {
        let (inputs, rank) = (self.sizes[0], adapter.rank());
        let kept = self.kept_inputs(adapter, x, first);
        let rows = inner.len() / rank;
        let a = MatRef::new(values(&adapter.a), [inputs, rank]);
        let kept = MatRef::new(&kept, [rows, inputs]);
        add_product_in_parts(kept, a, MatMut::new(inner, [rows, rank]));
        for value in inner {
            *value *= adapter.scale;
        }
    }

    /// As [`State::forward`] for a few rows, as generation has them: cut along the outputs, so that every thread has
    /// work and the weight is read once.
    fn forward_by_columns(
        &self,
        weight: &[f32],
        bias: Option<&[f32]>,
        out: &mut [f32],
        inner: &mut [f32],
    ) {
        let [inputs, outputs] = self.sizes;
        let rows = out.len() / outputs;
        let x = values(&self.x);
        if let Some(adapter) = &self.adapter {
            self.inner(adapter, x, 0, inner);
        }
        let inner = &*inner;
        let mut parts: Vec<Vec<f32>> = vec![Vec::new(); outputs.div_ceil(COLUMNS)];
        parallel::for_each(parts.iter_mut().enumerate().collect(), |(index, part)| {
            let first = index * COLUMNS;
            let columns = COLUMNS.min(outputs - first);
            *part = vec![0.0; rows * columns];
            let weight = MatRef::strided(&weight[first..], [inputs, columns], outputs);
            self.product(x, weight, part);
            if let Some(bias) = bias {
                add_row(&bias[first..first + columns], part);
            }
            if let Some(adapter) = &self.adapter {
                let (rank, b) = (adapter.rank(), &values(&adapter.b)[first..]);
                let b = MatRef::strided(b, [rank, columns], outputs);
                let inner = MatRef::new(inner, [rows, rank]);
                add_product_in_parts(inner, b, MatMut::new(part, [rows, columns]));
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
        adapter.drop_inputs(&mut kept, self.sizes[0], first);
        kept.into()
    }
}
