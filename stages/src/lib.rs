//! The stage kinds: data, models, training, rollouts, difficulty, evaluation, report.

pub mod data;
pub mod reward;
