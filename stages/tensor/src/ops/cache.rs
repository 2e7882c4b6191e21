//! Keys and values of sequences that grow row by row, for one attention layer.
//!
//! The rows of a prefix are kept once and shared by all sequences that continue it; each of these adds its own.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};

use super::{Heads, Span, Spans, attention, on_host, take_rows};
use crate::host;
use crate::kernels::{self, MatMut, MatRef, add_product, parallel};

/// One of the sequences that continue a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continuation {
    /// Which prefix.
    pub prefix: usize,
    /// Which sequence, among those of all prefixes.
    pub sequence: usize,
}

/// The cache of one layer for a group of prefixes.
pub struct KvCache {
    heads: Heads,
    store: Store,
}

enum Store {
    Host(Host),
    Tensors(Box<Rows>),
}

impl KvCache {
    /// From the packed queries, keys and values of the prefixes, `[rows, (heads.queries + 2 * heads.keys) * head
    /// width]`; `prefixes` are the rows of each.
    pub fn new(qkv: &Tensor<2>, prefixes: &[Range<usize>], heads: Heads) -> Self {
        let store = match on_host(qkv) {
            true => Store::Host(Host::new(qkv, prefixes, heads)),
            false => Store::Tensors(Box::new(Rows::new(qkv, prefixes))),
        };
        Self { heads, store }
    }

    /// Adds each row to the sequence that `owners` names for it, and attends from it: `[rows, heads.queries * head
    /// width]`. Rows of one prefix follow each other.
    pub fn step(&mut self, qkv: Tensor<2>, owners: &[Continuation]) -> Tensor<2> {
        match &mut self.store {
            Store::Host(host) => host.step(qkv, owners, self.heads),
            Store::Tensors(rows) => rows.step(qkv, owners, self.heads),
        }
    }
}

/// As rows of one tensor, gathered for each step.
struct Rows {
    all: Tensor<2>,
    prefixes: Vec<Range<usize>>,
    /// Rows of each sequence.
    sequences: BTreeMap<usize, Vec<u32>>,
}

impl Rows {
    fn new(qkv: &Tensor<2>, prefixes: &[Range<usize>]) -> Self {
        Self {
            all: qkv.clone(),
            prefixes: prefixes.to_vec(),
            sequences: BTreeMap::new(),
        }
    }

    fn step(&mut self, qkv: Tensor<2>, owners: &[Continuation], heads: Heads) -> Tensor<2> {
        let first = self.all.dims()[0] as u32;
        for (owner, row) in owners.iter().zip(first..) {
            self.sequences.entry(owner.sequence).or_default().push(row);
        }
        self.all = Tensor::cat(vec![self.all.clone(), qkv], 0);
        let prefix_rows = self.prefixes.last().map_or(0, |rows| rows.end);
        let mut rows: Vec<u32> = (0..prefix_rows as u32).collect();
        let mut spans = Vec::with_capacity(owners.len());
        for owner in owners {
            let start = rows.len();
            rows.extend(self.sequences.get(&owner.sequence).into_iter().flatten());
            let end = rows.len();
            spans.push(Span {
                prefix: self.prefixes[owner.prefix].clone(),
                own: start..end,
                queries: end - 1..end,
                causal: true,
            });
        }
        attention(
            take_rows(self.all.clone(), &rows),
            &Spans::new(spans),
            heads,
        )
    }
}

/// In buffers of the processor's memory.
struct Host {
    /// Width of a head.
    width: usize,
    prefixes: Vec<Prefix>,
    /// Keys and values of each sequence, row after row.
    sequences: BTreeMap<usize, Vec<f32>>,
}

/// Keys and values of one prefix.
struct Prefix {
    rows: usize,
    /// `[key heads, head width, rows]`.
    keys: Vec<f32>,
    /// `[key heads, rows, head width]`.
    values: Vec<f32>,
}

impl Host {
    fn new(qkv: &Tensor<2>, prefixes: &[Range<usize>], heads: Heads) -> Self {
        let row = qkv.dims()[1];
        let width = heads.width(row);
        let values = read(qkv.clone());
        let prefix = |rows: &Range<usize>| Prefix::new(&values, row, rows.clone(), heads);
        Self {
            width,
            prefixes: prefixes.iter().map(prefix).collect(),
            sequences: BTreeMap::new(),
        }
    }

    fn step(&mut self, qkv: Tensor<2>, owners: &[Continuation], heads: Heads) -> Tensor<2> {
        let row = heads.row(self.width);
        let queries = heads.queries * self.width;
        let (device, dtype) = (qkv.device(), qkv.dtype());
        let values = read(qkv);
        for (owner, qkv) in owners.iter().zip(values.chunks_exact(row)) {
            self.sequences
                .entry(owner.sequence)
                .or_default()
                .extend(&qkv[queries..]);
        }
        let mut out = vec![0.0; owners.len() * queries];
        let (mut qkv_left, mut out_left) = (&values[..], &mut out[..]);
        let mut work = Vec::new();
        for owners in owners.chunk_by(|a, b| a.prefix == b.prefix) {
            let (own, rest) = qkv_left.split_at(owners.len() * row);
            let (out, out_rest) = out_left.split_at_mut(owners.len() * queries);
            work.push((own, owners, out));
            (qkv_left, out_left) = (rest, out_rest);
        }
        parallel::for_each(work, |(qkv, owners, out)| {
            self.attend(qkv, owners, heads, out)
        });
        let shape = [owners.len(), queries];
        let out = Tensor::<2>::from_data(TensorData::new(out, shape), &device);
        match dtype {
            DType::F32 => out,
            own => out.cast(own),
        }
    }

