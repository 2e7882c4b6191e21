//! Rows of packed tensors into the cells of attention's grids, and back: a unit brings one value.

use burn::backend::Cube;
use burn::tensor::{Int, Tensor as BurnTensor};
use cubecl::prelude::*;

use crate::ops::cube::{UNITS, alone, by_dtype, cubes_for, floats, integers};

/// Cells of a grid that a block has, some places of some groups.
pub(in super::super) struct Cells<'a> {
    /// Among other things, of each cell of the grid, `[groups, places]`, twice the row that is in it, and one more where
    /// the cell is padding.
    pub(in super::super) table: &'a BurnTensor<1, Int>,
    /// Where those begin in it.
    pub(in super::super) base: usize,
    /// Places of each group of the grid.
    pub(in super::super) places: usize,
    /// The block's first group, and its first place in each.
    pub(in super::super) group: usize,
    pub(in super::super) place: usize,
}

/// Which cells each row is in.
pub(in super::super) struct Sources<'a> {
    /// Among other things, of each row where its cells begin in a list, `[rows + 1]`, and the list.
    pub(in super::super) table: &'a BurnTensor<1, Int>,
    /// Where those begin in it.
    pub(in super::super) firsts: usize,
    pub(in super::super) list: usize,
    /// Places of each group of the grid.
    pub(in super::super) places: usize,
    /// The block's first group.
    pub(in super::super) group: usize,
}

/// Columns of packed rows from `first` on, in `members` heads for each head of a grid.
#[derive(Clone, Copy)]
pub(in super::super) struct Columns {
    pub(in super::super) first: usize,
    pub(in super::super) members: usize,
}

/// Values of packed rows, `[groups, heads, members * places, width]`.
pub(in super::super) fn bring(
    packed: &BurnTensor<2>,
    cells: &Cells<'_>,
    columns: Columns,
    shape: [usize; 4],
) -> BurnTensor<4> {
    let out = BurnTensor::<4>::empty(shape, (&packed.device(), packed.dtype()));
    let count = out.shape().num_elements();
    if count == 0 {
        return out;
    }
    let dtype = packed.dtype();
    let packed = floats(packed);
    let client = packed.client.clone();
    by_dtype!(dtype, F => bring_kernel::launch::<F>(
        &client,
        cubes_for(count),
        CubeDim::new_1d(UNITS),
        packed.into_tensor_arg(),
        integers(cells.table).into_tensor_arg(),
        floats(&out).into_tensor_arg(),
        cells.base + cells.group * cells.places + cells.place,
        cells.places,
        columns.first,
        columns.members,
    ));
    out
}

/// Puts `[groups, heads, members * places, width]` into the rows that are in those cells, or adds it to them. What is in a
/// cell of padding goes nowhere.
pub(in super::super) fn spread(
    values: &BurnTensor<4>,
    cells: &Cells<'_>,
    columns: Columns,
    rows: BurnTensor<2>,
    add: bool,
) -> BurnTensor<2> {
    let count = values.shape().num_elements();
    if count == 0 {
        return rows;
    }
    let (dtype, same) = (values.dtype(), values.dtype() == rows.dtype());
    let rows = alone(rows);
    let client = rows.client.clone();
    macro_rules! launch {
        ($from:ty, $to:ty) => {
            spread_kernel::launch::<$from, $to>(
                &client,
                cubes_for(count),
                CubeDim::new_1d(UNITS),
                floats(values).into_tensor_arg(),
                integers(cells.table).into_tensor_arg(),
                rows.clone().into_tensor_arg(),
                cells.base + cells.group * cells.places + cells.place,
                cells.places,
                columns.first,
                columns.members,
                add,
            )
        };
    }
    by_dtype!(dtype, F => match same {
        true => launch!(F, F),
        false => launch!(F, f32),
    });
    BurnTensor::from_primitive::<Cube>(rows)
}

