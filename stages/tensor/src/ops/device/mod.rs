//! The operations on devices other than the CPU, made of burn's own, each as one step of the autodiff graph.
//!
//! They give the numbers of [`super::composed`] up to rounding, on any device. What is kept for a gradient is what the
//! CPU's operations keep, and no more: burn's own would keep every value on the way, and copies in 32 bits of those of a
//! model in 16.

pub mod attention;
mod gate;
mod linear;
mod logprobs;
mod norm;
mod width;

pub use attention::attention;
pub use gate::swiglu;
pub use linear::linear;
pub use logprobs::token_logprobs;
pub use norm::{layer_norm, rms_norm};
