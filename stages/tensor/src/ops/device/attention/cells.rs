//! Rows of packed tensors in the cells of a grid, and back: by kernels, or here on the CPU.

use std::ops::Range;

use burn::tensor::{DType, Int, Tensor, TensorData};

use super::data::Columns;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::host::on_host;
use crate::host::{send, values};
#[cfg(any(feature = "cuda", feature = "wgpu"))]
use crate::ops::device::kernels;

/// Whole numbers that are the same for all layers; they go to the device at once.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<i32>);

impl Table {
    /// Where these begin in it.
    pub(super) fn put(&mut self, numbers: impl IntoIterator<Item = usize>) -> usize {
        let base = self.0.len();
        self.0
            .extend(numbers.into_iter().map(|number| number as i32));
        base
    }

    pub(super) fn into_data(self) -> TensorData {
        let count = self.0.len();
        TensorData::new(self.0, [count])
    }
}

/// A row in a cell of a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    Row(u32),
    /// The row is looked at once more, and gets nothing.
    Padding(u32),
}

impl Cell {
    /// As the table has it: twice the row, and one more for padding.
    fn number(self) -> usize {
        match self {
            Self::Row(row) => 2 * row as usize,
            Self::Padding(row) => 2 * row as usize + 1,
        }
    }

    fn of(number: i32) -> Self {
        let row = number as u32 / 2;
        match number % 2 {
            0 => Self::Row(row),
            _ => Self::Padding(row),
        }
    }

    fn row(self) -> usize {
        match self {
            Self::Row(row) | Self::Padding(row) => row as usize,
        }
    }
}

/// The cells of a grid, `[groups, places]`. Which row is in each stands in the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cells {
    base: usize,
    pub(super) groups: usize,
    pub(super) places: usize,
}

/// Some places of some groups of a grid.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) groups: Range<usize>,
    pub(super) places: Range<usize>,
}

impl Cells {
    /// Of groups of as many cells.
    pub(super) fn new(table: &mut Table, cells: &[Cell], groups: usize) -> Self {
        Self {
            base: table.put(cells.iter().map(|cell| cell.number())),
            groups,
            places: cells.len() / groups.max(1),
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> Stretch {
        Stretch {
            groups: 0..self.groups,
            places: 0..self.places,
        }
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    pub(super) fn there<'a>(
        &self,
        table: &'a Tensor<1, Int>,
        stretch: &Stretch,
    ) -> kernels::Cells<'a> {
        kernels::Cells {
            table,
            base: self.base,
            places: self.places,
            group: stretch.groups.start,
            place: stretch.places.start,
        }
    }

    /// Those of a stretch, group by group.
    fn here(&self, table: &Tensor<1, Int>, stretch: &Stretch) -> Vec<Cell> {
        let table = numbers(table);
        let of_group = |group| &table[self.base + group * self.places..][stretch.places.clone()];
        let numbers = stretch.groups.clone().flat_map(of_group);
        numbers.map(|&number| Cell::of(number)).collect()
    }

    /// Values of packed rows in a stretch, `[groups, heads, members * places, width]`: the members of a head of keys are
    /// rows of one product with it.
    pub(super) fn bring(
        &self,
        table: &Tensor<1, Int>,
        packed: &Tensor<2>,
        stretch: &Stretch,
        columns: Columns,
    ) -> Tensor<4> {
        let shape = columns.shape(stretch);
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(packed) {
            let cells = self.there(table, stretch);
            return kernels::bring(packed, &cells, columns.there(), shape);
        }
        let [_, across] = packed.dims();
        let from = here(packed.clone());
        let mut to = Vec::with_capacity(shape.iter().product());
        columns.each(&self.here(table, stretch), stretch, |cell, column| {
            let at = cell.row() * across + column;
            to.extend_from_slice(&from[at..at + columns.width]);
        });
        there(to, shape, packed)
    }

    /// The inverse: puts the values of a stretch into packed rows, or adds them. No row may be in two cells of it.
    pub(super) fn spread(
        &self,
        table: &Tensor<1, Int>,
        values: Tensor<4>,
        stretch: &Stretch,
        columns: Columns,
        rows: Tensor<2>,
        add: bool,
    ) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&values) {
            let cells = self.there(table, stretch);
            return kernels::spread(&values, &cells, columns.there(), rows, add);
        }
        let shape = rows.dims();
        let like = rows.clone();
        let (values, mut to) = (here(values), here(rows));
        let mut values = values.chunks(columns.width);
        columns.each(&self.here(table, stretch), stretch, |cell, column| {
            let values = values.next().expect("as many as cells");
            if let Cell::Row(row) = cell {
                let at = row as usize * shape[1] + column;
                for (to, value) in to[at..].iter_mut().zip(values) {
                    *to = if add { *to + value } else { *value };
                }
            }
        });
        there(to, shape, &like)
    }
}