/// Puts into each row, or adds to it, what `[groups, heads, seen, width]` has for it in all of its cells together. A row
/// without a cell in these groups stays as it is.
pub(in super::super) fn collect(
    values: &BurnTensor<4>,
    sources: &Sources<'_>,
    first: usize,
    rows: BurnTensor<2>,
    add: bool,
) -> BurnTensor<2> {
    let [_, heads, _, width] = values.dims();
    let count = rows.dims()[0] * heads * width;
    if count == 0 {
        return rows;
    }
    let (dtype, same) = (values.dtype(), values.dtype() == rows.dtype());
    let rows = alone(rows);
    let client = rows.client.clone();
    macro_rules! launch {
        ($from:ty, $to:ty) => {
            collect_kernel::launch::<$from, $to>(
                &client,
                cubes_for(count),
                CubeDim::new_1d(UNITS),
                floats(values).into_tensor_arg(),
                integers(sources.table).into_tensor_arg(),
                rows.clone().into_tensor_arg(),
                sources.firsts,
                sources.list,
                sources.places,
                sources.group,
                first,
                add,
            )
        };
    }
    by_dtype!(dtype, F => match same {
        true => launch!(F, F),
        false => launch!(F, f32),
    });
    BurnTensor::from_primitive::<Cube>(rows)
}

#[cube(launch)]
fn bring_kernel<F: Float>(
    packed: &Tensor<F>,
    table: &Tensor<i32>,
    out: &mut Tensor<F>,
    base: usize,
    places: usize,
    first: usize,
    members: usize,
) {
    let (heads, all, width) = (out.shape(1), out.shape(2), out.shape(3));
    let (at, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let (head, row) = (at / all, at % all);
    let (group, head) = (head / heads, head % heads);
    if group < out.shape(0) {
        let count = all / members;
        let from = table[base + group * places + row % count] / 2;
        let source = from as usize * packed.stride(0);
        let source =
            source + (first + (head * members + row / count) * width + column) * packed.stride(1);
        let target = group * out.stride(0) + head * out.stride(1) + row * out.stride(2);
        let target = target + column * out.stride(3);
        out[target] = packed[source];
    }
}

#[cube(launch)]
fn spread_kernel<F: Float, O: Float>(
    values: &Tensor<F>,
    table: &Tensor<i32>,
    out: &mut Tensor<O>,
    base: usize,
    places: usize,
    first: usize,
    members: usize,
    #[comptime] add: bool,
) {
    let (heads, all, width) = (values.shape(1), values.shape(2), values.shape(3));
    let (at, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    let (head, row) = (at / all, at % all);
    let (group, head) = (head / heads, head % heads);
    if group < values.shape(0) {
        let count = all / members;
        let to = table[base + group * places + row % count];
        if to % 2 == 0 {
            let source =
                group * values.stride(0) + head * values.stride(1) + row * values.stride(2);
            let mut value = f32::cast_from(values[source + column * values.stride(3)]);
            let target = (to / 2) as usize * out.stride(0);
            let target =
                target + (first + (head * members + row / count) * width + column) * out.stride(1);
            if comptime!(add) {
                value += f32::cast_from(out[target]);
            }
            out[target] = O::cast_from(value);
        }
    }
}

#[cube(launch)]
fn collect_kernel<F: Float, O: Float>(
    values: &Tensor<F>,
    table: &Tensor<i32>,
    out: &mut Tensor<O>,
    firsts: usize,
    list: usize,
    places: usize,
    first_group: usize,
    first: usize,
    #[comptime] add: bool,
) {
    let (groups, heads, seen) = (values.shape(0), values.shape(1), values.shape(2));
    let width = values.shape(3);
    let columns = heads * width;
    let (row, column) = (ABSOLUTE_POS / columns, ABSOLUTE_POS % columns);
    if row < out.shape(0) {
        let from = (column / width) * values.stride(1) + (column % width) * values.stride(3);
        let mut at = table[firsts + row] as usize;
        let end = table[firsts + row + 1] as usize;
        let mut sum = f32::new(0.0);
        let mut found = false;
        while at < end {
            let cell = table[list + at] as usize;
            let (group, key) = (cell / places, cell % places);
            if group >= first_group && group < first_group + groups {
                found = true;
                if key < seen {
                    let source = (group - first_group) * values.stride(0) + key * values.stride(2);
                    sum += f32::cast_from(values[from + source]);
                }
            }
            at += 1;
        }
        if found {
            let target = row * out.stride(0) + (first + column) * out.stride(1);
            if comptime!(add) {
                sum += f32::cast_from(out[target]);
            }
            out[target] = O::cast_from(sum);
        }
    }
}
