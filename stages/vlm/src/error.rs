//! What can go wrong with a model.

use std::path::PathBuf;

use dcsft_tensor::host::CopyError;

/// An error of the model layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VlmError {
    /// A character or word that the vocabulary cannot write.
    #[error("the model's vocabulary cannot write {text:?}: no token for {unknown:?}")]
    Vocabulary {
        /// The text.
        text: String,
        /// The first part of it without a token.
        unknown: String,
    },
    /// An example that is longer than the model's context.
    #[error("{what} takes {needed} tokens, and the model has room for {room}")]
    TooLong {
        /// What is too long.
        what: String,
        /// Tokens it takes.
        needed: usize,
        /// Tokens there are.
        room: usize,
    },
    /// A setting that no model can be built or trained with.
    #[error("{0}")]
    Config(String),
    /// Answers that no reward can be had of.
    #[error("the reward: {0}")]
    Reward(String),
    /// An image that cannot be read when it is needed.
    #[error("{0}")]
    Image(String),
    /// A weights file that does not fit the model.
    #[error("{path}: {problem}")]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What a device has computed cannot be had: it ran out of memory, or failed.
    #[error(transparent)]
    Device(#[from] CopyError),
    /// A model whose logits are no numbers: no answer can be drawn from them.
    #[error(
        "the model's logits for token {token} of its answer to sample {sample} hold {value}: its weights are damaged, or \
         the training that made them went astray"
    )]
    Logits {
        /// The sample's content ID.
        sample: String,
        /// Place in the answer, from 1.
        token: usize,
        /// The first logit that is no number, or infinite.
        value: f32,
    },
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}
