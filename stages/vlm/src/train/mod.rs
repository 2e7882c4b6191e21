//! Training: supervised fine-tuning ([`sft`]) and group-relative policy optimisation ([`grpo`]).
//!
//! Both trainers take a [`VisionLanguageModel`](crate::model::VisionLanguageModel) and examples in memory, and
//! report to an [`Observer`]. Everything random is keyed by (seed, purpose, step, sample), so a run that was
//! stopped and restored ends with the same bytes as one that was not.

pub mod adamw;
pub mod augment;
mod auxiliary;
mod check;
pub mod error;
mod gradients;
pub mod grpo;
mod master;
mod observer;
pub mod order;
pub mod schedule;
pub mod sft;
mod state;
mod trainer;

pub use error::TrainError;
pub use observer::{Checkpoint, Observer};
pub use state::STATE_FILE;
pub use trainer::Trainer;
