//! Loops over `f32` slices: the numbers behind the fused operations.
//!
//! Every result is the same bits for any number of threads, any cut of the rows and any instruction set with
//! fused multiply-add: products are summed in order of the inner dimension by fused multiply-adds (long ones of linear
//! layers in parts whose length depends on theirs), squares of a row in 32 sums that are added in a fixed order, other
//! sums in sixteen lanes that are added pairwise, and `exp` is a polynomial. Functions here run on one thread;
//! [`parallel`] cuts work into pieces whose sizes depend on the work alone.

mod attention;
mod gate;
mod math;
mod matmul;
mod matrix;
mod norm;
pub(crate) mod parallel;
mod rotary;

pub(crate) use attention::{
    Packed, add_weighted_rows, attend, attend_backward, dot_rows, softmax_row,
};
pub(crate) use gate::{swiglu, swiglu_backward};
pub use math::exp_in_place;
pub(crate) use math::{entropy, gelu, gelu_backward, gelu_tanh, gelu_tanh_backward, squares};
pub(crate) use matmul::{add_product, add_product_in_parts, add_row};
pub(crate) use matrix::{MatMut, MatRef};
pub(crate) use norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub(crate) use rotary::rotate;
