//! Why a run cannot go on.

use dcsft_cache::StoreError;

use crate::journal::JournalError;
use crate::key::KeyError;

/// Why a run could not go on. A stage that fails is not such a reason: see [`RunOutcome::failed`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The cache.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run's journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A key that could be computed only now.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A stage is done, and its result cannot be stored.
    #[error(
        "{title} is done, and its result cannot be stored: {source}; it is kept, and the next run stores it without computing it again"
    )]
    Unstored {
        /// The stage.
        title: String,
        /// Why not.
        source: StoreError,
    },
    /// A stage cannot read or write its workspace in the cache.
    #[error("{title} cannot go on: {message}")]
    Workspace {
        /// The stage.
        title: String,
        /// Why not.
        message: String,
    },
    /// A stage asks for more than there is.
    #[error("{title} can never start: it asks for {what} (`resources` at {place})")]
    NoRoom {
        /// The stage.
        title: String,
        /// Where it stands in the spec.
        place: String,
        /// What it asks for and what there is.
        what: String,
    },
    /// The system starts no further thread.
    #[error("cannot start a thread for {title} ({source})")]
    Thread {
        /// The stage that was to run.
        title: String,
        /// The system's answer.
        source: std::io::Error,
    },
}
