//! From a file to records.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::cell::{Cell, fields};
use super::drops::{DropReason, Dropped};
use super::layout::{self, Layout, RawRecord};
use super::limits::MOST_BYTES;
use super::{json, table};

/// How many times its size a packed list may unpack to. Lists of texts reach 20; gzip itself can reach 1000.
const PACKING: u64 = 200;
/// A packed list may always unpack to this many bytes.
const SMALL: u64 = 64 << 20;

/// Why a list cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}: {problem}")]
    Content { path: PathBuf, problem: String },
}

/// A list of records, each parsed or with the reason why not.
pub(super) struct Source {
    /// The layouts that records have, in the order in which they come.
    pub(super) layouts: Vec<Layout>,
    pub(super) records: Vec<Result<RawRecord, Dropped>>,
}

impl Source {
    pub(super) fn read(path: &Path, layout: Layout) -> Result<Self, SourceError> {
        parse(rows(path)?, layout).map_err(|problem| SourceError::Content {
            path: path.to_owned(),
            problem,
        })
    }
}

/// The records of a list, JSON, JSON lines or Parquet, whatever their fields are.
///
/// # Errors
/// If the file cannot be read at all.
pub(crate) fn rows(path: &Path) -> Result<Vec<Result<Cell, Dropped>>, SourceError> {
    let io = |source| SourceError::Io {
        path: path.to_owned(),
        source,
    };
    let content = |problem| SourceError::Content {
        path: path.to_owned(),
        problem,
    };
    // Looked at before it is opened: a pipe would wait for a writer.
    let found = std::fs::metadata(path).map_err(io)?;
    if found.is_dir() {
        return Err(content("is a folder; name the list in it".into()));
    }
    if !found.is_file() {
        return Err(content("is not a regular file".into()));
    }
    let mut file = File::open(path).map_err(io)?;
    let mut start = Vec::new();
    (&file).take(6).read_to_end(&mut start).map_err(io)?;
    file.rewind().map_err(io)?;
    if start.starts_with(b"PAR1") {
        let records = table::records(file).map_err(content)?;
        Ok(records.into_iter().map(Ok).collect())
    } else {
        let bytes = text(file, &start).map_err(|problem| match problem {
            Unread::Io(error) => io(error),
            Unread::Content(problem) => content(problem),
        })?;
        json::records(&bytes).map_err(content)
    }
}

/// Why a text cannot be had.
enum Unread {
    Io(std::io::Error),
    Content(String),
}

/// The text of a list, unpacked where it is packed.
fn text(file: File, start: &[u8]) -> Result<Vec<u8>, Unread> {
    let packed = |name: &str, how: &str| Err(Unread::Content(format!("is {name}; {how}")));
    match start {
        [0x1f, 0x8b, ..] => return unpack(file),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return packed("compressed with zstd", "unpack it first"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            return packed("compressed with xz", "unpack it first");
        }
        [b'B', b'Z', b'h', ..] => return packed("compressed with bzip2", "unpack it first"),
        [b'P', b'K', 3, 4, ..] => return packed("a zip archive", "unpack it first"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => {
            return packed("an Arrow file", "save it as Parquet or JSON lines");
        }
        _ => {}
    }
    let mut bytes = Vec::new();
    let mut limited = file.take(MOST_BYTES + 1);
    limited.read_to_end(&mut bytes).map_err(Unread::Io)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(Unread::Content(format!(
            "has more than {MOST_BYTES} bytes; split it into several lists"
        )));
    }
    Ok(bytes)
}

fn unpack(file: File) -> Result<Vec<u8>, Unread> {
    let size = file.metadata().map_err(Unread::Io)?.len();
    let most = size.saturating_mul(PACKING).clamp(SMALL, MOST_BYTES);
    let mut bytes = Vec::new();
    let mut limited = MultiGzDecoder::new(file).take(most + 1);
    let read = limited.read_to_end(&mut bytes);
    read.map_err(|error| Unread::Content(format!("is no whole gzip file: {error}")))?;
    if bytes.len() as u64 > most {
        return Err(Unread::Content(format!(
            "unpacks from {size} bytes to more than {most}; no list of records does. Unpack it by hand if it is one"
        )));
    }
    Ok(bytes)
}

fn parse(values: Vec<Result<Cell, Dropped>>, layout: Layout) -> Result<Source, String> {
    if values.is_empty() {
        return Err("the list has no records".into());
    }
    if layout == Layout::Auto {
        check_known(&values)?;
    }
    let mut layouts = Vec::new();
    let records = values
        .into_iter()
        .map(|value| {
            let value = value?;
            let own = match layout {
                Layout::Auto => layout::detect(&value).ok_or_else(|| unknown(&value))?,
                given => given,
            };
            if !layouts.contains(&own) {
                layouts.push(own);
            }
            layout::read(own, value)
        })
        .collect();
    Ok(Source { layouts, records })
}

/// A list of which no record has a layout that is known is a mistake of the spec.
fn check_known(values: &[Result<Cell, Dropped>]) -> Result<(), String> {
    let mut records = values.iter().flatten();
    if records
        .clone()
        .any(|record| layout::detect(record).is_some())
    {
        return Ok(());
    }
    let first = records.find_map(fields);
    let first = first.map(|fields| format!("; the first record has the fields {fields}"));
    Err(format!(
        "no known layout{}. Known are records with {}",
        first.unwrap_or_default(),
        layout::known()
    ))
}

fn unknown(record: &Cell) -> Dropped {
    let detail = match fields(record) {
        Some(fields) => format!(
            "no known layout: the record has the fields {fields}. Known are records with {}",
            layout::known()
        ),
        None => format!("the record is {}, not an object", record.kind()),
    };
    Dropped::new(DropReason::Layout, detail)
}
