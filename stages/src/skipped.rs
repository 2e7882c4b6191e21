//! Stages that are skipped because a set is empty: their outputs say so, and the stages below pass it on.

use std::path::Path;

use dcsft_engine::stage::{OutputDecl, StageContext, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::{Dataset, read_json, write_json};

/// In the place of an artifact's own files.
const FILE: &str = "skipped.json";

/// What happens where the input `data` has no samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnEmpty {
    /// The stage fails.
    #[default]
    Fail,
    /// The stage and those that read its outputs are skipped; their arm has no results, and a line says why.
    Skip,
}

impl OnEmpty {
    /// Whether it is what is done without being asked.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a skipped artifact holds.
#[derive(Serialize, Deserialize)]
struct Skipped {
    because: String,
}

/// Why the stage is to be skipped, if it is: one of its inputs was, or `data` is empty and that is to skip it.
pub(crate) fn reason(ctx: &StageContext, on_empty: OnEmpty) -> Result<Option<String>, StageError> {
    for name in ["model", "data", "rollouts"] {
        if let Some(because) = ctx.optional(name).and_then(|input| of(&input.dir)) {
            return Ok(Some(because));
        }
    }
    match ctx.optional("data") {
        Some(data) if on_empty == OnEmpty::Skip && Dataset::info_of(&data.dir)?.count == 0 => {
            let label = &data.label;
            Ok(Some(format!(
                "`{}.{}` has no samples",
                label.stage, label.output
            )))
        }
        _ => Ok(None),
    }
}

/// Why the artifact in `dir` was skipped, if it was.
pub(crate) fn of(dir: &Path) -> Option<String> {
    let skipped: Skipped = read_json(&dir.join(FILE)).ok()?;
    Some(skipped.because)
}

/// Leaves skipped artifacts out of all inputs, and says which arms they are of.
pub(crate) fn leave_out_inputs(ctx: &mut StageContext) {
    let mut found = std::collections::BTreeSet::new();
    ctx.retain_inputs(|input| {
        let because = of(&input.dir);
        if let Some(because) = &because {
            found.insert(format!(
                "the arm {} was skipped: {because}",
                input.label.arm
            ));
        }
        because.is_none()
    });
    for sentence in found {
        ctx.warn(sentence);
    }
}

/// Makes the artifact in `dir` a skipped one.
pub(crate) fn mark(dir: &Path, because: &str) -> Result<(), StageError> {
    let because = because.to_owned();
    Ok(write_json(&dir.join(FILE), &Skipped { because })?)
}

/// Skips the stage: each output says why.
pub(crate) fn skip(
    ctx: &mut StageContext,
    outputs: &[OutputDecl],
    because: String,
) -> Result<(), StageError> {
    for output in outputs {
        mark(&ctx.output(&output.name)?, &because)?;
    }
    ctx.skip(because);
    Ok(())
}