/// In which cells of a grid each packed row is. It may be in several, or in none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sources {
    /// In the table: where the cells of each row begin in a list, `[rows + 1]`, and the list.
    firsts: usize,
    list: usize,
    /// Places of each group of the grid.
    places: usize,
}

impl Sources {
    /// From the cells of a grid of groups with so many places: their numbers, and the row in each.
    pub(super) fn new(
        table: &mut Table,
        cells: impl Iterator<Item = (usize, usize)>,
        rows: usize,
        places: usize,
    ) -> Self {
        let mut of_rows = vec![Vec::new(); rows];
        for (cell, row) in cells {
            of_rows[row].push(cell);
        }
        let firsts = of_rows.iter().scan(0, |end, cells| {
            *end += cells.len();
            Some(*end)
        });
        Self {
            firsts: table.put(std::iter::once(0).chain(firsts)),
            list: table.put(of_rows.iter().flatten().copied()),
            places,
        }
    }

    /// Puts into each row, from a column on, or adds to it, what `[groups, heads, seen, width]` of the groups from
    /// `group` on has for it in all of its cells together. A row that is in none of them stays as it is.
    pub(super) fn collect(
        &self,
        table: &Tensor<1, Int>,
        values: Tensor<4>,
        group: usize,
        column: usize,
        rows: Tensor<2>,
        add: bool,
    ) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !on_host(&values) {
            let sources = kernels::Sources {
                table,
                firsts: self.firsts,
                list: self.list,
                places: self.places,
                group,
            };
            return kernels::collect(&values, &sources, column, rows, add);
        }
        let [groups, heads, seen, width] = values.dims();
        let [count, across] = rows.dims();
        let like = rows.clone();
        let (values, mut to) = (here(values), here(rows));
        let table = numbers(table);
        let at = |place: usize| table[place] as usize;
        for (row, to) in to.chunks_mut(across).take(count).enumerate() {
            let cells = at(self.firsts + row)..at(self.firsts + row + 1);
            let cells = cells.map(|cell| at(self.list + cell));
            let cells = cells.map(|cell| (cell / self.places, cell % self.places));
            let own: Vec<_> = cells
                .filter(|(own, _)| (group..group + groups).contains(own))
                .collect();
            if own.is_empty() {
                continue;
            }
            for (place, to) in to[column..column + heads * width].iter_mut().enumerate() {
                let (head, place) = (place / width, place % width);
                let mut sum = if add { *to } else { 0.0 };
                for (own, key) in own.iter().filter(|(_, key)| *key < seen) {
                    let head = (own - group) * heads + head;
                    sum += values[(head * seen + key) * width + place];
                }
                *to = sum;
            }
        }
        there(to, [count, across], &like)
    }
}

impl Columns {
    /// A stretch's values of these columns.
    fn shape(self, stretch: &Stretch) -> [usize; 4] {
        let places = self.members * stretch.places.len();
        [stretch.groups.len(), self.heads, places, self.width]
    }

    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    fn there(self) -> kernels::Columns {
        kernels::Columns {
            first: self.first,
            members: self.members,
        }
    }

    /// Each cell of a stretch with the first column of each head, in the order of [`Cells::bring`].
    fn each(self, cells: &[Cell], stretch: &Stretch, mut work: impl FnMut(Cell, usize)) {
        for cells in cells.chunks(stretch.places.len().max(1)) {
            for head in 0..self.heads * self.members {
                for &cell in cells {
                    work(cell, self.first + head * self.width);
                }
            }
        }
    }
}

/// What the CPU device has of a tensor.
fn here<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    values(tensor).expect(HERE)
}

fn numbers(table: &Tensor<1, Int>) -> Vec<i32> {
    let words = crate::host::words(table.clone()).expect(HERE);
    words.into_iter().map(|word| word as i32).collect()
}

const HERE: &str = "the CPU device hands over what it has";

/// Values as a tensor on the device of another, and of its type.
fn there<const D: usize, const L: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    like: &Tensor<L>,
) -> Tensor<D> {
    let dtype: DType = like.dtype();
    send(TensorData::new(values, shape), (&like.device(), dtype))
}
