//! What a stage's key is made of, and the digest of it.
//!
//! A key says which bytes a stage would write. It is the digest of a [`KeyPreimage`]: kind, semantic version,
//! params, the content of the user's files, the content of the inputs, and the arithmetic where that matters.
//! Nothing of how, where or when a stage runs can get in: [`KeyPreimage`] has no field for it.
//! The preimage is stored beside the result, so that a miss can be explained.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::path::PathBuf;

use dcsft_cache::canonical::{self, CanonicalError};
use dcsft_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stage::{Family, FieldPath, FileParam, Kind, Label, Numerics, Params, Registry};
use crate::study::{Node, Reference, Study};

/// Version of the preimage's shape. Raising it makes every stage of every user run again.
pub const FORMAT: u32 = 1;

/// Keeps keys apart from every other digest of the same bytes.
const KEY_DOMAIN: &str = "dcsft 1 stage key";
const FAMILY_DOMAIN: &str = "dcsft 1 family";
const FILES_DOMAIN: &str = "dcsft 1 user files";

/// Everything that decides a stage's bytes. `D` is what is known of the inputs' content: see [`Sketch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyPreimage<D = Digest> {
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
    pub inputs: BTreeMap<String, Vec<InputIdentity<D>>>,
    /// The arithmetic; none for kinds whose results do not depend on it.
    pub numerics: Option<Numerics>,
}

/// A preimage of which some inputs do not exist yet. It is compared with others, and has no digest.
pub type Sketch = KeyPreimage<Option<Digest>>;

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
pub struct InputIdentity<D = Digest> {
    /// Its content.
    pub digest: D,
    /// Where it comes from, only for kinds that write labels into their outputs.
    pub label: Option<Label>,
}

impl KeyPreimage {
    /// The key.
    ///
    /// # Errors
    /// If the params hold a number that has no canonical form (NaN).
    pub fn digest(&self) -> Result<Digest, CanonicalError> {
        canonical::digest(KEY_DOMAIN, self)
    }

    /// The same as a sketch, of which everything is known.
    pub fn sketch(&self) -> Sketch {
        let identity = |identity: &InputIdentity| InputIdentity {
            digest: Some(identity.digest),
            label: identity.label.clone(),
        };
        let inputs = self
            .inputs
            .iter()
            .map(|(name, identities)| (name.clone(), identities.iter().map(identity).collect()));
        self.with_inputs(inputs.collect())
    }
}

impl<D> KeyPreimage<D> {
    /// The same with other inputs.
    fn with_inputs<E>(&self, inputs: BTreeMap<String, Vec<InputIdentity<E>>>) -> KeyPreimage<E> {
        KeyPreimage {
            format: self.format,
            kind: self.kind.clone(),
            version: self.version,
            params: self.params.clone(),
            files: self.files.clone(),
            inputs,
            numerics: self.numerics.clone(),
        }
    }

    /// The digest of what does not come from other stages, whatever the arithmetic.
    ///
    /// # Errors
    /// If the params hold a number that has no canonical form (NaN).
    pub fn own_part(&self) -> Result<Digest, CanonicalError> {
        let mut own: KeyPreimage = self.with_inputs(BTreeMap::new());
        own.numerics = None;
        own.digest()
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

impl KeyError {
    /// For `map_err` on canonical bytes of something of `node`'s.
    pub(crate) fn canonical(node: &Node) -> impl FnOnce(CanonicalError) -> Self {
        let title = node.title();
        move |source| Self::Canonical { title, source }
    }
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
        let mut fields: BTreeMap<&FieldPath, Vec<(&str, Option<Digest>)>> = BTreeMap::new();
        for param in node.files.iter() {
            self.read(node, param)?;
            let files = fields.entry(&param.field).or_default();
            for (name, path) in &param.files {
                let digest = self.known.get(path).copied().flatten();
                if digest.is_none() && param.required {
                    return Err(KeyError::MissingFile {
                        title: node.title(),
                        field: param.field.to_string(),
                        path: path.clone(),
                    });
                }
                files.push((name, digest));
            }
        }
        let identify = |(field, mut files): (&FieldPath, Vec<_>)| {
            files.sort();
            let digest =
                canonical::digest(FILES_DOMAIN, &files).map_err(|source| KeyError::Canonical {
                    title: node.title(),
                    source,
                })?;
            let count = files.len();
            Ok((field.to_string(), FilesIdentity { count, digest }))
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
                field: param.field.to_string(),
                source: Box::new(source),
            })?;
        self.known.extend(fresh.into_iter().zip(digests));
        Ok(())
    }
}

