//! What stages that let a model write are told of its answers.

use dcsft_engine::stage::ParamProblem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How answers are written, however their tokens are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Writing {
    /// Makes tokens that the prompt or the answer has already less likely, as in Hugging Face's `generate`; 1 switches
    /// it off.
    #[schemars(range(min = 0.0))]
    pub repetition_penalty: f64,
    /// An answer ends after this many tokens at the latest.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
}

impl Default for Writing {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            max_new_tokens: 128,
        }
    }
}

impl Writing {
    /// Mistakes that types do not catch.
    pub(crate) fn problems(&self) -> impl Iterator<Item = ParamProblem> {
        let tokens = (self.max_new_tokens == 0)
            .then(|| ParamProblem::new("max_new_tokens", "must be at least 1, not 0"));
        let penalty = self.repetition_penalty;
        let penalty = (!(penalty.is_finite() && penalty > 0.0)).then(|| {
            let message = format!("must be a number above 0, not {penalty}");
            ParamProblem::new("repetition_penalty", message)
        });
        tokens.into_iter().chain(penalty)
    }
}
