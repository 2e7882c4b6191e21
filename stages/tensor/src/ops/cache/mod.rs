//! Keys and values of sequences that grow row by row, for one attention layer.
//!
//! The rows of a prefix are kept once and shared by all sequences that continue it; each of these adds its own.

mod host;

use std::ops::Range;

use burn::tensor::Tensor;

use super::composed::Slots;
use super::{Continuation, Heads, on_host};
use host::Host;

/// The cache of one layer for a group of prefixes.
pub struct KvCache {
    heads: Heads,
    store: Store,
}

enum Store {
    Host(Host),
    Tensors(Box<Slots>),
}

impl KvCache {
    /// From the packed queries, keys and values of the prefixes, `[rows, (heads.queries + 2 * heads.keys) * head
    /// width]`; `prefixes` are the rows of each.
    pub fn new(qkv: &Tensor<2>, prefixes: &[Range<usize>], heads: Heads) -> Self {
        let store = match on_host(qkv) {
            true => Store::Host(Host::new(qkv, prefixes, heads)),
            false => Store::Tensors(Box::new(Slots::new(qkv, prefixes, heads))),
        };
        Self { heads, store }
    }

    /// Adds each row to the sequence that `owners` names for it, and attends from it: `[rows, heads.queries * head
    /// width]`. Rows of one prefix follow each other. A sequence that a step leaves out has ended.
    ///
    /// # Panics
    /// On a device other than the CPU, if a sequence goes on that had ended.
    pub fn step(&mut self, qkv: Tensor<2>, owners: &[Continuation]) -> Tensor<2> {
        match &mut self.store {
            Store::Host(host) => host.step(qkv, owners, self.heads),
            Store::Tensors(slots) => slots.step(qkv, owners),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::host::read;
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
        let store = Store::Tensors(Box::new(Slots::new(&qkv, &prefixes, heads)));
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
            let left = read(host.step(qkv.clone(), &owners), <[f32]>::to_vec);
            let right = read(tensors.step(qkv, &owners), <[f32]>::to_vec);
            for (left, right) in left.iter().zip(&right) {
                assert!(
                    (left - right).abs() < 1e-5,
                    "round {round}: {left} and {right}"
                );
            }
        }
    }
}
