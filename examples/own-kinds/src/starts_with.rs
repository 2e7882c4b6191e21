//! `starts_with`: an answer is right if it begins with the right answer, whatever it goes on to say.

use dcsft_stages::reward::{OwnReward, normalise};

/// The reward.
pub(crate) struct StartsWith;

impl OwnReward for StartsWith {
    fn name(&self) -> &'static str {
        "starts_with"
    }

    fn version(&self) -> u32 {
        1
    }

    fn score(&self, completion: &str, answer: &str) -> f32 {
        let right = normalise(completion).starts_with(&normalise(answer));
        f32::from(u8::from(right))
    }
}
