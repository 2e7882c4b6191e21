//! Why a remote cannot be used at all, and what can go wrong with one object of it.

/// A remote that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the remote `{url}` cannot be used: {reason}")]
pub struct RemoteError {
    /// As it was given, without what must not be shown.
    pub url: String,
    /// Why.
    pub reason: String,
}

/// Why there is no object, or why none could be put there.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// It is not there.
    Absent,
    /// Nothing is wanted of the remote any more.
    Stopped,
    /// It is there and not what it should be.
    Wrong(String),
    /// What the cache has is not what it should be.
    Own(String),
    /// The remote does not answer, refuses, or is full; or the cache is.
    Failed(String),
}
