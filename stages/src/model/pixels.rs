//! Limits of an image's area for one stage, in the place of the model's.

use dcsft_engine::stage::{ParamProblem, StageError};
use dcsft_vlm::model::VisionLanguageModel;

/// Least and largest area in pixels, where the stage has its own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct PixelLimits {
    /// Smaller images are enlarged.
    pub(crate) min: Option<usize>,
    /// Larger images are reduced.
    pub(crate) max: Option<usize>,
}

impl PixelLimits {
    /// Mistakes that types do not catch.
    pub(crate) fn problems(self) -> impl Iterator<Item = ParamProblem> {
        let zero = [("min_pixels", self.min), ("max_pixels", self.max)]
            .into_iter()
            .filter(|(_, limit)| *limit == Some(0))
            .map(|(name, _)| ParamProblem::new(name, "must be at least 1, not 0"));
        let crossed = match (self.min, self.max) {
            (Some(least), Some(most)) if least > most => Some(ParamProblem::new(
                "min_pixels",
                format!("{least} is above `max_pixels`, which is {most}"),
            )),
            _ => None,
        };
        zero.chain(crossed)
    }

    /// Puts the model under these limits.
    ///
    /// # Errors
    /// If the model's images have one size always, or cannot have such a one.
    pub(crate) fn set(self, model: &mut dyn VisionLanguageModel) -> Result<(), StageError> {
        model
            .set_pixels(self.min, self.max)
            .map_err(StageError::failed)
    }
}
