//! The engine: specs, axes, DAG, plan, keys, scheduler, worker processes, run journal.
//!
//! It knows nothing of images, rewards or tensors: what computes is a [`kind::Stage`].

pub mod context;
pub mod kind;
pub mod protocol;
pub mod study;
