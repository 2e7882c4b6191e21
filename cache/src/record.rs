//! Records: what is known about one key. A record is the last thing written for a key, so where it is, all is.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::quarantine::Flaw;
use crate::{Artifact, Digest, StoreError};

/// The result of one computed key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The record's format, [`Record::FORMAT`].
    pub format: u32,
    /// The key whose result this is.
    pub key: Digest,
    /// A name for people, as in `sft[subset=easy]`. No part of the key.
    pub label: String,
    /// The key's preimage: what the key was computed from.
    pub explain: Json,
    /// The outputs by name.
    pub outputs: BTreeMap<String, OutputRef>,
    /// The deterministic metrics of the computation: the same whenever and wherever it runs.
    pub summary: Value,
    /// Facts of this one execution, such as how long it took. Different every time.
    pub execution: Json,
    /// When the record was written, in seconds since 1970.
    pub created_unix: u64,
}

/// JSON that is kept as text and parsed only when somebody asks: a run looks up thousands of records, and reads such
/// parts of hardly any. What is in it is not the store's concern.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Json(Box<RawValue>);

impl Json {
    /// The JSON of `value`; `null` for one that JSON cannot hold.
    pub fn of(value: &impl Serialize) -> Self {
        Self(serde_json::value::to_raw_value(value).unwrap_or_default())
    }

    /// The value, read as a `T`.
    ///
    /// # Errors
    /// Where the JSON has another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// Every digest that is named in it.
    pub(crate) fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        let words = self.0.get().split(|c: char| !c.is_ascii_alphanumeric());
        words
            .filter(|word| word.len() == DIGEST_LEN)
            .filter_map(|word| word.parse().ok())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

/// An output of a record: which artifact it is, and how large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    /// The artifact's digest.
    pub digest: Digest,
    /// The sum of its files' sizes in bytes.
    pub bytes: u64,
    /// The number of its files.
    pub files: u64,
}

impl From<&Artifact> for OutputRef {
    fn from(artifact: &Artifact) -> Self {
        Self {
            digest: artifact.digest,
            bytes: artifact.bytes,
            files: artifact.files.len() as u64,
        }
    }
}

/// The head of a record's file, up to the digest of the record's bytes.
const HEAD: &[u8] = br#"{"blake3":""#;
/// What stands between that digest and the record.
const MIDDLE: &[u8] = br#"","record":"#;
/// What follows the record.
const TAIL: &[u8] = b"}\n";
const DIGEST_LEN: usize = 64;

impl Record {
    /// The format that this version writes.
    pub const FORMAT: u32 = 1;

    /// The bytes of the record's file: one JSON object that carries the digest of the record's own bytes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        let body = serde_json::to_vec(self).map_err(|cause| StoreError::Encode {
            what: "a record",
            cause,
        })?;
        let check = Digest::of_bytes(&body).to_string();
        Ok([HEAD, check.as_bytes(), MIDDLE, &body, TAIL].concat())
    }

    /// Reads the bytes of a record's file.
    pub(crate) fn from_bytes(bytes: &[u8], key: &Digest) -> Result<Self, Unreadable> {
        let damaged = |reason| Unreadable::Damaged(Flaw::new(reason));
        let body = checked_body(bytes)
            .ok_or_else(|| damaged("its bytes are not those that were written"))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let record: Self = match serde_json::from_slice(body) {
            Ok(record) => record,
            Err(_) => match serde_json::from_slice::<Format>(body) {
                Ok(Format { format }) if format > Self::FORMAT => {
                    return Err(Unreadable::Newer(format));
                }
                _ => return Err(damaged("it is not a record")),
            },
        };
        if record.format > Self::FORMAT {
            return Err(Unreadable::Newer(record.format));
        }
        if record.key != *key {
            return Err(damaged("it is the record of another key"));
        }
        Ok(record)
    }
}

/// Why the bytes of a file are not a record that this version can read.
pub(crate) enum Unreadable {
    /// Written by a newer version, in this format.
    Newer(u32),
    /// Not what was written.
    Damaged(Flaw),
}

/// The record's bytes inside those of its file, if their digest is right.
fn checked_body(bytes: &[u8]) -> Option<&[u8]> {
    let (check, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(DIGEST_LEN)?;
    let body = rest.strip_prefix(MIDDLE)?.strip_suffix(TAIL)?;
    (Digest::of_bytes(body).to_string().as_bytes() == check).then_some(body)
}
