//! The stage kinds: data, models, training, rollouts, difficulty, evaluation, report.

mod answers;
pub mod data;
pub mod dataset;
pub mod difficulty;
pub mod eval;
pub mod export;
mod files;
mod frames;
pub mod grpo;
pub mod import;
mod kept;
mod layout;
mod lent;
mod memory;
mod misfit;
pub mod model;
mod progress;
pub mod report;
pub mod reward;
pub mod rollout;
pub mod sft;
pub mod shapes;
mod shown_set;
mod skipped;
mod training;
mod writing;

use dcsft_engine::command::Command;
use dcsft_engine::stage::{Numerics, Registry};
pub use shown_set::ShownSet;
pub use skipped::OnEmpty;
pub use training::TrainingParams;
pub use writing::Writing;

/// All stage kinds.
pub fn registry() -> Registry {
    Registry::new(numerics)
        .with_kind(Command::new(layout::Artifacts))
        .with::<dataset::ImportDataset>()
        .with::<difficulty::Difficulty>()
        .with::<eval::Eval>()
        .with::<grpo::Grpo>()
        .with::<import::ImportRollouts>()
        .with::<model::Model>()
        .with::<report::Report>()
        .with::<rollout::Rollout>()
        .with::<sft::Sft>()
        .with::<shapes::Shapes>()
}

/// The arithmetic of a device (`cpu`, `cuda:0`), whatever its index: burn's backend and the element type. The number behind
/// the type counts how often what operations give on such a device was changed.
pub fn numerics(device: &str) -> Numerics {
    let (backend, dtype) = match device.split(':').next() {
        None | Some("" | "cpu") => ("flex", "f32"),
        Some("cuda") => ("cuda", "f32-8"),
        Some("wgpu") => ("wgpu", "f32-6"),
        Some(other) => (other, "f32"),
    };
    Numerics {
        backend: backend.to_owned(),
        dtype: dtype.to_owned(),
    }
}
