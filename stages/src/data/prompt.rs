//! From samples to what models take.

use std::sync::Arc;

use dcsft_vlm::model::{Example, Prompt, Tokenizer};

use super::error::DataError;
use super::sample::Sample;
use super::store::Dataset;

/// Stands in a prompt where an image does.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// The sample's question with its decoded image.
///
/// # Errors
/// If the image cannot be had; see [`Dataset::image`].
pub fn to_prompt(dataset: &Dataset, sample: &Sample) -> Result<Prompt, DataError> {
    Ok(Prompt {
        id: Arc::from(sample.id.as_str()),
        image: dataset.image(sample)?,
        text: Arc::from(sample.prompt.as_str()),
    })
}

/// The sample as a training example: its question, and its answer's tokens with the end token.
///
/// # Errors
/// If the image cannot be had or the vocabulary cannot write the answer.
pub fn to_example(
    dataset: &Dataset,
    sample: &Sample,
    tokenizer: &dyn Tokenizer,
) -> Result<Example, DataError> {
    let mut answer = tokenizer
        .encode(&sample.answer)
        .map_err(|error| DataError::Sample {
            id: sample.id.clone(),
            message: format!("the answer {:?}: {error}", sample.answer),
        })?;
    answer.push(tokenizer.eos());
    Ok(Example {
        prompt: to_prompt(dataset, sample)?,
        answer: answer.into(),
    })
}
