//! One difference between two keys, and all of them.

use std::collections::BTreeSet;
use std::fmt;

use dcsft_cache::Digest;
use serde::Serialize;
use serde_json::Value;

use crate::key::{KeyPreimage, Sketch};
use crate::stage::{FieldPath, Label, Numerics};
use crate::study::{Node, Study};

/// One difference between two keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a few at a time")]
pub enum Change {
    /// The stage uses another kind.
    KindChanged {
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// The kind computes something else since another version of it.
    VersionChanged {
        /// The kind.
        kind: String,
        /// Before.
        old: u32,
        /// Now.
        new: u32,
    },
    /// A param has another value.
    ParamChanged {
        /// The field of `with:`.
        path: FieldPath,
        /// Before; none if it was not there.
        old: Option<Value>,
        /// Now; none if it is not there.
        new: Option<Value>,
        /// Where it stands in the spec: `file:line:column`.
        place: Option<String>,
    },
    /// Files of the user's have other content.
    FileChanged {
        /// The field of `with:`.
        field: String,
        /// Before.
        old: Option<Digest>,
        /// Now.
        new: Option<Digest>,
        /// Where the field stands in the spec.
        place: Option<String>,
    },
    /// Another stage's output has other content.
    InputChanged {
        /// The input's name.
        input: String,
        /// The stage and output it now comes from.
        upstream: Option<String>,
        /// Before.
        old: Option<Digest>,
        /// Now.
        new: Option<Digest>,
    },
    /// An input comes from elsewhere in the spec, and the kind writes down where.
    LabelChanged {
        /// The input's name.
        input: String,
        /// Before.
        old: Option<Label>,
        /// Now.
        new: Option<Label>,
    },
    /// Another backend or element type.
    NumericsChanged {
        /// Before.
        old: Option<Numerics>,
        /// Now.
        new: Option<Numerics>,
    },
    /// Keys themselves are made in another way since another version of the engine.
    FormatChanged {
        /// Before.
        old: u32,
        /// Now.
        new: u32,
    },
}

/// What differs between two preimages of `node`'s key, most telling first. Inputs that do not exist yet are not compared.
pub fn changes(study: &Study, node: &Node, old: &KeyPreimage, new: &Sketch) -> Vec<Change> {
    let mut changes = Vec::new();
    if old.kind != new.kind {
        changes.push(Change::KindChanged {
            old: old.kind.clone(),
            new: new.kind.clone(),
        });
    }
    if old.format != new.format {
        changes.push(Change::FormatChanged {
            old: old.format,
            new: new.format,
        });
    }
    if old.kind == new.kind && old.version != new.version {
        changes.push(Change::VersionChanged {
            kind: new.kind.clone(),
            old: old.version,
            new: new.version,
        });
    }
    params(
        study,
        node,
        &FieldPath::default(),
        Some(&old.params.value()),
        Some(&new.params.value()),
        &mut changes,
    );
    for field in union(old.files.keys(), new.files.keys()) {
        let (old, new) = (old.files.get(field), new.files.get(field));
        if old != new {
            let (old, new) = (old.map(|files| files.digest), new.map(|files| files.digest));
            changes.push(Change::FileChanged {
                field: field.clone(),
                old,
                new,
                place: place(study, node, &FieldPath::from(field.as_str())),
            });
        }
    }
    for input in union(old.inputs.keys(), new.inputs.keys()) {
        inputs(study, node, input, old, new, &mut changes);
    }
    if old.numerics != new.numerics {
        changes.push(Change::NumericsChanged {
            old: old.numerics.clone(),
            new: new.numerics.clone(),
        });
    }
    changes
}

fn params(
    study: &Study,
    node: &Node,
    path: &FieldPath,
    old: Option<&Value>,
    new: Option<&Value>,
    changes: &mut Vec<Change>,
) {
    if old == new {
        return;
    }
    let mut inside = |part: String, old: Option<&Value>, new: Option<&Value>| {
        params(study, node, &path.child(part), old, new, changes);
    };
    match (old, new) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in union(old.keys(), new.keys()) {
                inside(name.clone(), old.get(name), new.get(name));
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                inside(index.to_string(), Some(old), Some(new));
            }
        }
        _ => {
            let place = place(study, node, path);
            changes.push(Change::ParamChanged {
                path: path.clone(),
                old: old.cloned(),
                new: new.cloned(),
                place,
            });
        }
    }
}