    /// Attention of the sequences of one prefix: over the prefix's rows, then over each one's own.
    fn attend(&self, qkv: &[f32], owners: &[Continuation], heads: Heads, out: &mut [f32]) {
        let (width, row) = (self.width, heads.row(self.width));
        let (queries, own_row) = (heads.queries * width, 2 * heads.keys * width);
        let prefix = &self.prefixes[owners[0].prefix];
        let own: Vec<&[f32]> = owners
            .iter()
            .map(|owner| &self.sequences[&owner.sequence][..])
            .collect();
        let longest = own.iter().map(|own| own.len() / own_row).max().unwrap_or(0);
        let stride = prefix.rows + longest;
        let scale = 1.0 / (width as f32).sqrt();
        let mut scores = vec![0.0; owners.len() * stride];
        for head in 0..heads.queries {
            let shared = head / (heads.queries / heads.keys);
            scores.fill(0.0);
            let query = MatRef::strided(&qkv[head * width..], [owners.len(), width], row);
            let keys = &prefix.keys[shared * width * prefix.rows..];
            let keys = MatRef::new(keys, [width, prefix.rows]);
            let out_of = MatMut::strided(&mut scores, [owners.len(), prefix.rows], stride);
            add_product(query, keys, out_of);
            for (which, own) in own.iter().enumerate() {
                let written = own.len() / own_row;
                let scores = &mut scores[which * stride..][..prefix.rows + written];
                let query = &qkv[which * row + head * width..][..width];
                kernels::dot_rows(
                    query,
                    &own[shared * width..],
                    own_row,
                    &mut scores[prefix.rows..],
                );
                kernels::softmax_row(scores, scale);
            }
            let weights = MatRef::strided(&scores, [owners.len(), prefix.rows], stride);
            let values = &prefix.values[shared * prefix.rows * width..];
            let values = MatRef::new(values, [prefix.rows, width]);
            let columns = MatMut::strided(&mut out[head * width..], [owners.len(), width], queries);
            add_product(weights, values, columns);
            for (which, own) in own.iter().enumerate() {
                let written = own.len() / own_row;
                let weights = &scores[which * stride + prefix.rows..][..written];
                let values = &own[(heads.keys + shared) * width..];
                let out = &mut out[which * queries + head * width..][..width];
                kernels::add_weighted_rows(weights, values, own_row, out);
            }
        }
    }
}

impl Prefix {
    fn new(qkv: &[f32], row: usize, rows: Range<usize>, heads: Heads) -> Self {
        let (width, count) = (heads.width(row), rows.len());
        let mut keys = vec![0.0; heads.keys * width * count];
        let mut values = Vec::with_capacity(keys.len());
        for head in 0..heads.keys {
            let key = (heads.queries + head) * width;
            let value = (heads.queries + heads.keys + head) * width;
            let keys = &mut keys[head * width * count..][..width * count];
            for (slot, at) in rows.clone().enumerate() {
                for (column, &key) in qkv[at * row + key..][..width].iter().enumerate() {
                    keys[column * count + slot] = key;
                }
                values.extend_from_slice(&qkv[at * row + value..][..width]);
            }
        }
        Self {
            rows: count,
            keys,
            values,
        }
    }
}

/// The values of a tensor of the CPU device in 32 bits.
fn read(tensor: Tensor<2>) -> Vec<f32> {
    host::values(tensor).expect("the CPU device's values are at hand")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::rng::StreamKey;

    fn random(name: &str, shape: [usize; 2]) -> Tensor<2> {
        let mut stream = StreamKey::new("cache test", 0).text(name).stream();
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|_| stream.normal() as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    #[test]
    fn both_stores_give_the_same_attention() {
        let heads = Heads {
            queries: 4,
            keys: 2,
        };
        let width = heads.row(6);
        let prefixes = [0..3, 3..8];
        let qkv = random("prefixes", [8, width]);
        let mut host = KvCache::new(&qkv, &prefixes, heads);
        assert!(matches!(host.store, Store::Host(_)));
        let store = Store::Tensors(Box::new(Rows::new(&qkv, &prefixes)));
        let mut tensors = KvCache { heads, store };
        // Two sequences continue each prefix; one of the first's ends early.
        for (round, slots) in [[0, 1, 2, 3].as_slice(), &[0, 1, 2, 3], &[1, 2, 3]]
            .into_iter()
            .enumerate()
        {
            let owners: Vec<Continuation> = slots
                .iter()
                .map(|&sequence| Continuation {
                    prefix: sequence / 2,
                    sequence,
                })
                .collect();
            let qkv = random(&format!("round {round}"), [slots.len(), width]);
            let left = read(host.step(qkv.clone(), &owners));
            let right = read(tensors.step(qkv, &owners));
            for (left, right) in left.iter().zip(&right) {
                assert!(
                    (left - right).abs() < 1e-5,
                    "round {round}: {left} and {right}"
                );
            }
        }
    }
}
