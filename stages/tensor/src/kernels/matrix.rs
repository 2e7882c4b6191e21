//! Views of matrices in slices.

/// A matrix in a slice, in any layout.
#[derive(Clone, Copy)]
pub(crate) struct MatRef<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    /// Distance between an element and the one in the next row.
    down: usize,
    /// Distance between an element and the next in its row.
    along: usize,
}

impl<'a> MatRef<'a> {
    /// `[rows, columns]`, row after row.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn new(values: &'a [f32], shape: [usize; 2]) -> Self {
        Self::strided(values, shape, shape[1])
    }

    /// `[rows, columns]` with `stride` values from one row to the next.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn strided(values: &'a [f32], [rows, columns]: [usize; 2], stride: usize) -> Self {
        assert!(
            values.len() >= span([rows, columns], stride),
            "a matrix of {rows} x {columns} does not fit its slice"
        );
        Self {
            values,
            rows,
            columns,
            down: stride,
            along: 1,
        }
    }

    /// Rows as columns.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            down: self.along,
            along: self.down,
            ..self
        }
    }

    /// Some of the columns.
    pub(super) fn columns_from(self, first: usize, columns: usize) -> Self {
        debug_assert!(first + columns <= self.columns);
        Self {
            values: &self.values[first * self.along..],
            columns,
            ..self
        }
    }

    /// Some of the rows.
    pub(super) fn rows_from(self, first: usize, rows: usize) -> Self {
        debug_assert!(first + rows <= self.rows);
        Self {
            values: &self.values[first * self.down..],
            rows,
            ..self
        }
    }

    /// A row whose elements lie in one piece.
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        debug_assert!(self.along == 1);
        &self.values[row * self.down..][..self.columns]
    }

    pub(super) fn values(self) -> &'a [f32] {
        self.values
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(crate) fn columns(self) -> usize {
        self.columns
    }

    /// Distances between an element and the one below it, and the next in its row.
    pub(super) fn strides(self) -> [usize; 2] {
        [self.down, self.along]
    }
}

/// A matrix in a slice that is written to, row by row.
pub(crate) struct MatMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    /// Distance between an element and the one in the next row.
    stride: usize,
}

impl<'a> MatMut<'a> {
    /// `[rows, columns]`, row after row.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn new(values: &'a mut [f32], shape: [usize; 2]) -> Self {
        Self::strided(values, shape, shape[1])
    }

    /// `[rows, columns]` with `stride` values from one row to the next.
    ///
    /// # Panics
    /// If the slice is too short.
    pub(crate) fn strided(
        values: &'a mut [f32],
        [rows, columns]: [usize; 2],
        stride: usize,
    ) -> Self {
        assert!(
            values.len() >= span([rows, columns], stride),
            "a matrix of {rows} x {columns} does not fit its slice"
        );
        Self {
            values,
            rows,
            columns,
            stride,
        }
    }

    /// Some of the columns.
    pub(super) fn columns_from(&mut self, first: usize, columns: usize) -> MatMut<'_> {
        debug_assert!(first + columns <= self.columns);
        MatMut {
            values: &mut self.values[first..],
            columns,
            ..*self
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The slice that it lies in, from its first element on.
    pub(super) fn values(&mut self) -> &mut [f32] {
        self.values
    }

    /// Each row.
    pub(super) fn each_row(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let columns = self.columns;
        let rows = self.values.chunks_mut(self.stride).take(self.rows);
        rows.map(move |row| &mut row[..columns])
    }
}

/// Values from the first element to the last.
fn span([rows, columns]: [usize; 2], stride: usize) -> usize {
    match rows > 0 && columns > 0 {
        true => (rows - 1) * stride + columns,
        false => 0,
    }
}
