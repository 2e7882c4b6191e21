//! Keys and values in the processor's memory.

use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};

use super::ended::Ended;
use crate::kernels::{self, MatMut, MatRef, add_product, parallel};
use crate::ops::{Continuation, Heads, fused};

/// Rows that a sequence has room for at first.
const FIRST_ROWS: usize = 8;

/// In buffers of the processor's memory.
pub(super) struct Host {
    /// Width of a head.
    width: usize,
    /// By their numbers; those that went are empty.
    prefixes: Vec<Prefix>,
    /// Keys and values of each sequence, row after row, by their numbers; those that ended are empty.
    sequences: Vec<Vec<f32>>,
}

/// Keys and values of one prefix.
#[derive(Default)]
struct Prefix {
    rows: usize,
    /// `[key heads, head width, rows]`.
    keys: Vec<f32>,
    /// `[key heads, rows, head width]`.
    values: Vec<f32>,
}

impl Host {
    pub(super) fn new(width: usize) -> Self {
        Self {
            width,
            prefixes: Vec::new(),
            sequences: Vec::new(),
        }
    }

    pub(super) fn enter(&mut self, qkv: &Tensor<2>, prefixes: &[Range<usize>], heads: Heads) {
        let row = qkv.dims()[1];
        let entered = read(qkv.clone(), |values| {
            let prefix = |rows: &Range<usize>| Prefix::new(values, row, rows.clone(), heads);
            prefixes.iter().map(prefix).collect::<Vec<_>>()
        });
        self.prefixes.extend(entered);
    }

    /// Frees what no step asks for any more.
    pub(super) fn free(&mut self, ended: &Ended) {
        for &prefix in &ended.prefixes {
            self.prefixes[prefix] = Prefix::default();
        }
        for &sequence in &ended.sequences {
            self.sequences[sequence] = Vec::new();
        }
    }

    pub(super) fn step(
        &mut self,
        qkv: Tensor<2>,
        owners: &[Continuation],
        heads: Heads,
    ) -> Tensor<2> {
        let (device, dtype) = (qkv.device(), qkv.dtype());
        let shape = [owners.len(), heads.queries * self.width];
        let out = read(qkv, |values| self.attend_all(values, owners, heads));
        let out = Tensor::<2>::from_data(TensorData::new(out, shape), &device);
        match dtype {
            DType::F32 => out,
            own => out.cast(own),
        }
    }

    /// Adds each row to its sequence, and attends from it.
    fn attend_all(&mut self, values: &[f32], owners: &[Continuation], heads: Heads) -> Vec<f32> {
        let row = heads.row(self.width);
        let queries = heads.queries * self.width;
        let known = owners.iter().map(|owner| owner.sequence + 1).max();
        if let Some(known) = known.filter(|known| *known > self.sequences.len()) {
            self.sequences.resize_with(known, Vec::new);
        }
        for (owner, qkv) in owners.iter().zip(values.chunks_exact(row)) {
            let sequence = &mut self.sequences[owner.sequence];
            if sequence.is_empty() {
                sequence.reserve(FIRST_ROWS * (row - queries));
            }
            sequence.extend_from_slice(&qkv[queries..]);
        }
        let mut out = vec![0.0; owners.len() * queries];
        let (mut qkv_left, mut out_left) = (values, &mut out[..]);
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
        out
    }

    /// Attention of the sequences of one prefix: over the prefix's rows, then over each one's own.
    fn attend(&self, qkv: &[f32], owners: &[Continuation], heads: Heads, out: &mut [f32]) {
        let (width, row) = (self.width, heads.row(self.width));
        let (queries, own_row) = (heads.queries * width, 2 * heads.keys * width);
        let prefix = &self.prefixes[owners[0].prefix];
        let own: Vec<&[f32]> = owners
            .iter()
            .map(|owner| &self.sequences[owner.sequence][..])
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

/// Calls `f` with the values of a tensor of the CPU device, in 32 bits.
pub(super) fn read<T>(tensor: Tensor<2>, f: impl FnOnce(&[f32]) -> T) -> T {
    let tensor = match tensor.dtype() {
        DType::F32 => tensor,
        _ => tensor.cast(DType::F32),
    };
    fused::with_values(tensor, f)
}
