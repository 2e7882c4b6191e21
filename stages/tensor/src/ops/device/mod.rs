//! The operations on devices other than the CPU, made of burn's own, each as one step of the autodiff graph.
//!
//! They give the numbers of [`super::composed`] up to rounding, on any device. No more is kept for a gradient than the
//! CPU's operations keep: burn's own would keep every value on the way, and copies in 32 bits of those of a model in 16.
//! Norms, rotary positions, and what a step adds to a cache are kernels of ours where there are any.

mod append;
pub mod attention;
mod gate;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
pub(in crate::ops) mod kernels;
mod linear;
mod logprobs;
mod norm;
mod product;
mod rotary;
mod scores;
mod shares;
mod slots;
mod width;

pub use attention::attention;
pub use gate::swiglu;
pub use linear::linear;
pub use logprobs::token_logprobs;
pub use norm::{layer_norm, rms_norm};
pub(super) use product::product_in_graph;
pub use rotary::{rotate, rotate_wide};
pub(super) use slots::{ROOM, Slots};
