//! Training: supervised fine-tuning ([`sft`]) and group-relative policy optimisation ([`grpo`]).
//!
//! A [`Trainer`] makes the run: it takes a [`VisionLanguageModel`](crate::model::VisionLanguageModel) and an
//! [`Objective`], and reports to an [`Observer`]. Everything random is keyed by (seed, purpose, step, sample), so a run that was
//! stopped and restored ends with the same bytes as one that was not.

pub mod adamw;
pub mod augment;
mod auxiliary;
mod check;
mod config;
pub mod error;
mod floats;
mod gradients;
pub mod grpo;
mod home;
mod master;
mod objective;
mod observer;
pub mod order;
mod passes;
pub mod schedule;
pub mod sft;
mod state;
mod team;
mod trainer;

pub use config::RunConfig;
pub use error::TrainError;
pub use objective::{At, Loss, Made, Objective, Seen};
pub use observer::{Checkpoint, Observer};
pub use state::STATE_FILE;
pub use team::Team;
pub use trainer::{RunSettings, Trainer};
