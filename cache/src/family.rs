//! Families: results that have parts in common, so that a new one need not compute what another has.
//!
//! A family has a digest, as a key has, and a folder with an empty file for each member. That is a hint and nothing else:
//! a member without a record counts for nothing, and a family that is lost costs time, never a result.

use std::fs;
use std::io;

use crate::error::Context;
use crate::listing::list_digests;
use crate::{Digest, Record, Store, StoreError, durable, file};

/// The members of each family.
pub(crate) fn all(store: &Store) -> Result<Vec<Vec<Digest>>, StoreError> {
    let families = store.layout.families();
    if !families.exists() {
        return Ok(Vec::new());
    }
    let members = |family: Digest| {
        let folder = store.layout.family(&family);
        let entries = fs::read_dir(&folder).context("read", &folder)?;
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect())
    };
    list_digests(&families, "")?
        .into_iter()
        .map(members)
        .collect()
}

impl Store {
    /// Makes `key`, which has a record, a member of `family`.
    pub fn join_family(&self, family: &Digest, key: &Digest) -> Result<(), StoreError> {
        let folder = self.layout.family(family);
        durable::create_dirs(&folder)?;
        let path = folder.join(key.to_string());
        file::write(&path, "").context("write", &path)
    }

    /// The records of `family`, the one that joined last first.
    pub fn family(&self, family: &Digest) -> Result<Vec<Record>, StoreError> {
        let folder = self.layout.family(family);
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("read", &folder)?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let entry = entry.context("read", &folder)?;
            let name = entry.file_name();
            let Some(key) = name.to_str().and_then(|name| name.parse::<Digest>().ok()) else {
                continue;
            };
            // Records know the second in which they were written; many are written in one.
            let joined = entry.metadata().and_then(|meta| meta.modified()).ok();
            records.extend(self.lookup(&key)?.map(|record| (joined, record)));
        }
        records.sort_by(|(a, one), (b, other)| b.cmp(a).then(one.key.cmp(&other.key)));
        Ok(records.into_iter().map(|(_, record)| record).collect())
    }

    /// Removes members without a record, and families without a member.
    pub(crate) fn forget_members(&self) -> Result<(), StoreError> {
        let families = self.layout.families();
        if !families.exists() {
            return Ok(());
        }
        for family in list_digests(&families, "")? {
            let folder = self.layout.family(&family);
            for entry in fs::read_dir(&folder).context("read", &folder)? {
                let path = entry.context("read", &folder)?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                let key = name.and_then(|name| name.parse::<Digest>().ok());
                if !key.is_some_and(|key| self.layout.record(&key).exists()) {
                    durable::remove(&path)?;
                }
            }
            // Removes nothing but an empty folder.
            let _ = fs::remove_dir(&folder);
        }
        Ok(())
    }
}
