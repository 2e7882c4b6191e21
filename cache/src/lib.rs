//! The cache.
mod artifact;
pub mod canonical;
mod digest;
mod durable;
mod error;
pub mod gc;
mod layout;
mod lock;
mod publish;
mod quarantine;
mod record;
mod stat;
mod statcache;
mod store;
mod tree;
pub mod verify;

pub use artifact::{Artifact, SMALL_FILE};
pub use canonical::CanonicalError;
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use lock::{KeyLock, StoreGuard};
pub use record::{OutputRef, Record};
pub use statcache::PathStats;
pub use store::{Store, Usage};
pub use tree::FileEntry;
