//! What a folder has to hold that a program of the user's gives out as a dataset, as rollouts or as a model.

use std::path::Path;

use dcsft_engine::command::Layouts;
use dcsft_engine::stage::{ArtifactType, StageError};
use dcsft_models::micro::MicroVlm;
use dcsft_models::{CONFIG, inspect, is_micro};
use dcsft_tensor::device::DeviceSpec;
use dcsft_vlm::error::VlmError;

use crate::data::{Dataset, Rollouts};
use crate::skipped;

/// What the stages know of artifacts.
pub(crate) struct Artifacts;

impl Layouts for Artifacts {
    fn check(&self, artifact: ArtifactType, dir: &Path) -> Result<(), String> {
        check(artifact, dir)
    }

    fn skipped(&self, dir: &Path) -> Option<String> {
        skipped::of(dir)
    }

    fn skip(&self, dir: &Path, because: &str) -> Result<(), StageError> {
        skipped::mark(dir, because)
    }
}

/// Says what is wrong with the folder `dir` as an artifact of this type: the file, and what it lacks.
fn check(artifact: ArtifactType, dir: &Path) -> Result<(), String> {
    let words = |error: &dyn std::fmt::Display| {
        // The folder is one of the cache's; its user knows the output's name.
        error
            .to_string()
            .replace(&format!("{}/", dir.display()), "")
    };
    match artifact {
        ArtifactType::Dataset => {
            let data = Dataset::open(dir).map_err(|error| words(&error))?;
            for sample in data.samples() {
                for entry in &sample.images {
                    let read = data.image_bytes(entry);
                    read.map_err(|error| format!("sample {}: {}", sample.id, words(&error)))?;
                }
            }
            Ok(())
        }
        ArtifactType::Rollouts => Rollouts::open(dir).map(drop).map_err(|error| words(&error)),
        ArtifactType::Model => model(dir).map_err(|error| words(&error)),
        _ => Ok(()),
    }
}

/// Looks at what can be seen without reading weights; a micro model is small enough to be read whole.
fn model(dir: &Path) -> Result<(), VlmError> {
    if !dir.join(CONFIG).exists() || !is_micro(dir)? {
        return inspect(dir, true).map(drop);
    }
    let device = DeviceSpec::Cpu.open();
    let device = device.map_err(|error| VlmError::Config(error.to_string()))?;
    MicroVlm::load(dir, &device).map(drop)
}
