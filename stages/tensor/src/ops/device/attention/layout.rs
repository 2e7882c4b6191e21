//! How the rows of a batch are brought into grids for attention.
//!
//! A grid has groups that are alike: in each, some queries look at some keys. What is padded in a grid is a row of its own
//! group once more, which looks at nothing and is looked at by nobody.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::data::Budget;
use crate::host::send;
use crate::ops::gather::Gather;
use crate::ops::{Span, Spans};

/// Where the rows of a batch's spans go. It is the same for all layers, and goes to the device once.
#[derive(Debug)]
pub(super) struct Layout {
    /// What it is made for.
    rows: usize,
    device: Device,
    budget: Budget,
    /// Packed rows that are asked for, in the order in which they are given out, and where those go back to.
    pub(super) asked: Gather,
    pub(super) asked_to_rows: Gather,
    /// Each query on the keys of its own span.
    pub(super) own: Cover,
    /// Queries of spans with a prefix, on its keys: all those of one prefix together, so that it is there once.
    pub(super) prefix: Option<Cover>,
}

/// A set of grids that have each query at most once.
#[derive(Debug)]
pub(super) struct Cover {
    pub(super) parts: Vec<Part>,
    /// The queries of all grids, one behind the other, into the order in which they are asked for. Zeros for a query
    /// that is in none.
    pub(super) to_asked: Gather,
    /// What is added to the log of the sum of a query's weights: the lowest number where it is in no grid; `[asked, 1]`,
    /// none where all are in one.
    pub(super) absent: Option<Tensor<2>>,
    /// The keys of all grids into the packed rows. One is enough unless rows are keys of several groups.
    pub(super) keys_to_rows: Vec<Gather>,
}

/// One grid.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) groups: usize,
    /// Queries and keys of a group.
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Queries in the order in which they are asked for, into `[groups, queries]`.
    pub(super) query_rows: Gather,
    /// Packed rows into `[groups, keys]`.
    pub(super) key_rows: Gather,
    /// How many of its group's keys each query sees, from the first on: `[groups or 1, queries]`, one row where all groups
    /// are alike.
    sees: Vec<u32>,
    /// The same on the device.
    pub(super) sees_there: Tensor<2, Int>,
}

/// Queries that look at the same keys.
#[derive(Clone)]
struct Item {
    /// Places in the order of what is asked for.
    asked: Vec<u32>,
    keys: Range<usize>,
    /// How many keys each query sees.
    sees: Vec<u32>,
}

impl Layout {
    pub(super) fn new(spans: &Spans, rows: usize, device: &Device, budget: Budget) -> Self {
        let asked = spans.query_rows();
        let mut back = vec![None; rows];
        for (place, &row) in (0u32..).zip(&asked) {
            back[row as usize] = Some(place);
        }
        let prefixes = of_prefixes(spans);
        let cover = |items| Cover::new(items, rows, asked.len(), device, budget);
        Self {
            rows,
            device: device.clone(),
            budget,
            own: cover(of_spans(spans)),
            prefix: (!prefixes.is_empty()).then(|| cover(prefixes)),
            asked_to_rows: Gather::new(&back, asked.len(), device),
            asked: Gather::picked(&asked, rows, device),
        }
    }

    pub(super) fn is_for(&self, rows: usize, device: &Device, budget: Budget) -> bool {
        self.rows == rows && self.device == *device && self.budget == budget
    }

    pub(super) fn covers(&self) -> impl Iterator<Item = &Cover> {
        std::iter::once(&self.own).chain(&self.prefix)
    }
}

/// The spans' places among what is asked for.
fn asked_of(spans: &Spans) -> impl Iterator<Item = (&Span, Range<u32>)> {
    spans.iter().scan(0, |end, span| {
        let start = *end;
        *end += span.queries.len() as u32;
        Some((span, start..*end))
    })
}

