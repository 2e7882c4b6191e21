//! Rotary positions.

use burn::tensor::{DType, Tensor};

use super::width::{typed, wide};
use crate::ops::Rotary;
use crate::ops::composed::turned;
use crate::ops::graph::{Rule, plain, record_rule};

/// As [`crate::ops::rotate`].
pub fn rotate(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    let dtype = x.dtype();
    rotate_by(x, rotary, heads, dtype)
}

/// As [`crate::ops::rotate_wide`].
pub fn rotate_wide(x: Tensor<2>, rotary: &Rotary, heads: usize) -> Tensor<2> {
    rotate_by(x, rotary, heads, DType::F32)
}

/// With cosines and sines of this type.
fn rotate_by(x: Tensor<2>, rotary: &Rotary, heads: usize, dtype: DType) -> Tensor<2> {
    let values = plain(x.clone());
    let turn = Turn {
        tables: rotary.tables(&values.device(), dtype),
        heads,
    };
    let out = turn.apply(values, false);
    record_rule([x], out, || turn)
}

/// A turn of the first heads of each row.
#[derive(Clone, Debug)]
struct Turn {
    /// Cosines and sines, `[rows, 1, half]`.
    tables: [Tensor<3>; 2],
    heads: usize,
}

impl Turn {
    fn apply(&self, x: Tensor<2>, back: bool) -> Tensor<2> {
        #[cfg(any(feature = "cuda", feature = "wgpu"))]
        if !crate::host::on_host(&x) {
            return super::kernels::rotate(&x, &self.tables, self.heads, back);
        }
        let [cos, sin] = self.tables.clone();
        let sin = if back { sin.neg() } else { sin };
        let dtype = x.dtype();
        match cos.dtype() == dtype {
            true => turned(x, [cos, sin], self.heads),
            false => typed(turned(wide(&x), [cos, sin], self.heads), dtype),
        }
    }
}

impl Rule<1> for Turn {
    fn gradients(self, grad: Tensor<2>, [asked]: [bool; 1]) -> [Option<Tensor<2>>; 1] {
        [asked.then(|| self.apply(grad, true))]
    }
}
