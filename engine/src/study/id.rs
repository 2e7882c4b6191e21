//! Which study a run, a report or a status belongs to.
//!
//! A spec's `name:` is a word for people: copies of a spec keep it, and `--set` makes another study under the same
//! name. So three things tell studies apart, each with a digest of its own, since they answer different questions:
//!
//! - [`StudyId::spec`], where the spec lies. Runs of one file are the history that a stage's "why" looks into.
//! - [`StudyId::variant`], the overrides and the environment's values. Another variant has a report of its own.
//! - [`StudyId::content`], what the spec comes to: the resolved stages. What a run did is shown as a study's only where
//!   this is equal too, so nothing of before an edit is passed off as of after it. The *resolved* stages and not the
//!   text: a comment, or a default written out, makes no other study.
//!
//! The place is relative to the cache, so that a project that is moved, or checked out elsewhere by a CI job, keeps its
//! runs. Values of the environment are in the digest alone: they may be secrets.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use dcsft_cache::{Digest, canonical};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Node, Params, Study};

const DOMAIN: &str = "dcsft 1 study";

/// The identity of a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StudyId {
    /// Of the place of the spec.
    pub spec: Digest,
    /// Of the overrides and of what the spec takes from the environment.
    pub variant: Digest,
    /// Of the resolved stages.
    pub content: Digest,
}

/// A stage, as far as it makes the study. How it is run does not.
#[derive(Serialize)]
struct Stage<'a> {
    stage: &'a str,
    kind: &'a str,
    axes: &'a BTreeMap<String, Value>,
    arm: &'a str,
    params: &'a Params,
    inputs: Vec<(&'a str, Vec<(usize, &'a str)>)>,
}

impl<'a> From<&'a Node> for Stage<'a> {
    fn from(node: &'a Node) -> Self {
        let inputs = node.inputs.iter().map(|(name, references)| {
            let of = references.iter().map(|r| (r.node.0, r.output.as_str()));
            (name.as_str(), of.collect())
        });
        Self {
            stage: &node.stage,
            kind: &node.kind,
            axes: &node.axes,
            arm: &node.arm,
            params: &node.params,
            inputs: inputs.collect(),
        }
    }
}

impl StudyId {
    /// The identity of `study` in the cache at `root`.
    pub fn of(study: &Study, root: &Path) -> Self {
        let mut overrides: Vec<&str> = study.overrides.iter().map(|text| text.trim()).collect();
        // Of two for one path the later holds; the order of others means nothing.
        overrides.sort_by_key(|text| text.split_once('=').map_or(*text, |(path, _)| path));
        let stages: Vec<Digest> = study
            .nodes
            .iter()
            .map(|node| digest(&Stage::from(node)))
            .collect();
        Self {
            spec: digest(&place(study, root)),
            variant: digest(&(overrides, &study.environment)),
            content: digest(&(&study.name, stages)),
        }
    }

    /// Whether both are the same spec with the same overrides, whatever was edited in it between.
    pub fn is_variant_of(&self, other: &Self) -> bool {
        (self.spec, self.variant) == (other.spec, other.variant)
    }

    /// What names this variant of this spec among all.
    pub fn tag(&self) -> Digest {
        digest(&(self.spec, self.variant))
    }
}

fn digest(value: &impl Serialize) -> Digest {
    // A number without a canonical form has no key either, so that no such study is run.
    canonical::digest(DOMAIN, value)
        .unwrap_or_else(|error| Digest::of_bytes(format!("{DOMAIN}: {error}").as_bytes()))
}

/// Where the spec lies, from the cache. Links are followed but for the file itself: paths in a spec are relative to
/// the folder in which it was named.
pub fn place(study: &Study, root: &Path) -> String {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = study.spec.file_name().unwrap_or_default();
    let path = from(&real(root), &real(&study.root)).join(name);
    path.to_string_lossy().into_owned()
}

/// The way from one folder to another; `to` itself where none of it is common.
fn from(folder: &Path, to: &Path) -> PathBuf {
    let common = folder
        .components()
        .zip(to.components())
        .take_while(|(a, b)| a == b)
        .count();
    if common <= 1 {
        return to.to_owned();
    }
    let up = folder
        .components()
        .skip(common)
        .map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_goes_up_and_down_from_what_is_common() {
        let way = |a: &str, b: &str| from(Path::new(a), Path::new(b)).display().to_string();
        assert_eq!(way("/home/me/lab/.dcsft", "/home/me/lab/specs"), "../specs");
        assert_eq!(way("/home/me/lab", "/home/me/lab/specs/a"), "specs/a");
        assert_eq!(way("/var/cache", "/home/me"), "/home/me");
    }
}
