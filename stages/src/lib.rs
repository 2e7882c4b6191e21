//! The stage kinds: data, models, training, rollouts, difficulty, evaluation, report.

pub mod data;
pub mod dataset;
pub mod difficulty;
pub mod reward;
pub mod shapes;

use dcsft_engine::kind::Registry;

/// All stage kinds.
pub fn registry() -> Registry {
    Registry::default().with::<dataset::ImportDataset>().with::<difficulty::Difficulty>().with::<shapes::Shapes>()
}
