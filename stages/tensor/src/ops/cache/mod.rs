//! Keys and values of sequences that grow row by row, for all attention layers of a decoder.
//!
//! The rows of a prefix are kept once and shared by all sequences that continue it; each of these adds its own. Prefixes may
//! enter while sequences of others are under way, and go when nothing continues them any more.

mod ended;
mod host;

use std::ops::Range;

use burn::tensor::Tensor;

use super::device::{ROOM, Slots};
use super::{Continuation, Heads};
use crate::host::on_host;
use ended::Ended;
use host::Host;

/// The cache for sequences that are worked on together.
pub struct KvCache {
    heads: Heads,
    /// The rows of the prefixes that entered last, among those of a push.
    entered: Vec<Range<usize>>,
    /// The number of the first of them.
    first: usize,
    /// The layer that the next push is of.
    layer: usize,
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

    /// Without prefixes yet.
    pub fn new(heads: Heads) -> Self {
        Self {
            heads,
            entered: Vec::new(),
            first: 0,
            layer: 0,
            owners: Vec::new(),
            store: Store::Host(Vec::new()),
        }
    }

    /// Adds prefixes, numbered on from those before; these are the rows of each in what every layer is
    /// [given](KvCache::push) next.
    pub fn enter(&mut self, prefixes: &[Range<usize>]) {
        self.first += self.entered.len();
        self.entered = prefixes.to_vec();
        self.layer = 0;
        if let Store::Tensors(slots) = &mut self.store {
            slots.enter(self.first, prefixes);
        }
    }

    /// Gives the next layer the packed queries, keys and values of the prefixes that entered last, `[rows, (heads.queries +
    /// 2 * heads.keys) * head width]`. The first that enter tell how many layers there are.
    ///
    /// # Panics
    /// If the layers are not all on one device.
    pub fn push(&mut self, qkv: &Tensor<2>) {
        match &mut self.store {
            Store::Host(layers) if on_host(qkv) => {
                if layers.len() == self.layer {
                    layers.push(Host::new(self.heads.width(qkv.dims()[1])));
                }
                layers[self.layer].enter(qkv, &self.entered, self.heads);
            }
            Store::Host(layers) => {
                assert!(layers.is_empty(), "all layers are on one device");
                self.store = self.slots(qkv);
            }
            Store::Tensors(slots) => slots.push(self.layer, qkv),
        }
        self.layer += 1;
    }

    /// The store of a device whose first layer is `qkv`.
    fn slots(&self, qkv: &Tensor<2>) -> Store {
        let mut slots = Slots::new(self.heads, qkv.device());
        slots.enter(self.first, &self.entered);
        slots.push(0, qkv);
        Store::Tensors(Box::new(slots))
    }

    /// Begins a step that adds a row to each sequence of `owners`. Rows of one prefix follow each other. A sequence that
    /// a step leaves out has ended, and a prefix that none continues goes.
    ///
    /// # Panics
    /// On a device other than the CPU, if a sequence goes on that had ended.
    pub fn begin(&mut self, owners: &[Continuation]) {
        match &mut self.store {
            Store::Host(layers) => {
                if self.owners != owners {
                    let entered = self.first..self.first + self.entered.len();
                    let ended = Ended::between(&self.owners, entered, owners);
                    layers.iter_mut().for_each(|layer| layer.free(&ended));
                    self.owners = owners.to_vec();
                }
            }
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

    const HEADS: Heads = Heads {
        queries: 4,
        keys: 2,
    };

    /// Sequences of which two continue each prefix.
    fn pairs(sequences: &[usize]) -> Vec<Continuation> {
        let pair = |&sequence: &usize| Continuation {
            prefix: sequence / 2,
            sequence,
        };
        sequences.iter().map(pair).collect()
    }

    /// The same cache in both stores.
    struct Both {
        host: KvCache,
        tensors: KvCache,
        /// Steps so far, which name the numbers of each.
        steps: usize,
    }

    impl Both {
        fn enter(&mut self, prefixes: &[Range<usize>]) {
            let rows = prefixes.iter().map(|rows| rows.end).max().unwrap_or(0);
            let qkv = random(&format!("prefixes {}", self.steps), [rows, HEADS.row(6)]);
            self.host.enter(prefixes);
            self.host.push(&qkv);
            self.tensors.enter(prefixes);
            match &self.tensors.store {
                Store::Host(_) => self.tensors.store = self.tensors.slots(&qkv),
                Store::Tensors(_) => self.tensors.push(&qkv),
            }
            assert!(matches!(self.host.store, Store::Host(_)));
        }

        fn step(&mut self, sequences: &[usize]) {
            let owners = pairs(sequences);
            let name = format!("step {}", self.steps);
            let qkv = random(&name, [owners.len(), HEADS.row(6)]);
            self.host.begin(&owners);
            self.tensors.begin(&owners);
            let left = read(self.host.attend(0, qkv.clone()), <[f32]>::to_vec);
            let right = read(self.tensors.attend(0, qkv), <[f32]>::to_vec);
            for (left, right) in left.iter().zip(&right) {
                assert!((left - right).abs() < 1e-5, "{name}: {left} and {right}");
            }
            self.steps += 1;
        }
    }

    #[test]
    fn both_stores_give_the_same_attention() {
        let mut both = Both {
            host: KvCache::new(HEADS),
            tensors: KvCache::new(HEADS),
            steps: 0,
        };
        both.enter(&[0..3, 3..8]);
        both.step(&[0, 1, 2, 3]);
        both.step(&[0, 1, 2, 3]);
        // One sequence of the first prefix ends early.
        both.step(&[1, 2, 3]);
        // A longer prefix comes; the second has ended meanwhile, and of another that comes nothing goes on.
        both.enter(&[2..9, 0..2]);
        both.step(&[1, 4, 5]);
        // Longer than a sequence has room for at first.
        for _ in 0..KvCache::ROOM + 1 {
            both.step(&[1, 5]);
        }
        // Of what enters first nothing gets as far as a step.
        both.enter(&[0..4, 4..5]);
        both.enter(&[0..1, 1..3]);
        both.step(&[5, 12, 13, 14]);
        both.step(&[13, 14]);
        both.step(&[14]);
    }
}
