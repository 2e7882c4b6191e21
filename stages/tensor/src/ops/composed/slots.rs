//! Keys and values on a device: a slot for each sequence, with room for rows to come.
//!
//! The slots of one prefix are rows of one product with its keys, and with its values. All sequences are equally long:
//! they begin together, and one that ends leaves its slot idle until the slots are dealt out anew.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::attention::weights;
use super::gather::Gather;
use crate::ops::{Continuation, Heads};

/// Rows that there is room for at first; it doubles.
const ROOM: usize = 32;

/// The cache of one layer.
pub(in crate::ops) struct Slots {
    heads: Heads,
    /// Values of a head.
    width: usize,
    prefixes: Prefixes,
    /// The prefixes that have slots, in order.
    used: Vec<usize>,
    /// Slots of each of them.
    each: usize,
    /// The slot of each sequence that goes on.
    slot_of: BTreeMap<usize, usize>,
    /// Rows that every sequence has.
    written: usize,
    /// `[slots, key heads, room, head width]`; none before the first step.
    own: Option<[Tensor<4>; 2]>,
    dealt: Option<Dealt>,
}

/// The prefixes' keys, `[prefixes, key heads, head width, rows]`, and values, `[prefixes, key heads, rows, head width]`.
struct Prefixes {
    rows: Vec<Range<usize>>,
    longest: usize,
    keys: Tensor<4>,
    values: Tensor<4>,
}

/// Which rows of a step go to which slots, while the sequences stay the same.
struct Dealt {
    owners: Vec<Continuation>,
    to_slots: Gather,
    from_slots: Gather,
    /// Rows of padding among those of the prefixes, `[prefixes, 1, rows]`; none where all are equally long.
    padding: Option<Tensor<3, Bool>>,
}

impl Slots {
    pub(in crate::ops) fn new(qkv: &Tensor<2>, prefixes: &[Range<usize>], heads: Heads) -> Self {
        let width = heads.width(qkv.dims()[1]);
        Self {
            heads,
            width,
            prefixes: Prefixes::new(qkv, prefixes, heads),
            used: Vec::new(),
            each: 0,
            slot_of: BTreeMap::new(),
            written: 0,
            own: None,
            dealt: None,
        }
    }

    pub(in crate::ops) fn step(&mut self, qkv: Tensor<2>, owners: &[Continuation]) -> Tensor<2> {
        let device = qkv.device();
        if self
            .dealt
            .as_ref()
            .is_none_or(|dealt| dealt.owners != owners)
        {
            self.deal(owners, &device);
        }
        let dealt = self.dealt.take().expect("the slots are dealt out");
        let qkv = dealt.to_slots.take(qkv);
        let out = self.attend(qkv, &dealt);
        let out = dealt.from_slots.take(out);
        self.dealt = Some(dealt);
        out
    }

