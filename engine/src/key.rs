//! What a stage's key is made of, and the digest of it.
//!
//! A key says which bytes a stage would write. It is the digest of a [`KeyPreimage`]: kind, semantic version,
//! params, the content of the user's files, the content of the inputs, and the arithmetic where that matters.
//! Nothing of how, where or when a stage runs can get in: [`KeyPreimage`] has no field for it.
//! The preimage is stored beside the result, so that a miss can be explained.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use dcsft_cache::canonical::{self, CanonicalError};
use dcsft_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kind::{ArtifactType, Family, FileParam, Kind, Label};
use crate::params::Params;
use crate::results::Evaluated;
use crate::study::{Node, Reference, Study};

/// Version of the preimage's shape. Raising it makes every stage of every user run again.
pub const FORMAT: u32 = 1;

/// Keeps keys apart from every other digest of the same bytes.
const KEY_DOMAIN: &str = "dcsft 1 stage key";
const FAMILY_DOMAIN: &str = "dcsft 1 family";
const FILES_DOMAIN: &str = "dcsft 1 user files";

/// Everything that decides a stage's bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPreimage {
    /// [`FORMAT`].
    pub format: u32,
    /// The stage kind's name.
    pub kind: String,
    /// The kind's semantic version.
    pub version: u32,
    /// Params with defaults filled in, without the fields that name files.
    pub params: Params,
    /// The user's files, by the field of `with:` that names them.
    pub files: BTreeMap<String, FilesIdentity>,
    /// Artifacts by input name, in the order of the spec. An input without any is not listed.
    pub inputs: BTreeMap<String, Vec<InputIdentity>>,
    /// The arithmetic; none for kinds whose results do not depend on it.
    pub numerics: Option<Numerics>,
}

/// The content of the files that one field names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesIdentity {
    /// How many files, absent ones included.
    pub count: usize,
    /// Digest over the sorted (name, content digest or null if absent) pairs.
    pub digest: Digest,
}

/// One artifact that a stage reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputIdentity {
    /// Its content.
    pub digest: Digest,
    /// Where it comes from, only for kinds that write labels into their outputs.
    pub label: Option<Label>,
}

/// The arithmetic that a result depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numerics {
    /// The tensor backend.
    pub backend: String,
    /// The element type.
    pub dtype: String,
}

impl Numerics {
    /// The arithmetic of a device (`cpu`, `cuda:0`). The device's index does not matter.
    pub fn of(device: &str) -> Self {
        let backend = match device.split(':').next() {
            None | Some("" | "cpu") => "flex",
            Some(other) => other,
        };
        Self {
            backend: backend.to_owned(),
            dtype: "f32".to_owned(),
        }
    }
}

impl KeyPreimage {
    /// The key.
    ///
    /// # Errors
    /// If the params hold a number that has no canonical form (NaN).
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest(KEY_DOMAIN, self)
    }
}

/// What the members of a family share.
#[derive(Serialize)]
struct FamilyPreimage<'a> {
    kind: &'a str,
    version: u32,
    params: &'a Value,
    inputs: BTreeMap<&'a str, Option<&'a [InputIdentity]>>,
    numerics: Option<&'a Numerics>,
}

/// The digest of the family of the result with this preimage.
///
/// # Errors
/// If the params hold a number that has no canonical form (NaN).
pub fn family(preimage: &KeyPreimage, family: &Family) -> Result<Digest, CanonicalError> {
    let identities = |name: &&'static str| (*name, preimage.inputs.get(*name).map(Vec::as_slice));
    canonical::digest(
        FAMILY_DOMAIN,
        &FamilyPreimage {
            kind: &preimage.kind,
            version: preimage.version,
            params: &family.params,
            inputs: family.inputs.iter().map(identities).collect(),
            numerics: preimage.numerics.as_ref(),
        },
    )
}

/// Why a key cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The node's kind is not in the registry.
    #[error("{title}: this binary has no stage kind `{kind}`")]
    UnknownKind {
        /// The node.
        title: String,
        /// What it uses.
        kind: String,
    },
    /// A user's file could not be read.
    #[error("{title}: `{field}`: {source}")]
    File {
        /// The node.
        title: String,
        /// The field of `with:`.
        field: String,
        /// Why.
        #[source]
        source: Box<StoreError>,
    },
    /// A required file of the user's is not there.
    #[error("{title}: `{field}`: there is no {path}")]
    MissingFile {
        /// The node.
        title: String,
        /// The field of `with:`.
        field: String,
        /// The file.
        path: PathBuf,
    },
    /// A value has no canonical bytes.
    #[error("{title}: {source}")]
    Canonical {
        /// The node.
        title: String,
        /// Which value.
        source: CanonicalError,
    },
}