fn inputs(
    study: &Study,
    node: &Node,
    input: &str,
    old: &KeyPreimage,
    new: &Sketch,
    changes: &mut Vec<Change>,
) {
    let (old, new) = (old.inputs.get(input), new.inputs.get(input));
    let references = node
        .inputs
        .iter()
        .find(|(name, _)| name == input)
        .map(|(_, references)| references);
    let count = old.map_or(0, Vec::len).max(new.map_or(0, Vec::len));
    for index in 0..count {
        let old = old.and_then(|list| list.get(index));
        let new = new.and_then(|list| list.get(index));
        let old_digest = old.map(|input| input.digest);
        let new_digest = new.and_then(|input| input.digest);
        let exists = new.is_none() || new_digest.is_some();
        if exists && old_digest != new_digest {
            let upstream =
                references
                    .and_then(|references| references.get(index))
                    .map(|reference| {
                        format!(
                            "{}.{}",
                            study.nodes[reference.node.0].title(),
                            reference.output
                        )
                    });
            changes.push(Change::InputChanged {
                input: input.to_owned(),
                upstream,
                old: old_digest,
                new: new_digest,
            });
        }
        let (old, new) = (
            old.and_then(|input| input.label.clone()),
            new.and_then(|input| input.label.clone()),
        );
        if old != new {
            changes.push(Change::LabelChanged {
                input: input.to_owned(),
                old,
                new,
            });
        }
    }
}

/// Where a field of `with:`, or else the part of it that is written in the spec, stands.
fn place(study: &Study, node: &Node, path: &FieldPath) -> Option<String> {
    node.place_of(path).map(|place| study.place_text(place))
}

fn union<'a>(
    a: impl Iterator<Item = &'a String>,
    b: impl Iterator<Item = &'a String>,
) -> BTreeSet<&'a String> {
    a.chain(b).collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KindChanged { old, new } => write!(f, "uses `{new}` instead of `{old}`"),
            Self::VersionChanged { kind, old, new } => {
                write!(
                    f,
                    "`{kind}` has version {new} instead of {old}: it computes something else since then"
                )
            }
            Self::ParamChanged {
                path,
                old,
                new,
                place,
            } => {
                write!(
                    f,
                    "{path}: {} -> {}",
                    shown(old.as_ref()),
                    shown(new.as_ref())
                )?;
                at(f, place.as_deref())
            }
            Self::FileChanged {
                field,
                old,
                new,
                place,
            } => {
                write!(
                    f,
                    "the content behind {field} changed: {} -> {}",
                    short(*old),
                    short(*new)
                )?;
                at(f, place.as_deref())
            }
            Self::InputChanged {
                input,
                upstream,
                old,
                new,
            } => {
                write!(f, "input {input}")?;
                if let Some(upstream) = upstream {
                    write!(f, " ({upstream})")?;
                }
                write!(f, " has other content: {} -> {}", short(*old), short(*new))
            }
            Self::LabelChanged { input, old, new } => {
                write!(
                    f,
                    "input {input} comes from {} instead of {}",
                    source(new.as_ref()),
                    source(old.as_ref())
                )
            }
            Self::NumericsChanged { old, new } => {
                write!(
                    f,
                    "computed with {} instead of {}",
                    arithmetic(new.as_ref()),
                    arithmetic(old.as_ref())
                )
            }
            Self::FormatChanged { old, new } => {
                write!(f, "keys have format {new} instead of {old}")
            }
        }
    }
}

fn at(f: &mut fmt::Formatter<'_>, place: Option<&str>) -> fmt::Result {
    place.map_or(Ok(()), |place| write!(f, " ({place})"))
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::to_string)
}

fn short(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "nothing".to_owned(), |digest| digest.short())
}

fn source(label: Option<&Label>) -> String {
    label.map_or_else(
        || "nowhere".to_owned(),
        |label| format!("{}.{} (arm {})", label.stage, label.output, label.arm),
    )
}

fn arithmetic(numerics: Option<&Numerics>) -> String {
    numerics.map_or_else(|| "none".to_owned(), Numerics::to_string)
}
