//! Keys and values on a device: a slot for each sequence, with room for rows to come.
//!
//! The slots of one prefix are rows of one product with its keys, and with its values. All sequences are equally long:
//! they begin together, and one that ends leaves its slot idle until the slots are dealt out anew.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::scores::{Scores, Seen};
use super::shares::weights;
use crate::host::send;
use crate::ops::gather::Gather;
use crate::ops::{Continuation, Heads};

/// Rows that there is room for at first; it doubles.
pub(in crate::ops) const ROOM: usize = 32;

/// The caches of all layers. Which sequence has which slot is the same in all of them, and goes to the device once.
pub(in crate::ops) struct Slots {
    heads: Heads,
    /// Rows of each prefix.
    rows: Vec<Range<usize>>,
    /// Rows of the longest.
    longest: usize,
    /// Brings the prefixes' rows into `[prefixes, longest]`.
    to_grid: Gather,
    layers: Vec<Layer>,
    /// The prefixes that have slots, in order.
    used: Vec<usize>,
    /// Slots of each of them.
    each: usize,
    /// The slot of each sequence that goes on.
    slot_of: BTreeMap<usize, usize>,
    /// Rows that every sequence has, that of the step under way included.
    written: usize,
    dealt: Option<Dealt>,
}

/// Keys and values of one layer.
struct Layer {
    /// The prefixes' keys, `[prefixes, key heads, head width, rows]`, and values, `[prefixes, key heads, rows, head width]`.
    keys: Tensor<4>,
    values: Tensor<4>,
    /// Keys and values of the slots, `[slots, key heads, room, head width]`; none before the first step.
    own: Option<[Tensor<4>; 2]>,
}

/// Which rows of a step go to which slots, while the sequences stay the same.
struct Dealt {
    owners: Vec<Continuation>,
    to_slots: Gather,
    from_slots: Gather,
    /// Rows of each prefix.
    lengths: Tensor<1, Int>,
}

impl Slots {
    /// For `all` packed rows, of which each prefix has some.
    pub(in crate::ops) fn new(
        all: usize,
        prefixes: &[Range<usize>],
        heads: Heads,
        device: &Device,
    ) -> Self {
        let longest = prefixes.iter().map(Range::len).max().unwrap_or(0);
        let places: Vec<Option<u32>> = prefixes
            .iter()
            .flat_map(|rows| {
                let rows = rows.clone().map(|row| Some(row as u32));
                rows.chain(std::iter::repeat(None)).take(longest)
            })
            .collect();
        Self {
            heads,
            rows: prefixes.to_vec(),
            longest,
            to_grid: Gather::new(&places, all, device),
            layers: Vec::new(),
            used: Vec::new(),
            each: 0,
            slot_of: BTreeMap::new(),
            written: 0,
            dealt: None,
        }
    }

    /// Adds a layer from its packed queries, keys and values of the prefixes.
    pub(in crate::ops) fn push(&mut self, qkv: &Tensor<2>) {
        let [all, row] = qkv.dims();
        let (heads, width) = (self.heads, self.heads.width(row));
        let part = |first: usize| {
            let columns = first * width..(first + heads.keys) * width;
            let part = qkv.clone().slice([0..all, columns]);
            let shape = [self.rows.len(), self.longest, heads.keys, width];
            self.to_grid.take(part).reshape(shape)
        };
        self.layers.push(Layer {
            keys: part(heads.queries).permute([0, 2, 3, 1]),
            values: part(heads.queries + heads.keys).swap_dims(1, 2),
            own: None,
        });
    }

    /// Begins a step in which each of `owners` has a row.
    pub(in crate::ops) fn begin(&mut self, owners: &[Continuation]) {
        let same = |dealt: &Dealt| dealt.owners == owners;
        if !self.dealt.as_ref().is_some_and(same)
            && let Some(device) = self.layers.first().map(|layer| layer.keys.device())
        {
            self.deal(owners, &device);
        }
        self.written += 1;
    }

    /// The step's rows in the layer `index`.
    pub(in crate::ops) fn attend(&mut self, index: usize, qkv: Tensor<2>) -> Tensor<2> {
        let dealt = self.dealt.take().expect("the slots are dealt out");
        let qkv = dealt.to_slots.take(qkv);
        let out = self.attend_slots(index, qkv, &dealt);
        let out = dealt.from_slots.take(out);
        self.dealt = Some(dealt);
        out
    }

    /// Gives the sequences slots: those that they have, while most of the slots are in use.
    fn deal(&mut self, owners: &[Continuation], device: &Device) {
        let counts = counts(owners);
        let each = counts.iter().map(|&(_, count)| count).max().unwrap_or(0);
        let first = self.dealt.is_none();
        if first || 2 * counts.len() * each <= self.used.len() * self.each {
            self.move_to(&counts, each, owners, device);
        }
        let slots = self.used.len() * self.each;
        let mut rows = vec![None; slots];
        let places: Vec<Option<u32>> = owners
            .iter()
            .enumerate()
            .map(|(row, owner)| {
                let slot = *self
                    .slot_of
                    .get(&owner.sequence)
                    .expect("a sequence that goes on has not ended");
                rows[slot] = Some(row as u32);
                Some(slot as u32)
            })
            .collect();
        self.slot_of
            .retain(|sequence, _| owners.iter().any(|owner| owner.sequence == *sequence));
        self.dealt = Some(Dealt {
            owners: owners.to_vec(),
            to_slots: Gather::new(&rows, owners.len(), device),
            from_slots: Gather::new(&places, slots, device),
            lengths: self.lengths(device),
        });
    }