    /// Gives the sequences slots: those that they have, while most of the slots are in use.
    fn deal(&mut self, owners: &[Continuation], device: &Device) {
        let counts = counts(owners);
        let each = counts.iter().map(|&(_, count)| count).max().unwrap_or(0);
        if self.own.is_none() || 2 * counts.len() * each <= self.used.len() * self.each {
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
            padding: self.prefixes.padding(&self.used, device),
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
        let mut slot_of = BTreeMap::new();
        let mut old = vec![0; counts.len() * each];
        let mut owners = owners.iter();
        for (index, &(_, count)) in counts.iter().enumerate() {
            for (slot, owner) in (index * each..).zip(owners.by_ref().take(count)) {
                if self.own.is_some() {
                    let kept = self.slot_of.get(&owner.sequence);
                    old[slot] = *kept.expect("a sequence that goes on has not ended");
                }
                slot_of.insert(owner.sequence, slot);
            }
        }
        let used: Vec<usize> = counts.iter().map(|&(prefix, _)| prefix).collect();
        match self.own.take() {
            Some(own) => {
                let old = indices(&old, device);
                self.own = Some(own.map(|own| own.select(0, old.clone())));
                // Prefixes that nobody continues any more go.
                let at: Vec<usize> = used
                    .iter()
                    .filter_map(|prefix| self.used.iter().position(|used| used == prefix))
                    .collect();
                if at.len() < self.used.len() {
                    self.prefixes.keep(&at, device);
                }
            }
            None => {
                let shape = [old.len(), self.heads.keys, ROOM, self.width];
                let empty = Tensor::zeros(shape, (device, self.prefixes.keys.dtype()));
                self.own = Some([empty.clone(), empty]);
                if used.len() < self.prefixes.rows.len() {
                    self.prefixes.keep(&used, device);
                }
            }
        }
        (self.used, self.each, self.slot_of) = (used, each, slot_of);
    }

    /// Attention of all slots: over the prefixes' rows, then over each one's own.
    fn attend(&mut self, qkv: Tensor<2>, dealt: &Dealt) -> Tensor<2> {
        let (prefixes, each) = (self.used.len(), self.each);
        let slots = prefixes * each;
        let (width, keys) = (self.width, self.heads.keys);
        let group = self.heads.queries / keys;
        let part = |first: usize, heads: usize| {
            let columns = first * width..(first + heads) * width;
            qkv.clone().slice([0..slots, columns])
        };
        let new = [self.heads.queries, self.heads.queries + keys]
            .map(|first| part(first, keys).reshape([slots, keys, 1, width]));
        let [own_keys, own_values] = self.append(new);

        let query = part(0, self.heads.queries).reshape([slots, keys, group, width]);
        let own_scores = query.clone().matmul(own_keys.swap_dims(2, 3));
        let of_prefix = query
            .reshape([prefixes, each, keys, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, keys, each * group, width]);
        let longest = self.prefixes.longest;
        let scores = of_prefix
            .matmul(self.prefixes.keys.clone())
            .reshape([prefixes, keys, each, group, longest])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, slots / prefixes * keys * group, longest]);
        let scores = match &dealt.padding {
            None => scores,
            Some(padding) => {
                let hidden = padding.clone().repeat_dim(1, scores.dims()[1]);
                scores.mask_fill(hidden, f32::NEG_INFINITY)
            }
        }
        .reshape([slots, keys, group, longest]);
        let weights = weights(Tensor::cat(vec![scores, own_scores], 3), width, |scores| {
            scores
        });
        let all = weights.dims()[3];
        let own_weights = weights
            .clone()
            .slice([0..slots, 0..keys, 0..group, longest..all]);
        let weights = weights
            .slice([0..slots, 0..keys, 0..group, 0..longest])
            .reshape([prefixes, each, keys, group, longest])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, keys, each * group, longest]);
        let mixed = weights
            .matmul(self.prefixes.values.clone())
            .reshape([prefixes, keys, each, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([slots, keys, group, width]);
        (mixed + own_weights.matmul(own_values)).reshape([slots, keys * group * width])
    }

    /// Adds a row to each slot; gives all rows written so far, `[slots, key heads, rows, head width]`.
    fn append(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let own = self.own.take().expect("the slots are dealt out");
        let [slots, keys, room, width] = own[0].dims();
        let at = self.written;
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
        self.written += 1;
        let rows = own
            .each_ref()
            .map(|own| own.clone().slice([0..slots, 0..keys, 0..at + 1, 0..width]));
        self.own = Some(own);
        rows
    }
}

impl Prefixes {
    fn new(qkv: &Tensor<2>, rows: &[Range<usize>], heads: Heads) -> Self {
        let [all, row] = qkv.dims();
        let width = heads.width(row);
        let longest = rows.iter().map(Range::len).max().unwrap_or(0);
        let places: Vec<Option<u32>> = rows
            .iter()
            .flat_map(|rows| {
                let rows = rows.clone().map(|row| Some(row as u32));
                rows.chain(std::iter::repeat(None)).take(longest)
            })
            .collect();
        let gather = Gather::new(&places, all, &qkv.device());
        let part = |first: usize| {
            let columns = first * width..(first + heads.keys) * width;
            gather.take(qkv.clone().slice([0..all, columns])).reshape([
                rows.len(),
                longest,
                heads.keys,
                width,
            ])
        };
        Self {
            rows: rows.to_vec(),
            longest,
            keys: part(heads.queries).permute([0, 2, 3, 1]),
            values: part(heads.queries + heads.keys).swap_dims(1, 2),
        }
    }

    /// Of the prefixes that are there the ones at `places`.
    fn keep(&mut self, places: &[usize], device: &Device) {
        let places = indices(places, device);
        self.keys = self.keys.clone().select(0, places.clone());
        self.values = self.values.clone().select(0, places);
    }

    fn padding(&self, used: &[usize], device: &Device) -> Option<Tensor<3, Bool>> {
        let rows = || used.iter().map(|&prefix| self.rows[prefix].len());
        if rows().all(|rows| rows == self.longest) {
            return None;
        }
        let padding = rows().flat_map(|rows| (0..self.longest).map(move |row| row >= rows));
        let padding = TensorData::new(
            padding.collect::<Vec<bool>>(),
            [used.len(), 1, self.longest],
        );
        Some(Tensor::from_data(padding, device))
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
    Tensor::from_data(TensorData::new(places, [count]), device)
}