fn of_spans(spans: &Spans) -> Vec<Item> {
    let asking = asked_of(spans).filter(|(_, asked)| !asked.is_empty());
    let item = |(span, asked): (&Span, Range<u32>)| {
        let sees = |row| (span.visible(row) - span.prefix.len()) as u32;
        Item {
            asked: asked.collect(),
            keys: span.own.clone(),
            sees: span.queries.clone().map(sees).collect(),
        }
    };
    asking.map(item).collect()
}

fn of_prefixes(spans: &Spans) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut at = std::collections::HashMap::new();
    for (span, asked) in asked_of(spans) {
        if span.prefix.is_empty() || asked.is_empty() {
            continue;
        }
        let index = *at.entry(span.prefix.clone()).or_insert_with(|| {
            items.push(Item {
                asked: Vec::new(),
                keys: span.prefix.clone(),
                sees: Vec::new(),
            });
            items.len() - 1
        });
        let item = &mut items[index];
        let sees = std::iter::repeat_n(span.prefix.len() as u32, asked.len());
        item.sees.extend(sees);
        item.asked.extend(asked);
    }
    items
}

impl Cover {
    fn new(items: Vec<Item>, rows: usize, asked: usize, device: &Device, budget: Budget) -> Self {
        let grids = alike(items, budget);
        let mut place = vec![None; asked];
        let (mut queries, mut keys, mut key_cells) = (0, 0, Vec::new());
        let mut parts = Vec::with_capacity(grids.len());
        for grid in &grids {
            let part = Part::new(grid, rows, asked, device);
            for (group, item) in grid.iter().enumerate() {
                let first = queries + group * part.queries;
                for (cell, &asked) in (first as u32..).zip(&item.asked) {
                    place[asked as usize] = Some(cell);
                }
                let first = keys + group * part.keys;
                key_cells.extend((first as u32..).zip(item.keys.clone()));
            }
            queries += part.groups * part.queries;
            keys += part.groups * part.keys;
            parts.push(part);
        }
        let absent = place.iter().any(Option::is_none).then(|| {
            let bias = place.iter().map(|place| match place {
                Some(_) => 0.0,
                None => f32::MIN,
            });
            send::<2, _>(
                TensorData::new(bias.collect::<Vec<f32>>(), [asked, 1]),
                device,
            )
        });
        Self {
            to_asked: Gather::new(&place, queries, device),
            absent,
            keys_to_rows: inverse(key_cells, rows, keys, device),
            parts,
        }
    }
}

/// Puts items of about the same size together.
fn alike(mut items: Vec<Item>, budget: Budget) -> Vec<Vec<Item>> {
    items.sort_by_key(|item| std::cmp::Reverse((item.keys.len(), item.asked.len())));
    let mut grids: Vec<Vec<Item>> = Vec::new();
    // Of the last grid: its most queries, and the pairs of queries and keys that are there without padding.
    let (mut most, mut pairs) = (0, 0);
    for item in items {
        let own = item.asked.len() * item.keys.len();
        let wider = most.max(item.asked.len());
        match grids.last_mut() {
            Some(grid)
                if 2 * (grid.len() + 1) * grid[0].keys.len() * wider
                    <= 3 * (pairs + own) + 2 * budget.padding =>
            {
                (most, pairs) = (wider, pairs + own);
                grid.push(item);
            }
            _ => {
                (most, pairs) = (item.asked.len(), own);
                grids.push(vec![item]);
            }
        }
    }
    grids
}

/// From keys in the cells of grids back into `rows` rows. A row that is in several cells needs as many of these.
fn inverse(cells: Vec<(u32, usize)>, rows: usize, count: usize, device: &Device) -> Vec<Gather> {
    let mut layers: Vec<Vec<Option<u32>>> = Vec::new();
    for (cell, row) in cells {
        let free = layers.iter().position(|layer| layer[row].is_none());
        let free = free.unwrap_or_else(|| {
            layers.push(vec![None; rows]);
            layers.len() - 1
        });
        layers[free][row] = Some(cell);
    }
    let gather = |layer: &Vec<Option<u32>>| Gather::new(layer, count, device);
    layers.iter().map(gather).collect()
}