    /// New slots, `each` for every prefix of `counts`, with what the old ones of the same sequences hold.
    fn move_to(
        &mut self,
        counts: &[(usize, usize)],
        each: usize,
        owners: &[Continuation],
        device: &Device,
    ) {
        let first = self.dealt.is_none();
        let mut slot_of = BTreeMap::new();
        let mut old = vec![0; counts.len() * each];
        let mut owners = owners.iter();
        for (index, &(_, count)) in counts.iter().enumerate() {
            for (slot, owner) in (index * each..).zip(owners.by_ref().take(count)) {
                if !first {
                    let kept = self.slot_of.get(&owner.sequence);
                    old[slot] = *kept.expect("a sequence that goes on has not ended");
                }
                slot_of.insert(owner.sequence, slot);
            }
        }
        let used: Vec<usize> = counts.iter().map(|&(prefix, _)| prefix).collect();
        let had: Vec<usize> = match first {
            true => (0..self.rows.len()).collect(),
            false => std::mem::take(&mut self.used),
        };
        // Prefixes that nobody continues any more go.
        let at: Vec<usize> = used
            .iter()
            .filter_map(|prefix| had.iter().position(|had| had == prefix))
            .collect();
        let kept = (at.len() < had.len()).then(|| indices(&at, device));
        let moved = (!first).then(|| indices(&old, device));
        for layer in &mut self.layers {
            layer.own = Some(match (layer.own.take(), &moved) {
                (Some(own), Some(moved)) => own.map(|own| own.select(0, moved.clone())),
                _ => {
                    let [_, keys, width, _] = layer.keys.dims();
                    let shape = [old.len(), keys, ROOM, width];
                    let empty = Tensor::zeros(shape, (device, layer.keys.dtype()));
                    [empty.clone(), empty]
                }
            });
            if let Some(kept) = &kept {
                layer.keys = layer.keys.clone().select(0, kept.clone());
                layer.values = layer.values.clone().select(0, kept.clone());
            }
        }
        (self.used, self.each, self.slot_of) = (used, each, slot_of);
    }

    fn lengths(&self, device: &Device) -> Tensor<1, Int> {
        let lengths: Vec<usize> = self.used.iter().map(|&at| self.rows[at].len()).collect();
        indices(&lengths, device)
    }

    /// Attention of all slots: over the prefixes' rows, then over each one's own.
    fn attend_slots(&mut self, index: usize, qkv: Tensor<2>, dealt: &Dealt) -> Tensor<2> {
        let (prefixes, each) = (self.used.len(), self.each);
        let slots = prefixes * each;
        let (width, keys) = (self.heads.width(qkv.dims()[1]), self.heads.keys);
        let layer = &mut self.layers[index];
        let group = self.heads.queries / keys;
        let part = |first: usize, heads: usize| {
            let columns = first * width..(first + heads) * width;
            qkv.clone().slice([0..slots, columns])
        };
        let new = [self.heads.queries, self.heads.queries + keys]
            .map(|first| part(first, keys).reshape([slots, keys, 1, width]));
        let [own_keys, own_values] = layer.append(self.written - 1, new);

        let query = part(0, self.heads.queries).reshape([slots, keys, group, width]);
        let own_scores = query.clone().matmul(own_keys.swap_dims(2, 3));
        let of_prefix = query
            .reshape([prefixes, each, keys, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, keys, each * group, width]);
        let scores = Scores {
            prefix: of_prefix.matmul(layer.keys.clone()),
            own: own_scores,
        };
        let seen = Seen {
            lengths: &dealt.lengths,
            own: self.written,
            each,
            scale: 1.0 / (width as f64).sqrt(),
        };
        let weights = weights(scores, &seen);
        let mixed = weights
            .prefix
            .matmul(layer.values.clone())
            .reshape([prefixes, keys, each, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([slots, keys, group, width]);
        (mixed + weights.own.matmul(own_values)).reshape([slots, keys * group * width])
    }
}

impl Layer {
    /// Adds the row `at` to each slot; gives all rows that there is room for, `[slots, key heads, room, head width]`.
    fn append(&mut self, at: usize, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let own = self.own.take().expect("the slots are dealt out");
        let [slots, keys, room, width] = own[0].dims();
        let grown = match at < room {
            true => own,
            false => own.map(|own| {
                let more = own.zeros_like();
                Tensor::cat(vec![own, more], 2)
            }),
        };
        // The buffers belong to this cache alone here, so that the rows are written in place.
        let [own_keys, own_values] = grown;
        let [new_keys, new_values] = new;
        let place = [0..slots, 0..keys, at..at + 1, 0..width];
        let own = [
            own_keys.slice_assign(place.clone(), new_keys),
            own_values.slice_assign(place, new_values),
        ];
        self.own = Some(own.clone());
        own
    }
}

/// The prefixes of neighbouring rows, and how many rows each has.
fn counts(owners: &[Continuation]) -> Vec<(usize, usize)> {
    owners
        .chunk_by(|a, b| a.prefix == b.prefix)
        .map(|owners| (owners[0].prefix, owners.len()))
        .collect()
}

fn indices(places: &[usize], device: &Device) -> Tensor<1, Int> {
    let places: Vec<i32> = places.iter().map(|&place| place as i32).collect();
    let count = places.len();
    send(TensorData::new(places, [count]), device)
}
