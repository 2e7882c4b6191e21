//! Keys and values on a device: a slot for each sequence, with room for rows to come.
//!
//! The slots of one prefix are rows of one product with its keys, and with its values. A sequence that ends leaves its slot
//! idle until the slots are dealt out anew: when prefixes enter, or half of the slots are idle.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::append::append;
use super::product::product;
use super::scores::{Scores, Seen};
use super::shares::weights;
use crate::host::send;
use crate::ops::gather::Gather;
use crate::ops::{Continuation, Heads, joined};

/// Rows that there is room for at first; it doubles.
pub(in crate::ops) const ROOM: usize = 32;

const GOES_ON: &str = "a sequence that goes on has not ended";

/// The caches of all layers. Which sequence has which slot is the same in all of them, and goes to the device once.
pub(in crate::ops) struct Slots {
    heads: Heads,
    device: Device,
    layers: Vec<Layer>,
    /// The prefixes that have slots, in order.
    used: Vec<Prefix>,
    /// Rows that there are for each of them.
    longest: usize,
    /// Prefixes that have none yet, as they entered; answers may end before their first step, so that others enter before it.
    entering: Vec<Entering>,
    /// Slots of each prefix.
    each: usize,
    /// The slot of each sequence that goes on.
    slot_of: BTreeMap<usize, usize>,
    /// Rows of each slot's sequence, that of the step under way included; 0 of an idle one.
    written: Vec<usize>,
    /// Rows that there is room for in each slot.
    room: usize,
    dealt: Option<Dealt>,
}

#[derive(Clone, Copy)]
struct Prefix {
    number: usize,
    rows: usize,
}

struct Entering {
    prefixes: Vec<Prefix>,
    longest: usize,
    /// Where the rows of each are among those of a push.
    places: Vec<Option<u32>>,
    /// Brings them into `[prefixes, longest]`, once it is known among how many rows they are.
    to_grid: Option<Gather>,
}

/// Keys and values of one layer.
#[derive(Default)]
struct Layer {
    prefixes: Option<Grid>,
    /// Of the prefixes that have no slots yet.
    entered: Vec<Grid>,
    /// Keys and values of the slots, `[slots, key heads, room, head width]`; none before the first step.
    own: Option<[Tensor<4>; 2]>,
}

/// Keys and values of prefixes.
struct Grid {
    /// `[prefixes, key heads, head width, rows]`.
    keys: Tensor<4>,
    /// `[prefixes, key heads, rows, head width]`.
    values: Tensor<4>,
}

/// Which rows of a step go to which slots, while the sequences stay the same.
struct Dealt {
    owners: Vec<Continuation>,
    /// The slot of each of them.
    places: Vec<usize>,
    to_slots: Gather,
    from_slots: Gather,
    /// Rows of each prefix.
    lengths: Tensor<1, Int>,
    /// Rows of each slot in the step under way.
    written: Tensor<1, Int>,
}

/// Where what the slots hold comes from when they are dealt out anew.
struct Moves {
    /// For each prefix which it was among those that had slots and those that entered; none if nothing moves.
    prefixes: Option<Tensor<1, Int>>,
    longest: usize,
    /// For each slot the one whose rows it takes over; none before the first step.
    slots: Option<Tensor<1, Int>>,
    count: usize,
    room: usize,
}

impl Slots {
    /// Without prefixes yet.
    pub(in crate::ops) fn new(heads: Heads, device: Device) -> Self {
        Self {
            heads,
            device,
            layers: Vec::new(),
            used: Vec::new(),
            longest: 0,
            entering: Vec::new(),
            each: 0,
            slot_of: BTreeMap::new(),
            written: Vec::new(),
            room: ROOM,
            dealt: None,
        }
    }

    /// Takes prefixes up, numbered from `first` on, which have these rows in what every layer is given next.
    pub(in crate::ops) fn enter(&mut self, first: usize, prefixes: &[Range<usize>]) {
        let longest = prefixes.iter().map(Range::len).max().unwrap_or(0);
        let places = prefixes.iter().flat_map(|rows| {
            let rows = rows.clone().map(|row| Some(row as u32));
            rows.chain(std::iter::repeat(None)).take(longest)
        });
        let numbers = (first..).zip(prefixes);
        self.entering.push(Entering {
            prefixes: numbers
                .map(|(number, rows)| Prefix {
                    number,
                    rows: rows.len(),
                })
                .collect(),
            longest,
            places: places.collect(),
            to_grid: None,
        });
    }

