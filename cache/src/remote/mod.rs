//! A remote: an object store beside the cache, shared with other people, other machines and CI.
//!
//! It holds what the cache holds, under the same names: `v1/blobs/ab/<digest>`, `v1/artifacts/ab/<digest>` (the
//! manifests), `v1/records/ab/<key>`. They are written in the order in which the cache publishes, the record last, and
//! only where there is nothing of that name: whoever finds a record finds all that it names. Every byte that comes from
//! there is checked before it gets a name here, so a remote can withhold results and cannot change one. What was found
//! to be wrong there is replaced when the same result is brought there again. Who can write to a remote can write records
//! of results that were never computed, as in every shared cache: give that right to those whose results you would take.
//!
//! A result comes whole, its files with its record, so that all that the cache promises of a record holds for it too.
//!
//! A remote is a convenience. One that does not answer is left alone by this process, one that takes nothing is brought
//! no more, and the reason is kept to be said once; nothing else comes of it.

mod address;
mod client;
mod error;
mod objects;
mod pull;
mod push;
mod shown;

pub use client::{Remote, Traffic};
pub use error::RemoteError;
pub use push::{Depth, Pusher};