/// Makes the keys of a study's stages for one arithmetic.
pub struct Keys<'a> {
    study: &'a Study,
    registry: &'a Registry,
    numerics: Numerics,
}

impl<'a> Keys<'a> {
    /// The keys of the stages of `study` where numeric kinds compute with `numerics`.
    pub fn new(study: &'a Study, registry: &'a Registry, numerics: Numerics) -> Self {
        Self {
            study,
            registry,
            numerics,
        }
    }

    /// The kind of a node.
    ///
    /// # Errors
    /// [`KeyError::UnknownKind`].
    pub fn kind(&self, node: &Node) -> Result<&'a dyn Kind, KeyError> {
        self.registry
            .get(&node.kind)
            .ok_or_else(|| KeyError::UnknownKind {
                title: node.title(),
                kind: node.kind.clone(),
            })
    }

    /// The preimage of `node`'s key; none while an input's content is unknown. `digest_of` gives the digest of another
    /// stage's output.
    ///
    /// # Errors
    /// [`KeyError::UnknownKind`].
    pub fn preimage(
        &self,
        node: &Node,
        files: &BTreeMap<String, FilesIdentity>,
        mut digest_of: impl FnMut(&Reference) -> Option<Digest>,
    ) -> Result<Option<KeyPreimage>, KeyError> {
        let known = |reference: &Reference| digest_of(reference).ok_or(());
        Ok(self.assemble(self.kind(node)?, node, files, known).ok())
    }

    /// The preimage of `node`'s key as far as it is known.
    ///
    /// # Errors
    /// [`KeyError::UnknownKind`].
    pub fn sketch(
        &self,
        node: &Node,
        files: &BTreeMap<String, FilesIdentity>,
        mut digest_of: impl FnMut(&Reference) -> Option<Digest>,
    ) -> Result<Sketch, KeyError> {
        let known = |reference: &Reference| Ok::<_, Infallible>(digest_of(reference));
        let Ok(sketch) = self.assemble(self.kind(node)?, node, files, known);
        Ok(sketch)
    }

    fn assemble<D, E>(
        &self,
        kind: &dyn Kind,
        node: &Node,
        files: &BTreeMap<String, FilesIdentity>,
        mut digest_of: impl FnMut(&Reference) -> Result<D, E>,
    ) -> Result<KeyPreimage<D>, E> {
        let decl = kind.decl();
        let mut inputs = BTreeMap::new();
        for (name, references) in &node.inputs {
            if references.is_empty() {
                continue;
            }
            let mut identities = Vec::with_capacity(references.len());
            for reference in references {
                let digest = digest_of(reference)?;
                let label = decl.labelled.then(|| self.study.label(reference));
                identities.push(InputIdentity { digest, label });
            }
            inputs.insert(name.clone(), identities);
        }
        Ok(KeyPreimage {
            format: FORMAT,
            kind: node.kind.clone(),
            version: decl.version,
            params: without_files(&node.params, &node.files),
            files: files.clone(),
            inputs,
            numerics: decl.numeric.then(|| self.numerics.clone()),
        })
    }
}

/// `params` with every field that names files set to null: their content is the identity, their paths are not.
fn without_files(params: &Params, files: &[FileParam]) -> Params {
    if files.is_empty() {
        return params.clone();
    }
    let mut params = params.value();
    for file in files {
        if let Some(slot) = file.field.find_mut(&mut params) {
            *slot = Value::Null;
        }
    }
    Params::of(&params)
}
