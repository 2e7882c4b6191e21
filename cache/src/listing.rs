//! Listing the sharded folders of a store.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Digest, StoreError};

/// The digests that name the entries of a sharded folder, in order. Other entries are left out.
pub(crate) fn list_digests(folder: &Path, suffix: &str) -> Result<Vec<Digest>, StoreError> {
    let Listing { digests, unlisted } = list(folder, suffix);
    match unlisted.into_iter().next() {
        None => Ok(digests),
        Some((path, error)) => Err(StoreError::io("read", &path, error)),
    }
}

/// A sharded folder, as far as it can be listed.
pub(crate) struct Listing {
    /// In order.
    pub(crate) digests: Vec<Digest>,
    pub(crate) unlisted: Vec<(PathBuf, io::Error)>,
}

/// Lists a sharded folder and goes on past what cannot be listed.
pub(crate) fn list(folder: &Path, suffix: &str) -> Listing {
    let mut listing = Listing {
        digests: Vec::new(),
        unlisted: Vec::new(),
    };
    for shard in entries(folder, &mut listing.unlisted) {
        if !shard.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in entries(&shard.path(), &mut listing.unlisted) {
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|name| name.strip_suffix(suffix)?.parse::<Digest>().ok());
            listing.digests.extend(digest);
        }
    }
    listing.digests.sort();
    listing
}

fn entries(folder: &Path, unlisted: &mut Vec<(PathBuf, io::Error)>) -> Vec<fs::DirEntry> {
    let mut found = Vec::new();
    let mut error_at = |error| unlisted.push((folder.to_owned(), error));
    match fs::read_dir(folder) {
        Err(error) => error_at(error),
        Ok(entries) => {
            for entry in entries {
                match entry {
                    Ok(entry) => found.push(entry),
                    Err(error) => {
                        error_at(error);
                        break;
                    }
                }
            }
        }
    }
    found
}
