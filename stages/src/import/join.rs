//! From a row to the sample that it answers.

use std::collections::HashMap;

use serde_json::Value;

use super::row::{Asked, Left, Reason, Row};
use crate::data::{Dataset, IMAGE_PLACEHOLDER, Sample};
use crate::dataset::names::ImageRef;

/// The samples of a set by what rows can say of them.
pub(super) struct Samples<'a> {
    data: &'a Dataset,
    by_question: HashMap<String, Vec<usize>>,
    /// Digests of the stored images of samples, made when they are asked for.
    contents: HashMap<usize, Vec<blake3::Hash>>,
}

impl<'a> Samples<'a> {
    pub(super) fn new(data: &'a Dataset) -> Self {
        let mut by_question: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, sample) in data.samples().iter().enumerate() {
            by_question
                .entry(bare(&sample.prompt))
                .or_default()
                .push(at);
        }
        Self {
            data,
            by_question,
            contents: HashMap::new(),
        }
    }

    /// The sample that a row answers.
    pub(super) fn find(&mut self, row: &Row) -> Result<usize, Left> {
        let (question, images) = match &row.asked {
            Asked::Id(id) => {
                let unknown =
                    || Left::new(Reason::UnknownSample, format!("no sample has the ID {id}"));
                return self.data.position(id).ok_or_else(unknown);
            }
            Asked::Question(question, images) => (question, images),
        };
        let short: String = question.chars().take(60).collect();
        let unknown = |what: String| Left::new(Reason::UnknownSample, what);
        let Some(asked) = self.by_question.get(&bare(question)).cloned() else {
            return Err(unknown(format!("no sample asks {short:?}")));
        };
        let mut found = Vec::new();
        for at in asked {
            if images.is_empty() || self.shows(at, images)? {
                found.push(at);
            }
        }
        match found.as_slice() {
            [at] => Ok(*at),
            [] => {
                let images: Vec<String> = images.iter().map(ImageRef::describe).collect();
                Err(unknown(format!(
                    "no sample asks {short:?} about {}",
                    images.join(", ")
                )))
            }
            several => {
                let more = if images.is_empty() {
                    "; name the image too, or the `id`"
                } else {
                    "; name the `id`"
                };
                let count = several.len();
                Err(Left::new(
                    Reason::Ambiguous,
                    format!("{count} samples ask {short:?} alike{more}"),
                ))
            }
        }
    }

    /// Whether the images are those of the sample.
    fn shows(&mut self, at: usize, images: &[ImageRef]) -> Result<bool, Left> {
        let sample = &self.data.samples()[at];
        if images.len() != sample.images.len() {
            return Ok(false);
        }
        for (index, image) in images.iter().enumerate() {
            let same = match image {
                ImageRef::Named(name) => {
                    name_of(sample, index).is_some_and(|own| same_file(own, name))
                }
                ImageRef::Inline(_, inline) => {
                    let bytes = inline.bytes();
                    let bytes =
                        bytes.map_err(|dropped| Left::new(Reason::Layout, dropped.detail))?;
                    self.contents(at)?.get(index) == Some(&blake3::hash(&bytes))
                }
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn contents(&mut self, at: usize) -> Result<&[blake3::Hash], Left> {
        if !self.contents.contains_key(&at) {
            let images = self.data.samples()[at].images.iter();
            let digest = |entry| {
                self.data
                    .image_bytes(entry)
                    .map(|bytes| blake3::hash(&bytes))
            };
            let digests: Result<Vec<_>, _> = images.map(digest).collect();
            let digests =
                digests.map_err(|error| Left::new(Reason::UnknownSample, error.to_string()))?;
            self.contents.insert(at, digests);
        }
        Ok(self.contents.get(&at).map_or(&[], Vec::as_slice))
    }
}

/// A question without the places of images and the space around them: lists write them in several ways.
fn bare(prompt: &str) -> String {
    prompt
        .replace(IMAGE_PLACEHOLDER, " ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

/// What the sample's own list called its image.
fn name_of(sample: &Sample, index: usize) -> Option<&str> {
    match (sample.meta.get("image"), sample.meta.get("images")) {
        (Some(Value::String(name)), _) if index == 0 => Some(name),
        (_, Some(Value::Array(names))) => names.get(index)?.as_str(),
        _ => None,
    }
}

/// Whether two names are of one file: one is the end of the other, part by part.
fn same_file(one: &str, other: &str) -> bool {
    let parts = |name: &str| -> Vec<String> {
        let parts = name
            .split(['/', '\\'])
            .filter(|part| !part.is_empty() && *part != ".");
        parts.map(str::to_owned).collect()
    };
    let (one, other) = (parts(one), parts(other));
    !one.is_empty() && (one.ends_with(&other) || other.ends_with(&one)) && !other.is_empty()
}