/// Content digests of the user's files, each read once however many stages name it.
pub struct FileDigests<'a> {
    store: &'a Store,
    paranoid: bool,
    known: HashMap<PathBuf, Option<Digest>>,
}

impl<'a> FileDigests<'a> {
    /// `paranoid` reads every file again instead of trusting the stat cache.
    pub fn new(store: &'a Store, paranoid: bool) -> Self {
        Self {
            store,
            paranoid,
            known: HashMap::new(),
        }
    }

    /// The identity of every file field of `node`.
    ///
    /// # Errors
    /// If a file cannot be read, or is required and missing.
    pub fn of(&mut self, node: &Node) -> Result<BTreeMap<String, FilesIdentity>, KeyError> {
        let mut fields: BTreeMap<&str, Vec<(&str, Option<Digest>)>> = BTreeMap::new();
        for param in node.files.iter() {
            self.read(node, param)?;
            let files = fields.entry(&param.field).or_default();
            for (name, path) in &param.files {
                let digest = self.known.get(path).copied().flatten();
                if digest.is_none() && param.required {
                    return Err(KeyError::MissingFile {
                        title: node.title(),
                        field: param.field.clone(),
                        path: path.clone(),
                    });
                }
                files.push((name, digest));
            }
        }
        let identify = |(field, mut files): (&str, Vec<_>)| {
            files.sort();
            let digest =
                canonical::digest(FILES_DOMAIN, &files).map_err(|source| KeyError::Canonical {
                    title: node.title(),
                    source,
                })?;
            let count = files.len();
            Ok((field.to_owned(), FilesIdentity { count, digest }))
        };
        fields.into_iter().map(identify).collect()
    }

    /// Takes the digests of those of `param`'s files that are not known yet.
    fn read(&mut self, node: &Node, param: &FileParam) -> Result<(), KeyError> {
        let paths = param.files.iter().map(|(_, path)| path);
        let fresh: Vec<PathBuf> = paths
            .filter(|path| !self.known.contains_key(*path))
            .cloned()
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        let digests = self
            .store
            .digest_files(&fresh, self.paranoid)
            .map_err(|source| KeyError::File {
                title: node.title(),
                field: param.field.clone(),
                source: Box::new(source),
            })?;
        self.known.extend(fresh.into_iter().zip(digests));
        Ok(())
    }
}

/// The preimage of `node`'s key, once every input's digest is known.
///
/// `digest_of` gives the digest of another stage's output, or none while that is unknown; then so is the key.
pub fn preimage(
    study: &Study,
    node: &Node,
    kind: &dyn Kind,
    device: &str,
    files: &BTreeMap<String, FilesIdentity>,
    mut digest_of: impl FnMut(&Reference) -> Option<Digest>,
) -> Option<KeyPreimage> {
    let mut inputs = BTreeMap::new();
    for (name, references) in &node.inputs {
        if references.is_empty() {
            continue;
        }
        let mut identities = Vec::with_capacity(references.len());
        for reference in references {
            let digest = digest_of(reference)?;
            let label = kind.labelled().then(|| label(study, reference));
            identities.push(InputIdentity { digest, label });
        }
        inputs.insert(name.clone(), identities);
    }
    Some(KeyPreimage {
        format: FORMAT,
        kind: node.kind.clone(),
        version: kind.version(),
        params: without_files(&node.params, &node.files),
        files: files.clone(),
        inputs,
        numerics: kind.numeric().then(|| Numerics::of(device)),
    })
}

/// Where a referenced artifact comes from, in the words of the spec.
pub fn label(study: &Study, reference: &Reference) -> Label {
    let source = &study.nodes[reference.node.0];
    let evaluation = source.outputs.iter().any(|output| {
        output.name == reference.output && output.artifact == ArtifactType::Evaluation
    });
    Label {
        stage: source.stage.clone(),
        output: reference.output.clone(),
        axes: source.axes.clone(),
        arm: source.arm.clone(),
        evaluated: evaluation.then(|| Evaluated::of(study, source)),
    }
}

/// `params` with every field that names files set to null: their content is the identity, their paths are not.
fn without_files(params: &Params, files: &[FileParam]) -> Params {
    if files.is_empty() {
        return params.clone();
    }
    let mut params = params.value();
    for file in files {
        if let Some(slot) = params.pointer_mut(&format!("/{}", file.field.replace('.', "/"))) {
            *slot = Value::Null;
        }
    }
    Params::of(&params)
}
