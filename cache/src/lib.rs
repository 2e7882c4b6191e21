//! The cache: results of computations, stored by content and found by key.
//!
//! This crate knows nothing of stages, models or specs. It knows digests, folders and records, and promises that what
//! it gives back is what was put in, whatever happened in between.
//!
//! # The three things in a store
//!
//! - A **blob** is the bytes of one file, named by their digest.
//! - An **[`Artifact`]** is a folder of files, named by the digest of its sorted (path, file digest) pairs. Its files
//!   are links to blobs, so equal files are stored once. It can be browsed like any folder.
//! - A **[`Record`]** is the result of one *key*: which artifacts came out, the metrics, and the key's preimage.
//!
//! ```text
//! root/
//!   CACHEDIR.TAG  .gitignore
//!   v1/                           the layout's version
//!     blobs/ab/<digest>           bytes, read-only
//!     artifacts/ab/<digest>/      manifest.json, files/...
//!     records/ab/<key>.json       the last thing written for a key
//!     work/<key>/                 scratch of a key that is being computed; survives kills
//!     stat-cache/                 digests of users' files, by path, size, times and inode
//!     checked/ab/<artifact>       which large files were read and found right, and since when
//!     families/ab/<family>/<key>  which results have parts in common
//!     locks/  tmp/  quarantine/  runs/
//! ```
//!
//! # What is in a key
//!
//! A key is [`canonical::digest`] of everything that decides a result, and of nothing else. Whoever builds keys puts in
//!
//! - *what is done*: the kind of the computation and its semantic version, a number that a person raises when the
//!   meaning of the same params changes;
//! - *the params*, with defaults filled in, so that writing a default out changes nothing;
//! - *the numerics*: backend and data type, where they can change a result;
//! - *the inputs, by content*: digests of artifacts and of users' files ([`Store::digest_path`]).
//!
//! It must not contain paths, host names, times, thread counts, the device's index, or the digest of the program.
//! What the same result can be computed with is *execution*; it goes to [`Record::execution`].
//!
//! Since inputs enter by content and not by the key that made them, a computation that comes to the same bytes as
//! before stops the change there: everything after it is found in the cache (early cutoff). Two thresholds that select
//! the same samples share everything that follows.
//!
//! Why not the program's digest? It would make every rebuild void every result, which drives users from caches
//! altogether. The price is that a change of meaning needs a version raised by hand; tests with golden keys and golden
//! outputs are there to make its author think of it.
//!
//! The preimage is stored in [`Record::explain`], so that two keys can be compared value by value to say *why* something
//! is computed again. By the law of [`canonical`] the key can be recomputed from it.
//!
//! # What survives what
//!
//! Everything becomes visible by one rename, after its bytes are on the disk, and in the order blobs, artifact, record.
//! So a kill, a power cut or a full disk at any moment leaves the store whole, plus garbage in `tmp/` or blobs without a
//! record; the next [`gc::collect`] removes these. A reader sees all of a thing or nothing of it.
//!
//! Disks do lose bytes. [`Store::lookup`] checks the record's own digest and that its artifacts are there.
//! [`Store::open_input`] checks an artifact's list of files, all sizes, and the bytes: those of files up to
//! [`SMALL_FILE`] each time, those of larger ones once and then whenever size, times or inode have changed.
//! [`Store::open_verified`] and [`verify::verify`] read every byte, whatever is remembered. What is remembered of files
//! carries a digest of itself and is made anew when that is wrong.
//!
//! What is damaged is moved to the quarantine with a note, its key counts as not computed, and the next run computes it
//! again. A thing that cannot be read, or that is no file where one should be, is damaged too. Nothing is repaired by
//! guessing and nothing damaged is served. Publishing bytes that are stored already reads the stored ones, and replaces
//! them if they are damaged.
//!
//! Damage does not stay where it is: somebody may have computed with it. A record names its inputs, so when an artifact
//! is found damaged, the records of what was computed from it are void as well, and those of younger members of their
//! families. The exception is what was recorded before the artifact was last known to be sound. It is void on
//! suspicion: to compute again only costs, and wrong numbers are worse.
//!
//! # Who may do what at the same time
//!
//! Any number of processes may use a store, on any number of hosts that share its folder. Two that want the same key
//! take its lock ([`Store::lock`]): one computes, the other waits and then finds the record. A lock is two things: one of
//! the operating system's, which ends with its process, and a [`Lease`], which reaches other hosts where the first does
//! not. There is no command to unlock anything: on one host a lease ends with its process too, and one of another host
//! is stale when it has stood still for [`STALE`] beats of [`BEAT`] by the clock of whoever waits. What comes back after
//! that, from a host that was frozen, finds that it has lost the key ([`KeyLock::is_held`]) and stores nothing.
//!
//! A run [holds](Store::hold) the store from its first look-up to its last commit; garbage collection needs the store
//! for itself and says whom it would wait for, on other hosts too.
//!
//! # Limits
//!
//! - Where the operating system's locks do not reach, collection relies on the holders' leases and on leaving alone what
//!   is younger than [`gc::Policy::grace`]. Leases need a folder in which a file is made once: every file system has
//!   that, and some that are mounted from object stores do not.
//! - Files are read-only, but whoever owns them can make them writable. A process that writes through a link into the
//!   store damages what shares these bytes; the next [`open_input`](Store::open_input) of it notices.
//! - A bit that flips on the disk changes no time. In a file larger than [`SMALL_FILE`] that was read before, only
//!   [`open_verified`](Store::open_verified) and `verify` notice it.
//! - An artifact keeps paths and bytes: no modes, times, links or empty folders. Names must be UTF-8.
//! - The stat cache trusts the inode's time of change. A file system that does not keep it needs `paranoid`.
//! - A kill between taking an output folder and showing the artifact (a few renames) costs that output; an error there
//!   gives it back. The computation's state is not touched, so it can be resumed.

mod artifact;
pub mod canonical;
mod checks;
mod digest;
mod durable;
mod error;
mod family;
pub mod file;
pub mod gc;
mod layout;
mod lease;
mod listing;
mod lock;
mod mount;
mod open;
mod outgoing;
mod owner;
mod publish;
mod quarantine;
mod read;
mod record;
mod remote;
mod sealed;
mod stat;
mod statcache;
mod store;
mod taint;
mod tree;
pub mod verify;

pub use artifact::{Artifact, SMALL_FILE};
pub use canonical::CanonicalError;
pub use digest::{Digest, ParseDigestError};
pub use error::StoreError;
pub use lease::{BEAT, Lease, STALE};
pub use lock::{KeyLock, StoreGuard};
pub use outgoing::{SealedFile, is_sealed, seal, write_durable};
pub use record::{Json, OutputRef, Record};
pub use remote::{Depth, Pusher, Remote, RemoteError, Traffic};
pub use statcache::PathStats;
pub use store::{Lookups, Store, Usage};
pub use taint::Voided;
pub use tree::{FileEntry, fault_of_name, fault_of_path};
