//! Kernels of ours in the place of chains of burn's: each reads its inputs once and computes in 32 bits. And which one of
//! burn's makes the products of such numbers.

mod activation;
mod append;
mod gate;
mod grid;
mod mix;
mod norm;
mod product;
mod rotary;
mod shares;
mod softmax;
mod weights;

pub(super) use activation::{gelu, gelu_gradient};
pub(super) use append::append;
pub(super) use gate::{swiglu, swiglu_gradients};
pub(super) use grid::{Cells, Columns, Sources, bring, collect, spread};
pub(super) use mix::{along, mixed};
pub(super) use norm::{layer_norm, norm_gradient, rms_norm};
pub(super) use product::product;
pub(super) use rotary::rotate;
pub(super) use shares::weights;
pub(super) use softmax::{Sees, softmax, softmax_gradient};
