//! Records that cannot be used: why, and how many.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use dcsft_engine::kind::StageError;
use serde::Serialize;

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DropReason {
    /// A line of a JSONL file is not JSON.
    Syntax,
    /// A line of a JSONL file is not UTF-8.
    NotUtf8,
    /// A field of the layout is missing or has another type.
    Layout,
    /// More than one question and answer.
    SeveralTurns,
    /// The answer is empty.
    EmptyAnswer,
    /// The prompt has not as many `<image>` as there are images.
    Placeholder,
    /// No image is named.
    NoImage,
    /// More images than the one that models take.
    SeveralImages,
    /// The image is a link to another machine or inline data.
    RemoteImage,
    /// The image file does not exist.
    MissingImage,
    /// The image file cannot be read.
    UnreadableImage,
    /// The file is neither JPEG nor PNG nor WebP.
    UnsupportedImage,
    /// The image cannot be decoded.
    BrokenImage,
}

impl DropReason {
    /// The reason as `dropped.jsonl` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::NotUtf8 => "not_utf8",
            Self::Layout => "layout",
            Self::SeveralTurns => "several_turns",
            Self::EmptyAnswer => "empty_answer",
            Self::Placeholder => "placeholder",
            Self::NoImage => "no_image",
            Self::SeveralImages => "several_images",
            Self::RemoteImage => "remote_image",
            Self::MissingImage => "missing_image",
            Self::UnreadableImage => "unreadable_image",
            Self::UnsupportedImage => "unsupported_image",
            Self::BrokenImage => "broken_image",
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
}

impl Dropped {
    pub(super) fn new(reason: DropReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Writes `dropped.jsonl` and counts.
pub(super) struct DropLog {
    path: PathBuf,
    out: BufWriter<File>,
    totals: DropTotals,
}

/// How many records were dropped, and the first of each reason.
#[derive(Default)]
pub(super) struct DropTotals {
    reasons: BTreeMap<DropReason, (usize, String)>,
}

#[derive(Serialize)]
struct Line<'a> {
    index: usize,
    reason: DropReason,
    detail: &'a str,
}

impl DropLog {
    pub(super) fn create(path: &Path) -> Result<Self, StageError> {
        let out = BufWriter::new(File::create(path).map_err(StageError::io(path))?);
        Ok(Self {
            path: path.to_owned(),
            out,
            totals: DropTotals::default(),
        })
    }

    /// Notes that the record at `index` (from 0) is dropped.
    pub(super) fn push(&mut self, index: usize, dropped: &Dropped) -> Result<(), StageError> {
        let line = Line {
            index,
            reason: dropped.reason,
            detail: &dropped.detail,
        };
        let text = serde_json::to_string(&line).map_err(StageError::failed)?;
        writeln!(self.out, "{text}").map_err(StageError::io(&self.path))?;
        let first = || (0, format!("record {index}: {}", dropped.detail));
        self.totals
            .reasons
            .entry(dropped.reason)
            .or_insert_with(first)
            .0 += 1;
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<DropTotals, StageError> {
        self.out.flush().map_err(StageError::io(&self.path))?;
        Ok(self.totals)
    }
}

impl DropTotals {
    pub(super) fn total(&self) -> usize {
        self.reasons.values().map(|(count, _)| count).sum()
    }

    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        self.reasons
            .iter()
            .map(|(reason, (count, _))| (reason.name(), *count))
            .collect()
    }

    /// What was dropped from the list at `path`, of `read` records, with the first example of each reason.
    pub(super) fn describe(&self, path: &str, read: usize) -> String {
        let name = Path::new(path)
            .file_name()
            .map_or_else(|| path.into(), |name| name.to_string_lossy());
        let mut text = format!("{name}: {} of {read} records cannot be used", self.total());
        for (reason, (count, first)) in &self.reasons {
            text.push_str(&format!("\n  {} ({count}), first {first}", reason.name()));
        }
        text
    }
}
