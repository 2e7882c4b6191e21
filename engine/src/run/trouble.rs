//! Why an attempt has no result.

use dcsft_cache::StoreError;

use super::error::RunError;
use super::executor::End;
use crate::journal::Reason;

/// Why there is no result.
pub(super) enum Trouble {
    /// The stage's own, or its worker's.
    Stage {
        reason: Reason,
        message: String,
        /// Another try may end otherwise.
        again: bool,
    },
    Interrupted,
    /// Its job was lost, through no fault of its own.
    JobLost(String),
    /// Another host took this one for dead, and the key is no longer this run's.
    Lost,
    /// The run cannot go on.
    Broken(RunError),
}

impl Trouble {
    pub(super) fn for_good(reason: Reason, message: impl Into<String>) -> Self {
        Self::Stage {
            reason,
            message: message.into(),
            again: false,
        }
    }
}

impl Trouble {
    /// Of an attempt that ended so; it did not end well.
    pub(super) fn of(end: &End) -> Self {
        if let End::Lost(how) = end {
            return Self::JobLost(format!("its job was lost: {how}"));
        }
        let (reason, message, again) = end.failure().unwrap_or_default();
        Self::Stage {
            reason,
            message,
            again,
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Broken(RunError::Store(error))
    }
}
