//! Keys and values of sequences that grow row by row, for all attention layers of a decoder.
//!
//! The rows of a prefix are kept once and shared by all sequences that continue it; each of these adds its own.

mod host;

use std::ops::Range;

use burn::tensor::Tensor;

use super::device::{ROOM, Slots};
use super::{Continuation, Heads};
use crate::host::on_host;
use host::Host;

/// The cache for a group of prefixes.
pub struct KvCache {
    heads: Heads,
    /// The rows of each prefix.
    prefixes: Vec<Range<usize>>,
    /// Whose the rows of the step under way are.
    owners: Vec<Continuation>,
    store: Store,
}

enum Store {
    /// A layer each.
    Host(Vec<Host>),
    Tensors(Box<Slots>),
}

impl KvCache {
    /// Rows that a sequence has room for at first on devices other than the CPU; it doubles.
    pub const ROOM: usize = ROOM;

    /// Without a layer yet; `prefixes` are the rows of each.
    pub fn new(prefixes: &[Range<usize>], heads: Heads) -> Self {
        Self {
            heads,
            prefixes: prefixes.to_vec(),
            owners: Vec::new(),
            store: Store::Host(Vec::new()),
        }
    }

    /// Adds the next layer, from its packed queries, keys and values of the prefixes, `[rows, (heads.queries + 2 *
    /// heads.keys) * head width]`.
    ///
    /// # Panics
    /// If the layers are not all on one device.
    pub fn push(&mut self, qkv: &Tensor<2>) {
        match &mut self.store {
            Store::Host(layers) if on_host(qkv) => {
                layers.push(Host::new(qkv, &self.prefixes, self.heads));
            }
            Store::Host(layers) => {
                assert!(layers.is_empty(), "all layers are on one device");
                self.store = self.slots(qkv);
            }
            Store::Tensors(slots) => slots.push(qkv),
        }
    }

    /// The store of a device whose first layer is `qkv`.
    fn slots(&self, qkv: &Tensor<2>) -> Store {
        let all = qkv.dims()[0];
        let mut slots = Slots::new(all, &self.prefixes, self.heads, &qkv.device());
        slots.push(qkv);
        Store::Tensors(Box::new(slots))
    }

    /// Begins a step that adds a row to each sequence of `owners`. Rows of one prefix follow each other. A sequence that
    /// a step leaves out has ended.
    ///
    /// # Panics
    /// On a device other than the CPU, if a sequence goes on that had ended.
    pub fn begin(&mut self, owners: &[Continuation]) {
        match &mut self.store {
            Store::Host(_) => self.owners = owners.to_vec(),
            Store::Tensors(slots) => slots.begin(owners),
        }
    }

    /// Adds the step's rows to the layer `index`, and attends from them: `[rows, heads.queries * head width]`. A step has
    /// each layer once.
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn attend(&mut self, index: usize, qkv: Tensor<2>) -> Tensor<2> {
        match &mut self.store {
            Store::Host(layers) => layers[index].step(qkv, &self.owners, self.heads),
            Store::Tensors(slots) => slots.attend(index, qkv),
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
        let mut host = KvCache::new(&prefixes, heads);
        let mut tensors = KvCache::new(&prefixes, heads);
        tensors.store = tensors.slots(&qkv);
        host.push(&qkv);
        assert!(matches!(host.store, Store::Host(_)));
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
            host.begin(&owners);
            tensors.begin(&owners);
            let left = read(host.attend(0, qkv.clone()), <[f32]>::to_vec);
            let right = read(tensors.attend(0, qkv), <[f32]>::to_vec);
            for (left, right) in left.iter().zip(&right) {
                assert!(
                    (left - right).abs() < 1e-5,
                    "round {round}: {left} and {right}"
                );
            }
        }
    }
}
