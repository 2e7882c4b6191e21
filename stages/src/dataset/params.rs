//! Params of the stage `dataset`.

use std::path::Path;

use dcsft_engine::stage::ParamProblem;
use dcsft_tensor::rng::StreamKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::names::Roots;
use crate::data::{Boxes, Exif, IMAGE_PLACEHOLDER, Split};
use crate::misfit::{MaxDropped, OnError};

/// Stands in a prompt template where the record's own prompt goes.
const OWN_PROMPT: &str = "{prompt}";

/// A list of records with image files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetParams {
    /// The list, relative to the spec: a JSON list, JSON lines, the same packed with gzip, or a Parquet file. Several
    /// lists are read one after the other.
    pub path: Lists,
    /// The folder that image names are relative to; each list's own folder by default.
    #[serde(default)]
    pub image_root: Option<String>,
    /// A beginning that is cut off image names before they are looked up, such as `/data/dataset` where a published
    /// list has absolute paths of its authors' machine. It ends where a folder's name does.
    #[serde(default)]
    pub strip_prefix: Option<String>,
    /// How records are laid out.
    #[serde(default)]
    pub layout: Layout,
    /// The set's name in results.
    #[serde(default = "default_set")]
    pub set: String,
    /// In or out of distribution.
    #[serde(default)]
    pub split: Split,
    /// The question to ask in the place of the records' own. `{prompt}` in it stands for the record's own,
    /// `<image>` for the image.
    #[serde(default)]
    pub prompt: Option<String>,
    /// Read the first so many records alone.
    #[serde(default)]
    pub limit: Option<u64>,
    /// Read so many records alone, drawn at random; they keep their order.
    #[serde(default)]
    pub sample: Option<u64>,
    /// Seed of `sample`.
    #[serde(default)]
    pub seed: u64,
    /// Which frame the boxes in answers and questions stand in. Models are shown them, and are expected to answer, in
    /// the pixels of the image as they see it. Without it answers are texts like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<Boxes>,
    /// Whether an image is turned as its EXIF orientation says. Transformers does; ms-swift and the paper's code do
    /// not.
    #[serde(default, skip_serializing_if = "Exif::is_default")]
    pub exif: Exif,
    /// Whether records without an image are taken. A list whose images stand in a field that is not known here would
    /// seem to have none.
    #[serde(default, skip_serializing_if = "Images::is_required")]
    pub images: Images,
    /// What to do with a record that cannot be used.
    #[serde(default)]
    pub on_error: OnError,
    /// So many records may be left out: a count, or below 1 a share of those read. More fail the stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dropped: Option<MaxDropped>,
}

/// Whether each record has to have an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// One without is left out.
    #[default]
    Required,
    /// One without is a question of text alone.
    Optional,
}

impl Images {
    fn is_required(&self) -> bool {
        *self == Self::Required
    }
}

/// One list or several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Lists {
    /// One.
    One(String),
    /// Several, in their order.
    Several(Vec<String>),
}

impl Lists {
    /// The lists' paths.
    pub fn paths(&self) -> &[String] {
        match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths,
        }
    }
}

fn default_set() -> String {
    "data".into()
}

impl DatasetParams {
    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        let mut out = Vec::new();
        let lists = self.path.paths();
        if lists.is_empty() || lists.iter().any(String::is_empty) {
            out.push(ParamProblem::new(
                "path",
                "is empty; name a JSON, JSONL or Parquet file",
            ));
        }
        if let Some(list) = lists
            .iter()
            .enumerate()
            .find_map(|(at, list)| lists[..at].contains(list).then_some(list))
        {
            let message = format!("names {list:?} twice; its samples would count twice");
            out.push(ParamProblem::new("path", message));
        }
        out.extend(self.max_dropped.and_then(|most| most.problem()));
        if self.set.trim().is_empty() {
            out.push(ParamProblem::new(
                "set",
                "is empty; name the set as results shall show it",
            ));
        }
        if self.limit.is_some() && self.sample.is_some() {
            out.push(ParamProblem::new(
                "sample",
                "cannot go with `limit`; give one of them",
            ));
        }
        for (field, value) in [("limit", self.limit), ("sample", self.sample)] {
            if value == Some(0) {
                out.push(ParamProblem::new(
                    field,
                    "0 records are no set; give at least 1",
                ));
            }
        }
        if let Some(template) = &self.prompt {
            let images = template.matches(IMAGE_PLACEHOLDER).count();
            let own = template.matches(OWN_PROMPT).count();
            if images + own != 1 {
                let message = format!(
                    "{template:?} has {images} {IMAGE_PLACEHOLDER} and {own} {OWN_PROMPT}; write {IMAGE_PLACEHOLDER} \
                     once, or {OWN_PROMPT} once (which brings its own {IMAGE_PLACEHOLDER})"
                );
                out.push(ParamProblem::new("prompt", message));
            }
        }
        out
    }

    /// The prompt for a record whose own is `own`.
    pub(super) fn prompt_for(&self, own: &str) -> String {
        match &self.prompt {
            Some(template) => template.replace(OWN_PROMPT, own),
            None => own.to_owned(),
        }
    }

    /// Indices of the records to read, of `count`, in their order.
    pub(super) fn select(&self, count: usize) -> Vec<usize> {
        if let Some(limit) = self.limit {
            return (0..count.min(usize::try_from(limit).unwrap_or(usize::MAX))).collect();
        }
        let Some(sample) = self.sample else {
            return (0..count).collect();
        };
        let key = StreamKey::new("dataset sample", self.seed);
        let mut ranked: Vec<(f64, usize)> = (0..count)
            .map(|index| (key.clone().number(index as u64).uniform(), index))
            .collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        ranked.truncate(usize::try_from(sample).unwrap_or(usize::MAX));
        let mut chosen: Vec<usize> = ranked.into_iter().map(|(_, index)| index).collect();
        chosen.sort_unstable();
        chosen
    }

    /// Where the images of the list at `path` lie; `root` is what relative paths are relative to.
    pub(super) fn roots(&self, path: &Path, root: &Path) -> Roots {
        let folder = match &self.image_root {
            Some(folder) => root.join(folder),
            None => path.parent().unwrap_or(Path::new("")).to_owned(),
        };
        Roots {
            folder,
            prefix: self.strip_prefix.clone(),
        }
    }
}
