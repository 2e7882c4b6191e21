//! From the remote into the cache.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use super::client::{Remote, Way, blob_name, each, manifest_name, record_name};
use super::error::Trouble;
use crate::error::Context;
use crate::record::Unreadable;
use crate::{
    Artifact, Digest, FileEntry, OutputRef, Record, Store, StoreError, artifact, durable, tree,
};

impl Store {
    /// Brings the results of those keys that the cache has none for, as far as the remote has them. What is wrong there
    /// counts as not there; what cannot be stored here ends it. Both are said by [`Remote::take_troubles`].
    pub fn pull(&self, remote: &Remote, keys: &[Digest]) {
        let mut seen = HashSet::new();
        let missing: Vec<Digest> = keys
            .iter()
            .filter(|key| seen.insert(**key) && !remote.was_absent(key) && !self.has_record(key))
            .copied()
            .collect();
        if missing.is_empty() || !remote.is_open(Way::Here) {
            return;
        }
        let records = records(remote, &missing);
        // Several results may have one artifact.
        let mut distinct = HashSet::new();
        let outputs = records.iter().flat_map(|record| record.outputs.values());
        let artifacts: Vec<Digest> = outputs
            .map(|output| output.digest)
            .filter(|digest| distinct.insert(*digest))
            .collect();
        let here = Mutex::new(HashMap::new());
        each(remote, Way::Here, &artifacts, |digest| {
            match self.artifact_from(remote, digest) {
                Ok(found) => {
                    let mut here = here.lock().unwrap_or_else(PoisonError::into_inner);
                    here.insert(*digest, found);
                }
                Err(trouble) => remote.note(Way::Here, &trouble),
            }
        });
        let here = here.into_inner().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            match self.take_over(&record, &here) {
                Ok(true) => {
                    remote.counts.pulled.fetch_add(1, Ordering::Relaxed);
                }
                Ok(false) => {
                    remote.note_wrong(record_name(&record.key));
                    remote.note_absent(record.key);
                }
                Err(error) => remote.note(Way::Here, &Trouble::Failed(error.to_string())),
            }
        }
    }

    fn has_record(&self, key: &Digest) -> bool {
        self.layout.record(key).exists()
    }

    /// Commits a record whose artifacts all have come. Whether they have.
    fn take_over(
        &self,
        record: &Record,
        here: &HashMap<Digest, OutputRef>,
    ) -> Result<bool, StoreError> {
        let mut outputs = record.outputs.values();
        if !outputs.all(|output| here.get(&output.digest) == Some(output)) {
            return Ok(false);
        }
        // Somebody may have computed it meanwhile.
        if !self.has_record(&record.key) {
            self.commit(record)?;
        }
        Ok(true)
    }

    /// An artifact of a record that is there, which comes unless it is here.
    fn artifact_from(&self, remote: &Remote, digest: &Digest) -> Result<OutputRef, Trouble> {
        if let Some(artifact) = self.artifact(digest).map_err(unstored)? {
            return Ok(OutputRef::from(&artifact));
        }
        let name = manifest_name(digest);
        let found = remote
            .objects
            .get(&name)
            .and_then(|bytes| manifest(&bytes, digest, &name));
        let artifact = found.map_err(|trouble| incomplete(remote, &name, trouble))?;
        let tmp = self.layout.tmp();
        let scratch = tempfile::Builder::new().prefix("pull-").tempdir_in(&tmp);
        let scratch = scratch.context("write in", &tmp).map_err(unstored)?;
        let folder = scratch.path().join("files");
        durable::create_dirs(&folder).map_err(unstored)?;
        for file in &artifact.files {
            let brought = self.file_from(remote, file, &folder.join(&file.path));
            if let Err(trouble) = brought {
                // So the manifest does not keep the file from being brought there again.
                remote.note_wrong(name.clone());
                return Err(trouble);
            }
        }
        let published = self.publish(&folder).map_err(unstored)?;
        if published.digest == *digest {
            Ok(OutputRef::from(&published))
        } else {
            // Something has written to the files between their check and here.
            Err(Trouble::Failed(format!(
                "{} was changed by somebody else",
                folder.display()
            )))
        }
    }

    fn file_from(&self, remote: &Remote, file: &FileEntry, path: &Path) -> Result<(), Trouble> {
        durable::create_dirs(durable::parent(path)).map_err(unstored)?;
        let blob = self.layout.blob(&file.digest);
        let is_here = tree::hash_file(&blob).is_ok_and(|(digest, _)| digest == file.digest);
        if is_here && std::fs::hard_link(&blob, path).is_ok() {
            return Ok(());
        }
        let name = blob_name(&file.digest);
        let brought = remote.objects.get_file(&name, path, file);
        brought.map_err(|trouble| incomplete(remote, &name, trouble))?;
        remote
            .counts
            .bytes_down
            .fetch_add(file.bytes, Ordering::Relaxed);
        Ok(())
    }
}

/// The records of those keys that the remote has one for.
fn records(remote: &Remote, keys: &[Digest]) -> Vec<Record> {
    let names: Vec<String> = keys.iter().map(record_name).collect();
    let answers = remote.objects.get_each(&names);
    let mut records = Vec::new();
    for ((key, name), answer) in keys.iter().zip(names).zip(answers) {
        match answer.and_then(|bytes| record(remote, &bytes, key, name)) {
            Ok(record) => records.push(record),
            Err(trouble) => {
                if matches!(trouble, Trouble::Absent | Trouble::Wrong(_)) {
                    remote.note_absent(*key);
                }
                remote.note(Way::Here, &trouble);
            }
        }
    }
    records
}

/// Reads the bytes of the record of `key`.
fn record(remote: &Remote, bytes: &[u8], key: &Digest, name: String) -> Result<Record, Trouble> {
    match Record::from_bytes(bytes, key) {
        Ok(record) => Ok(record),
        // It is of use to others.
        Err(Unreadable::Newer(format)) => Err(Trouble::Wrong(format!(
            "{name} has format {format}, of a newer version"
        ))),
        Err(Unreadable::Damaged(_)) => {
            let trouble = Trouble::Wrong(format!("{name} is not the record of its key"));
            remote.note_wrong(name);
            Err(trouble)
        }
    }
}

/// Reads the bytes of the manifest of the artifact `digest`.
fn manifest(bytes: &[u8], digest: &Digest, name: &str) -> Result<Artifact, Trouble> {
    let wrong = || Trouble::Wrong(format!("{name} is not the manifest of its name"));
    artifact::parse(bytes, digest)
        .map_err(unstored)?
        .ok_or_else(wrong)
}

/// What a record there names and what is not there, or not right, is a fault of the remote's.
fn incomplete(remote: &Remote, name: &str, trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Absent => {
            remote.note_wrong(name.to_owned());
            Trouble::Wrong(format!("{name} is missing, and a record names it"))
        }
        Trouble::Wrong(_) => {
            remote.note_wrong(name.to_owned());
            trouble
        }
        trouble => trouble,
    }
}

/// The cache takes nothing more.
fn unstored(error: StoreError) -> Trouble {
    Trouble::Failed(error.to_string())
}
