//! How the rows of a batch are brought into grids for attention.
//!
//! A grid has groups that are alike: in each, some queries look at some keys. What is padded in a grid is a row of its own
//! group once more, which looks at nothing and is looked at by nobody.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::cells::{Cell, Cells, Sources, Table};
use super::data::Budget;
use crate::host::send;
use crate::ops::{Span, Spans};

/// Where the rows of a batch's spans go. It is the same for all layers, and goes to the device once.
#[derive(Debug)]
pub(super) struct Layout {
    /// What it is made for.
    rows: usize,
    device: Device,
    budget: Budget,
    /// What stands in it is said by whoever put it there.
    pub(super) table: Tensor<1, Int>,
    /// Each query on the keys of its own span.
    pub(super) own: Cover,
    /// Queries of spans with a prefix, on its keys: all those of one prefix together, so that it is there once.
    pub(super) prefix: Option<Cover>,
    /// Whether a row gets gradients from several cells.
    pub(super) sums: bool,
    /// Whether there are rows that get none as a query, or none as a key.
    pub(super) gaps: bool,
}

/// A set of grids that have each query at most once.
#[derive(Debug)]
pub(super) struct Cover {
    pub(super) parts: Vec<Part>,
    /// Whether each query that is asked for is in one of the grids.
    pub(super) all: bool,
}

/// One grid.
#[derive(Debug)]
pub(super) struct Part {
    /// Its queries among the packed rows, and among what is asked for.
    pub(super) queries: Cells,
    pub(super) asked: Cells,
    /// Its keys among the packed rows.
    pub(super) keys: Cells,
    /// Packed rows among its keys.
    pub(super) sources: Sources,
    /// How many of its group's keys each query sees, from the first on: `[groups or 1, queries]`, one row where all groups
    /// are alike.
    sees: Vec<usize>,
    /// Where the same stands in the table.
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) counts: usize,
}

/// Queries that look at the same keys.
#[derive(Clone)]
struct Item {
    /// Places in the order of what is asked for.
    asked: Vec<u32>,
    keys: Range<usize>,
    /// How many keys each query sees.
    sees: Vec<usize>,
}

impl Layout {
    pub(super) fn new(spans: &Spans, rows: usize, device: &Device, budget: Budget) -> Self {
        let asked = spans.query_rows();
        let (own, prefixes) = (of_spans(spans), of_prefixes(spans));
        let mut as_keys = vec![0_usize; rows];
        for row in own.iter().flat_map(|item| item.keys.clone()) {
            as_keys[row] += 1;
        }
        let mut table = Table::default();
        let mut cover = |items| Cover::new(items, rows, &asked, &mut table, budget);
        Self {
            rows,
            device: device.clone(),
            budget,
            own: cover(own),
            sums: !prefixes.is_empty() || as_keys.iter().any(|&cells| cells > 1),
            gaps: asked.len() < rows || as_keys.contains(&0),
            prefix: (!prefixes.is_empty()).then(|| cover(prefixes)),
            table: send(table.into_data(), device),
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
        let sees = |row| span.visible(row) - span.prefix.len();
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
        let sees = std::iter::repeat_n(span.prefix.len(), asked.len());
        item.sees.extend(sees);
        item.asked.extend(asked);
    }
    items
}

impl Cover {
    fn new(
        items: Vec<Item>,
        rows: usize,
        asked: &[u32],
        table: &mut Table,
        budget: Budget,
    ) -> Self {
        let queries = items.iter().map(|item| item.asked.len());
        let all = queries.sum::<usize>() == asked.len();
        let grids = alike(items, budget);
        let parts = grids.iter();
        Self {
            parts: parts
                .map(|grid| Part::new(grid, rows, asked, table))
                .collect(),
            all,
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

/// Rows in as many cells; where they are fewer, the last of them is there again.
fn padded(rows: impl Iterator<Item = u32> + Clone, cells: usize) -> impl Iterator<Item = Cell> {
    let last = rows.clone().last().unwrap_or_default();
    let padding = std::iter::repeat(Cell::Padding(last));
    rows.map(Cell::Row).chain(padding).take(cells)
}

impl Part {
    fn new(items: &[Item], rows: usize, asked: &[u32], table: &mut Table) -> Self {
        let most = |count: fn(&Item) -> usize| items.iter().map(count).max().unwrap_or(0);
        let (queries, keys) = (most(|item| item.asked.len()), most(|item| item.keys.len()));
        let mut cells = |cells: Vec<Cell>| Cells::new(table, &cells, items.len());
        let places = items.iter();
        let places = places.flat_map(|item| padded(item.asked.iter().copied(), queries));
        let places: Vec<Cell> = places.collect();
        let of_row = |cell: &Cell| match *cell {
            Cell::Row(place) => Cell::Row(asked[place as usize]),
            Cell::Padding(place) => Cell::Padding(asked[place as usize]),
        };
        let in_rows: Vec<Cell> = places.iter().map(of_row).collect();
        let as_asked = in_rows == places;
        let query_cells = cells(in_rows);
        let asked_cells = if as_asked { query_cells } else { cells(places) };
        let of_keys = |item: &Item| item.keys.start as u32..item.keys.end as u32;
        let key_cells = items.iter().flat_map(|item| padded(of_keys(item), keys));
        let key_cells = cells(key_cells.collect());
        let in_cells = items.iter().enumerate();
        let in_cells = in_cells.flat_map(|(group, item)| (group * keys..).zip(item.keys.clone()));
        let sources = Sources::new(table, in_cells, rows, keys);
        let same = items.iter().all(|item| item.sees == items[0].sees);
        let different = if same { &items[..1] } else { items };
        let sees = different.iter().flat_map(|item| {
            let sees = item.sees.iter().copied();
            sees.chain(std::iter::repeat(0)).take(queries)
        });
        let sees: Vec<usize> = sees.collect();
        Self {
            queries: query_cells,
            asked: asked_cells,
            keys: key_cells,
            sources,
            #[cfg(any(feature = "cuda", feature = "wgpu"))]
            counts: table.put(sees.iter().copied()),
            sees,
        }
    }

    /// How many groups, and how many queries of each, are worked on at once, so that no more than `cells` scores of
    /// `heads` heads are in memory.
    pub(super) fn at_once(&self, heads: usize, cells: usize) -> [usize; 2] {
        let Cells { groups, places, .. } = self.queries;
        let queries = (cells / (heads * self.keys.places).max(1)).max(1);
        match queries >= places {
            true => [(queries / places.max(1)).min(groups), places],
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
        device: &Device,
    ) -> Option<Tensor<5>> {
        if self.of_block(groups, queries).all(|sees| sees >= seen) {
            return None;
        }
        let rows = if self.alike() { 1 } else { groups.len() };
        let of_query =
            |sees: usize| (0..seen).map(move |key| if key < sees { 0.0 } else { f32::MIN });
        let hidden: Vec<f32> = self.of_block(groups, queries).flat_map(of_query).collect();
        let shape = [rows, 1, 1, queries.len(), seen];
        Some(send(TensorData::new(hidden, shape), device))
    }

    /// Whether the queries of all groups see as many keys.
    pub(super) fn alike(&self) -> bool {
        self.sees.len() == self.queries.places
    }

    fn of_block<'a>(
        &'a self,
        groups: &Range<usize>,
        queries: &'a Range<usize>,
    ) -> impl Iterator<Item = usize> + 'a {
        let groups = if self.alike() { 0..1 } else { groups.clone() };
        groups.flat_map(move |group| {
            let sees = &self.sees[group * self.queries.places..][..self.queries.places];
            sees[queries.clone()].iter().copied()
        })
    }
}