impl Part {
    fn new(items: &[Item], rows: usize, asked: usize, device: &Device) -> Self {
        let most = |count: fn(&Item) -> usize| items.iter().map(count).max().unwrap_or(0);
        let (queries, keys) = (most(|item| item.asked.len()), most(|item| item.keys.len()));
        let padded = |values: &[u32], length, padding: u32| {
            let values = values.iter().copied();
            let padded = values.chain(std::iter::repeat(padding)).take(length);
            padded.collect::<Vec<u32>>()
        };
        let repeated = |values: &[u32], length| {
            padded(values, length, values.last().copied().unwrap_or_default())
        };
        let query_rows = items.iter().flat_map(|item| repeated(&item.asked, queries));
        let key_rows = items.iter().flat_map(|item| {
            let rows: Vec<u32> = item.keys.clone().map(|row| row as u32).collect();
            repeated(&rows, keys)
        });
        let same = items.iter().all(|item| item.sees == items[0].sees);
        let different = if same { &items[..1] } else { items };
        let sees: Vec<u32> = different
            .iter()
            .flat_map(|item| padded(&item.sees, queries, 0))
            .collect();
        let there: Vec<i32> = sees.iter().map(|&sees| sees as i32).collect();
        let sees_there = send(TensorData::new(there, [different.len(), queries]), device);
        Self {
            groups: items.len(),
            queries,
            keys,
            query_rows: Gather::picked(&query_rows.collect::<Vec<_>>(), asked, device),
            key_rows: Gather::picked(&key_rows.collect::<Vec<_>>(), rows, device),
            sees,
            sees_there,
        }
    }

    /// How many groups, and how many queries of each, are worked on at once, so that no more than `cells` scores of
    /// `heads` heads are in memory.
    pub(super) fn at_once(&self, heads: usize, cells: usize) -> [usize; 2] {
        let queries = (cells / (heads * self.keys).max(1)).max(1);
        match queries >= self.queries {
            true => [
                (queries / self.queries.max(1)).min(self.groups),
                self.queries,
            ],
            false => [1, queries],
        }
    }

    /// How many keys the queries of a block see at most.
    pub(super) fn seen(&self, groups: &Range<usize>, queries: &Range<usize>) -> usize {
        self.of_block(groups, queries).max().unwrap_or(0).max(1)
    }

    /// What is added to the scores of a block on its first `seen` keys, `[groups or 1, 1, 1, queries, seen]`: 0, or the
    /// lowest number where a query does not see a key; none where all see all.
    pub(super) fn hidden(
        &self,
        groups: &Range<usize>,
        queries: &Range<usize>,
        seen: usize,
    ) -> Option<Tensor<5>> {
        if self.of_block(groups, queries).all(|sees| sees >= seen) {
            return None;
        }
        let own = self.rows_of(groups);
        let count = own.len();
        let sees = self.sees_there.clone().slice([own, queries.clone()]);
        let sees: Tensor<5, Int> = sees.reshape([count, 1, 1, queries.len(), 1]);
        let keys = Tensor::<1, Int>::arange(0..seen as i64, &self.sees_there.device());
        let keys: Tensor<5, Int> = keys.reshape([1, 1, 1, 1, seen]);
        let shape = [count, 1, 1, queries.len(), seen];
        let hidden = keys.expand(shape).greater_equal(sees.expand(shape));
        Some(hidden.float() * f32::MIN)
    }

    /// The rows of `sees` that are these groups'.
    fn rows_of(&self, groups: &Range<usize>) -> Range<usize> {
        match self.sees.len() > self.queries {
            true => groups.clone(),
            false => 0..1,
        }
    }

    fn of_block<'a>(
        &'a self,
        groups: &Range<usize>,
        queries: &'a Range<usize>,
    ) -> impl Iterator<Item = usize> + 'a {
        let rows = self.rows_of(groups);
        rows.flat_map(move |group| {
            let sees = &self.sees[group * self.queries..][..self.queries];
            sees[queries.clone()].iter().map(|&sees| sees as usize)
        })
    }
}