    /// Gives the layer `index` the packed queries, keys and values of the prefixes that enter.
    pub(in crate::ops) fn push(&mut self, index: usize, qkv: &Tensor<2>) {
        let entering = self.entering.last_mut().expect("prefixes enter");
        let [all, row] = qkv.dims();
        let (heads, width) = (self.heads, self.heads.width(row));
        let to_grid = entering
            .to_grid
            .get_or_insert_with(|| Gather::new(&entering.places, all, &self.device));
        let shape = [entering.prefixes.len(), entering.longest, heads.keys, width];
        let part = |first: usize| {
            let columns = first * width..(first + heads.keys) * width;
            let part = qkv.clone().slice([0..all, columns]);
            to_grid.take(part).reshape(shape)
        };
        let grid = Grid {
            keys: part(heads.queries).permute([0, 2, 3, 1]),
            values: part(heads.queries + heads.keys).swap_dims(1, 2),
        };
        if self.layers.len() == index {
            self.layers.push(Layer::default());
        }
        self.layers[index].entered.push(grid);
    }

    /// Begins a step in which each of `owners` has a row.
    pub(in crate::ops) fn begin(&mut self, owners: &[Continuation]) {
        let same = |dealt: &Dealt| dealt.owners == owners;
        if !self.entering.is_empty() || !self.dealt.as_ref().is_some_and(same) {
            self.deal(owners);
        }
        let dealt = self.dealt.as_mut().expect("the slots are dealt out");
        for &slot in &dealt.places {
            self.written[slot] += 1;
        }
        dealt.written = indices(&self.written, &self.device);
        let most = self.written.iter().copied().max().unwrap_or(0);
        self.room = room_for(most).max(self.room);
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

    /// Gives the sequences slots: those that they have, while no prefix enters and most of the slots are in use.
    fn deal(&mut self, owners: &[Continuation]) {
        let counts = counts(owners);
        let each = counts.iter().map(|&(_, count)| count).max().unwrap_or(0);
        let most_are_idle = 2 * counts.len() * each <= self.used.len() * self.each;
        if !self.entering.is_empty() || most_are_idle {
            self.move_to(&counts, each, owners);
        }
        let slots = self.used.len() * self.each;
        let slot_of = |owner: &Continuation| {
            let slot = self.slot_of.get(&owner.sequence);
            *slot.expect(GOES_ON)
        };
        let places: Vec<usize> = owners.iter().map(slot_of).collect();
        let mut rows = vec![None; slots];
        let mut written = vec![0; slots];
        for (row, &slot) in places.iter().enumerate() {
            rows[slot] = Some(row as u32);
            written[slot] = self.written[slot];
        }
        self.written = written;
        self.slot_of = owners
            .iter()
            .map(|owner| owner.sequence)
            .zip(places.iter().copied())
            .collect();
        let device = &self.device;
        let lengths: Vec<usize> = self.used.iter().map(|prefix| prefix.rows).collect();
        let from_slots: Vec<Option<u32>> = places.iter().map(|&slot| Some(slot as u32)).collect();
        self.dealt = Some(Dealt {
            owners: owners.to_vec(),
            to_slots: Gather::new(&rows, owners.len(), device),
            from_slots: Gather::new(&from_slots, slots, device),
            lengths: indices(&lengths, device),
            written: indices(&self.written, device),
            places,
        });
    }

    /// New slots, `each` for every prefix of `counts`, with what the old ones of the same sequences hold.
    fn move_to(&mut self, counts: &[(usize, usize)], each: usize, owners: &[Continuation]) {
        let mut had = std::mem::take(&mut self.used);
        let before = had.len();
        let entering = self.entering.drain(..);
        had.extend(entering.flat_map(|entering| entering.prefixes));
        let at: Vec<usize> = counts
            .iter()
            .map(|&(number, _)| {
                let at = had.iter().position(|prefix| prefix.number == number);
                at.expect("a prefix that is continued has entered")
            })
            .collect();
        self.used = at.iter().map(|&at| had[at]).collect();
        let (slot_of, old) = self.slots_of(counts, each, owners, |index| at[index] >= before);
        self.written = old
            .iter()
            .map(|slot| slot.map_or(0, |slot| self.written[slot]))
            .collect();

        let needed = self
            .used
            .iter()
            .map(|prefix| prefix.rows)
            .max()
            .unwrap_or(0);
        let shrinks = 2 * needed <= self.longest;
        let longest = if shrinks {
            needed
        } else {
            needed.max(self.longest)
        };
        let stay = at.iter().copied().eq(0..before) && longest == self.longest;
        let room = room_for(self.written.iter().copied().max().unwrap_or(0) + 1);
        let old: Vec<usize> = old.into_iter().map(Option::unwrap_or_default).collect();
        let moves = Moves {
            prefixes: (!stay).then(|| indices(&at, &self.device)),
            longest,
            slots: (before > 0).then(|| indices(&old, &self.device)),
            count: old.len(),
            room,
        };
        for layer in &mut self.layers {
            layer.move_by(&moves);
        }
        (self.longest, self.room, self.each, self.slot_of) = (longest, room, each, slot_of);
    }

    /// Slots for all sequences, and for each slot the one that its sequence has now; none where its prefix has entered.
    fn slots_of(
        &self,
        counts: &[(usize, usize)],
        each: usize,
        owners: &[Continuation],
        has_entered: impl Fn(usize) -> bool,
    ) -> (BTreeMap<usize, usize>, Vec<Option<usize>>) {
        let mut slot_of = BTreeMap::new();
        let mut old = vec![None; counts.len() * each];
        let mut owners = owners.iter();
        for (index, &(_, count)) in counts.iter().enumerate() {
            for (slot, owner) in (index * each..).zip(owners.by_ref().take(count)) {
                let own = self.slot_of.get(&owner.sequence).copied();
                assert!(own.is_some() || has_entered(index), "{GOES_ON}");
                old[slot] = own;
                slot_of.insert(owner.sequence, slot);
            }
        }
        (slot_of, old)
    }

    /// Attention of all slots: over the prefixes' rows, then over each one's own.
    fn attend_slots(&mut self, index: usize, qkv: Tensor<2>, dealt: &Dealt) -> Tensor<2> {
        let (prefixes, each) = (self.used.len(), self.each);
        let slots = prefixes * each;
        let (width, keys) = (self.heads.width(qkv.dims()[1]), self.heads.keys);
        let layer = &mut self.layers[index];
        let group = self.heads.queries / keys;
        let query = qkv.clone().slice([0..slots, 0..keys * group * width]);
        let query = query.reshape([slots, keys, group, width]);
        let [own_keys, own_values] = layer.append(&qkv, &dealt.written, self.room, self.heads);
        let grid = layer.prefixes.as_ref().expect("the slots are dealt out");

        let own_scores = product(query.clone(), own_keys.swap_dims(2, 3));
        let of_prefix = query
            .reshape([prefixes, each, keys, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([prefixes, keys, each * group, width]);
        let scores = Scores {
            prefix: product(of_prefix, grid.keys.clone()),
            own: own_scores,
        };
        let seen = Seen {
            lengths: &dealt.lengths,
            own: &dealt.written,
            each,
            scale: 1.0 / (width as f64).sqrt(),
        };
        let weights = weights(scores, &seen);
        let mixed = product(weights.prefix, grid.values.clone())
            .reshape([prefixes, keys, each, group, width])
            .permute([0, 2, 1, 3, 4])
            .reshape([slots, keys, group, width]);
        (mixed + product(weights.own, own_values)).reshape([slots, keys * group * width])
    }
}

impl Layer {
    fn move_by(&mut self, moves: &Moves) {
        let (had, entered) = (self.prefixes.take(), std::mem::take(&mut self.entered));
        self.prefixes = match &moves.prefixes {
            None => had,
            Some(at) => {
                let grids = had.into_iter().chain(entered);
                let grids = grids.map(|grid| grid.with_rows(moves.longest));
                let (keys, values) = grids.map(|grid| (grid.keys, grid.values)).unzip();
                let taken = |grids| joined(grids, 0).select(0, at.clone());
                Some(Grid {
                    keys: taken(keys),
                    values: taken(values),
                })
            }
        };
        let Some(grid) = &self.prefixes else { return };
        let [_, heads, width, _] = grid.keys.dims();
        let device = (&grid.keys.device(), grid.keys.dtype());
        self.own = Some(match (self.own.take(), &moves.slots) {
            (Some(own), Some(old)) => {
                own.map(|own| with_rows(own, 2, moves.room).select(0, old.clone()))
            }
            _ => {
                let shape = [moves.count, heads, moves.room, width];
                [(); 2].map(|()| Tensor::zeros(shape, device))
            }
        });
    }

    /// Adds a row to each slot that has one in this step; gives all rows that there is room for, `[slots, key heads, room,
    /// head width]`.
    fn append(
        &mut self,
        qkv: &Tensor<2>,
        written: &Tensor<1, Int>,
        room: usize,
        heads: Heads,
    ) -> [Tensor<4>; 2] {
        let own = self.own.take().expect("the slots are dealt out");
        // The buffers belong to this cache alone here, so that the rows are written in place.
        let own = own.map(|own| with_rows(own, 2, room));
        let own = append(own, qkv, written, heads);
        self.own = Some(own.clone());
        own
    }
}

impl Grid {
    fn with_rows(self, rows: usize) -> Self {
        Self {
            keys: with_rows(self.keys, 3, rows),
            values: with_rows(self.values, 2, rows),
        }
    }
}

/// So many rows in a dimension: without the last ones, or with rows of zeros.
fn with_rows(tensor: Tensor<4>, dim: usize, rows: usize) -> Tensor<4> {
    let mut shape = tensor.dims();
    if rows <= shape[dim] {
        return match rows == shape[dim] {
            true => tensor,
            false => tensor.narrow(dim, 0, rows),
        };
    }
    shape[dim] = rows - shape[dim];
    let more = Tensor::zeros(shape, (&tensor.device(), tensor.dtype()));
    Tensor::cat(vec![tensor, more], dim)
}

/// Room for so many rows.
fn room_for(rows: usize) -> usize {
    let mut room = ROOM;
    while room < rows {
        room *= 2;
    }
    room
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
