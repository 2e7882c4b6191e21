//! Records that cannot be used: why, and how many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{LeftOut, StageError};
use serde::Serialize;

use crate::files::JsonLines;
use crate::misfit::DROPPED;

/// The output with the samples.
pub(super) const OUTPUT: &str = "data";

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// A line of a JSONL file is not JSON, or too long.
    Syntax,
    /// A line of a JSONL file is not UTF-8.
    NotUtf8,
    /// A field of the layout is missing or has another type.
    Layout,
    /// The answer is empty.
    EmptyAnswer,
    /// Two parts of the record say different things.
    Contradiction,
    /// The prompt has not as many `<image>` as there are images.
    Placeholder,
    /// No image is named.
    NoImage,
    /// The image is a link to another machine.
    RemoteImage,
    /// The image inside the record cannot be read.
    InlineImage,
    /// The image file does not exist.
    MissingImage,
    /// The image file cannot be read, or is no regular file.
    UnreadableImage,
    /// The file is neither JPEG nor PNG nor WebP.
    UnsupportedImage,
    /// The image cannot be decoded.
    BrokenImage,
    /// The image has more pixels than are decoded.
    LargeImage,
    /// The answer has no box, or one that does not lie in the frame that the list is said to have.
    Box,
}

impl DropReason {
    /// The reason as `dropped.jsonl` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::NotUtf8 => "not_utf8",
            Self::Layout => "layout",
            Self::EmptyAnswer => "empty_answer",
            Self::Contradiction => "contradiction",
            Self::Placeholder => "placeholder",
            Self::NoImage => "no_image",
            Self::RemoteImage => "remote_image",
            Self::InlineImage => "inline_image",
            Self::MissingImage => "missing_image",
            Self::UnreadableImage => "unreadable_image",
            Self::UnsupportedImage => "unsupported_image",
            Self::BrokenImage => "broken_image",
            Self::LargeImage => "large_image",
            Self::Box => "box",
        }
    }
}

/// A record that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Why.
    pub reason: DropReason,
    /// What exactly, with the offending text.
    pub detail: String,
    /// Where it was looked for on this machine. It is shown and not kept: the same list gives the same bytes wherever
    /// it lies.
    pub place: Option<PathBuf>,
}

impl Dropped {
    pub(super) fn new(reason: DropReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            place: None,
        }
    }

    pub(super) fn at(self, place: &Path) -> Self {
        Self {
            place: Some(place.to_owned()),
            ..self
        }
    }

    /// For people: with the path, where that is not in the text already.
    fn describe(&self) -> String {
        match &self.place {
            Some(place) if !self.detail.contains(&format!("{place:?}")) => {
                format!("{} (looked for at {})", self.detail, place.display())
            }
            _ => self.detail.clone(),
        }
    }
}

/// Writes `dropped.jsonl` and counts.
pub(super) struct DropLog {
    lines: JsonLines,
    reasons: BTreeMap<DropReason, (u64, String)>,
}

/// A line of `dropped.jsonl`.
#[derive(Serialize)]
struct Line<'a> {
    /// The record's place in its list, from 0.
    index: usize,
    /// The list, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    list: Option<&'a str>,
    reason: DropReason,
    detail: &'a str,
}

impl DropLog {
    pub(super) fn create(path: &Path) -> Result<Self, StageError> {
        Ok(Self {
            lines: JsonLines::create(path)?,
            reasons: BTreeMap::new(),
        })
    }

    /// Notes that the record at `index` (from 0) of `list` is dropped.
    pub(super) fn push(
        &mut self,
        list: Option<&str>,
        index: usize,
        dropped: &Dropped,
    ) -> Result<(), StageError> {
        let Dropped { reason, detail, .. } = dropped;
        self.lines.write(&Line {
            index,
            list,
            reason: *reason,
            detail,
        })?;
        let first = || {
            let list = list.map_or_else(String::new, |list| format!("{list}, "));
            (0, format!("{list}record {index}: {}", dropped.describe()))
        };
        self.reasons.entry(*reason).or_insert_with(first).0 += 1;
        Ok(())
    }

    /// What was left out of the records of `lists`, of `read` in all, and the same for people with the first example
    /// of each reason.
    pub(super) fn finish(self, lists: &str, read: u64) -> Result<(LeftOut, String), StageError> {
        self.lines.finish()?;
        let reasons = self.reasons.iter();
        let reasons = reasons
            .map(|(reason, (count, _))| (reason.name().to_owned(), *count))
            .collect();
        let list = Some(format!("{OUTPUT}/{DROPPED}"));
        let left_out = LeftOut::new("record", read, reasons, list);
        let total = left_out.count;
        let mut text = format!("{lists}: {total} of {read} records cannot be used");
        for (reason, (count, first)) in &self.reasons {
            text.push_str(&format!("\n  {} ({count}), first {first}", reason.name()));
        }
        Ok((left_out, text))
    }
}
