//! Rows by index on a device.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::host::send;

/// Which rows of a tensor are taken, in which order. Its indices are on the device.
#[derive(Debug)]
pub(in crate::ops) enum Gather {
    /// All, as they are.
    All,
    /// `count` rows from `first` on.
    Stretch { first: usize, count: usize },
    /// None of them twice. `padding` rows of zeros are put behind the rows, so that a place that no row is for has one of
    /// its own: where no row is taken twice, the gradients of all rows can be put in their places at once.
    Distinct {
        indices: Tensor<2, Int>,
        padding: usize,
    },
    /// Some of them more than once.
    Repeated(Tensor<1, Int>),
}

impl Gather {
    /// Of `rows` rows those at `places`; where there is none, a row of zeros.
    ///
    /// # Panics
    /// If a row is taken twice and there are places without one.
    pub(in crate::ops) fn new(places: &[Option<u32>], rows: usize, device: &Device) -> Self {
        let mut taken = vec![false; rows];
        let distinct = places.iter().flatten().all(|&row| {
            let place = &mut taken[row as usize];
            !std::mem::replace(place, true)
        });
        let padding = places.iter().filter(|place| place.is_none()).count();
        if !distinct {
            assert_eq!(padding, 0, "rows that are taken twice have no padding");
            let rows: Vec<u32> = places.iter().flatten().copied().collect();
            return Self::repeated(&rows, device);
        }
        if padding == 0 {
            let taken: Vec<u32> = places.iter().flatten().copied().collect();
            if let Some(stretch) = Self::stretch(&taken, rows) {
                return stretch;
            }
        }
        let mut none = rows as u32..;
        let indices: Vec<i32> = places
            .iter()
            .map(|place| place.or_else(|| none.next()).unwrap_or_default() as i32)
            .collect();
        let indices = TensorData::new(indices, [places.len(), 1]);
        Self::Distinct {
            indices: send(indices, device),
            padding,
        }
    }

    /// Of `rows` rows those that follow each other from the first of `indices` on, if they do.
    fn stretch(indices: &[u32], rows: usize) -> Option<Self> {
        let first = indices.first().copied().unwrap_or(0);
        let follow = indices.iter().zip(first..).all(|(&row, next)| row == next);
        let (first, count) = (first as usize, indices.len());
        match (follow, count == rows) {
            (false, _) => None,
            (true, true) => Some(Self::All),
            (true, false) => Some(Self::Stretch { first, count }),
        }
    }

    /// Rows by index, repeats allowed. The gradient of a row is summed by one thread a column.
    pub(in crate::ops) fn repeated(indices: &[u32], device: &Device) -> Self {
        let indices: Vec<i32> = indices.iter().map(|&index| index as i32).collect();
        let count = indices.len();
        Self::Repeated(send(TensorData::new(indices, [count]), device))
    }

    /// `[rows, width]` to `[places, width]`.
    pub(in crate::ops) fn take(&self, x: Tensor<2>) -> Tensor<2> {
        let width = x.dims()[1];
        match self {
            Self::All => x,
            Self::Stretch { first, count } => x.slice([*first..first + count, 0..width]),
            Self::Distinct { indices, padding } => {
                let x = match padding {
                    0 => x,
                    padding => {
                        let zeros = Tensor::zeros([*padding, width], (&x.device(), x.dtype()));
                        Tensor::cat(vec![x, zeros], 0)
                    }
                };
                x.gather_nd(indices.clone())
            }
            Self::Repeated(indices) => x.select(0, indices.clone()),
        }
    }
}
