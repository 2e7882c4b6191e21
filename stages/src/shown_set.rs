//! What every stage that shows a set to a model is told of the two.

use dcsft_engine::stage::{ParamProblem, StageContext, StageError};
use dcsft_vlm::model::VisionLanguageModel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::OnEmpty;
use crate::data::Dataset;
use crate::misfit::MaxDropped;
use crate::model::{self, PixelLimits};

/// How large images are, and what is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ShownSet {
    /// Least area of an image in pixels, in the place of the model's; smaller images are enlarged. Not for `micro`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub min_pixels: Option<usize>,
    /// Largest area of an image in pixels, in the place of the model's; larger images are reduced. Not for `micro`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_pixels: Option<usize>,
    /// So many samples may be left out: a count, or below 1 a share. More fail the stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_dropped: Option<MaxDropped>,
    /// What happens where the set has no samples.
    #[serde(skip_serializing_if = "OnEmpty::is_default")]
    pub on_empty: OnEmpty,
}

impl ShownSet {
    /// The stage's own limits of an image's area.
    pub(crate) fn limits(&self) -> PixelLimits {
        PixelLimits {
            min: self.min_pixels,
            max: self.max_pixels,
        }
    }

    /// Mistakes that types do not catch.
    pub(crate) fn problems(&self) -> impl Iterator<Item = ParamProblem> {
        let dropped = self.max_dropped.and_then(MaxDropped::problem);
        dropped.into_iter().chain(self.limits().problems())
    }

    /// The input model under these limits, and the input set.
    ///
    /// # Errors
    /// If one of the two cannot be read, or the model cannot have such images.
    pub(crate) fn open(
        &self,
        ctx: &StageContext,
    ) -> Result<(Box<dyn VisionLanguageModel>, Dataset), StageError> {
        let mut model = model::open(ctx)?;
        self.limits().set(model.as_mut())?;
        let data = Dataset::open(&ctx.input("data")?.dir)?;
        Ok((model, data))
    }
}
