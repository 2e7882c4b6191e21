//! What lists write in the place of an image, and the file that it stands for.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use unicode_normalization::UnicodeNormalization as _;

use super::cell::{Cell, fields};
use super::drops::{DropReason, Dropped};

/// An image as a record names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageRef {
    /// A file's name, as it was written.
    Named(String),
    /// The image itself, with the name that stood beside it.
    Inline(Option<String>, Inline),
}

/// An image inside a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inline {
    /// Its file's bytes.
    Bytes(Arc<[u8]>),
    /// The same as base64.
    Base64(String),
}

/// Fields of an object that name an image: ms-swift and datasets (`path`), Qwen (`image`), OpenAI (`image_url`),
/// Transformers (`url`), imagefolder (`file_name`).
pub(super) const NAMING: [&str; 5] = ["path", "image", "image_url", "url", "file_name"];
/// The beginnings of base64 of PNG, JPEG, WebP and GIF files.
const SIGNATURES: [&str; 4] = ["iVBORw0KGgo", "/9j/", "UklGR", "R0lGOD"];
/// No shorter text is taken for an image in base64: it may be the name of a file.
const SHORTEST_BASE64: usize = 40;

impl ImageRef {
    /// Reads a name, or an object with the bytes or a name.
    pub(crate) fn of(cell: Cell) -> Result<Self, Dropped> {
        match cell {
            Cell::Text(name) => Ok(Self::of_text(name)),
            Cell::Bytes(bytes) => Ok(Self::Inline(None, Inline::Bytes(bytes.into()))),
            Cell::Record(_) => Self::of_object(&cell),
            other => Err(wrong(format!(
                "an image is {}, not a file's name",
                other.kind()
            ))),
        }
    }

    fn of_text(name: String) -> Self {
        if let Some((kind, data)) = name.split_once(',')
            && kind.starts_with("data:")
            && kind.ends_with(";base64")
        {
            return Self::Inline(None, Inline::Base64(data.to_owned()));
        }
        let written = |c: u8| c.is_ascii_alphanumeric() || b"+/=-_\n\r".contains(&c);
        let begins = SIGNATURES.iter().any(|start| name.starts_with(start));
        if begins && name.len() >= SHORTEST_BASE64 && name.bytes().all(written) {
            return Self::Inline(None, Inline::Base64(name));
        }
        Self::Named(name)
    }

    /// As datasets has it, bytes come before a name.
    fn of_object(object: &Cell) -> Result<Self, Dropped> {
        let given = |name: &str| object.get(name).filter(|value| !value.is_empty());
        let path = || {
            object
                .get("path")
                .and_then(Cell::as_text)
                .map(str::to_owned)
        };
        match given("bytes") {
            None => {}
            Some(Cell::Bytes(bytes)) => {
                return Ok(Self::Inline(path(), Inline::Bytes(bytes.as_slice().into())));
            }
            Some(Cell::Text(text)) => {
                return Ok(Self::Inline(path(), Inline::Base64(text.clone())));
            }
            Some(other) => {
                let kind = other.kind();
                return Err(wrong(format!("an image's `bytes` are {kind}, not base64")));
            }
        }
        let named: Vec<(&str, &Cell)> = NAMING
            .into_iter()
            .filter_map(|name| Some((name, given(name)?)))
            .collect();
        match named.as_slice() {
            [] => {
                let fields = fields(object).unwrap_or_default();
                Err(wrong(format!(
                    "an image is an object without {} (it has {fields})",
                    one_of(&NAMING)
                )))
            }
            [(_, value)] => Self::of((*value).clone()),
            [(first, a), (second, b), ..] if a != b => Err(contradiction(first, second)),
            [(_, value), ..] => Self::of((*value).clone()),
        }
    }

    /// The name as it was written, where there is one.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) => Some(name),
            Self::Inline(name, _) => name.as_deref(),
        }
    }

    /// The name of a file that has to be read.
    pub(super) fn name_of_file(&self) -> Option<&str> {
        match self {
            Self::Named(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        match self.name() {
            Some(name) => format!("{name:?}"),
            None => "the image inside the record".to_owned(),
        }
    }
}

impl Inline {
    /// The file's bytes.
    pub(crate) fn bytes(&self) -> Result<Arc<[u8]>, Dropped> {
        let text = match self {
            Self::Bytes(bytes) => return Ok(bytes.clone()),
            Self::Base64(text) => text,
        };
        let lenient =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let alphabet = if compact.contains(['-', '_']) {
            URL_SAFE
        } else {
            STANDARD
        };
        let decoded = GeneralPurpose::new(&alphabet, lenient).decode(compact.as_bytes());
        decoded.map(Into::into).map_err(|error| {
            let start: String = text.chars().take(24).collect();
            let detail = format!("the inline image {start:?} is not base64: {error}");
            Dropped::new(DropReason::InlineImage, detail)
        })
    }
}

/// Where images lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    /// Names are relative to it.
    pub(super) folder: PathBuf,
    /// Cut off names before that.
    pub(super) prefix: Option<String>,
}

impl Roots {
    /// Where the image called `name` lies on disk.
    pub(super) fn locate(&self, name: &str) -> Result<PathBuf, Dropped> {
        let name = local(name)?;
        let name = self.cut(&name);
        if let Some(what) = windows(name) {
            let detail = format!(
                "{name:?} is a path of Windows ({what}); cut it off with `strip_prefix` and name the folder in `image_root`"
            );
            return Err(Dropped::new(DropReason::MissingImage, detail));
        }
        let path = self.folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Ok(path);
        }
        let found = others(name).map(|name| self.folder.join(name));
        let mut found = found.filter(|path| path.symlink_metadata().is_ok());
        Ok(found.next().unwrap_or(path))
    }

    /// The name without the prefix, which ends where a folder's name does.
    fn cut<'a>(&self, name: &'a str) -> &'a str {
        const SEPARATORS: [char; 2] = ['/', '\\'];
        let prefix = self.prefix.as_deref().unwrap_or_default();
        if prefix.is_empty() {
            return name;
        }
        match name.strip_prefix(prefix) {
            Some(rest) if prefix.ends_with(SEPARATORS) || rest.starts_with(SEPARATORS) => {
                rest.trim_start_matches(SEPARATORS)
            }
            _ => name,
        }
    }
}

/// The name of a file of this machine: `file://` is taken away.
fn local(name: &str) -> Result<Cow<'_, str>, Dropped> {
    let remote = |what: &str| {
        let short: String = name.chars().take(80).collect();
        let detail = format!("{short:?} is {what}, not a file; download it first");
        Err(Dropped::new(DropReason::RemoteImage, detail))
    };
    if let Some(rest) = name.strip_prefix("file://") {
        let path = rest.strip_prefix("localhost").unwrap_or(rest);
        if !path.starts_with('/') {
            return remote("a `file://` link to another machine");
        }
        let decoded = percent_decode_str(path).decode_utf8();
        return decoded.or_else(|_| remote("a `file://` link that is not UTF-8"));
    }
    if name.starts_with("data:") {
        return remote("inline data that is not base64");
    }
    let scheme = name.split_once("://").map(|(scheme, _)| scheme);
    let letter = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    match scheme {
        Some(scheme) if !scheme.is_empty() && scheme.chars().all(letter) => remote("a link"),
        _ => Ok(Cow::Borrowed(name)),
    }
}

fn windows(name: &str) -> Option<&'static str> {
    let mut start = name.chars();
    match (start.next(), start.next(), start.next()) {
        (Some(drive), Some(':'), Some('\\' | '/')) if drive.is_ascii_alphabetic() => {
            Some("a drive letter")
        }
        (Some('\\'), Some('\\'), _) => Some("a share, with backslashes"),
        _ => None,
    }
}

/// Other ways in which the file may be called here: with the separators of this system, in another form of Unicode.
fn others(name: &str) -> impl Iterator<Item = String> {
    let slashes = name.contains('\\').then(|| name.replace('\\', "/"));
    let forms = (!name.is_ascii()).then(|| {
        [
            name.nfc().collect::<String>(),
            name.nfd().collect::<String>(),
        ]
    });
    slashes.into_iter().chain(forms.into_iter().flatten())
}

/// Whether there is something at `path` that can be read like a file; a pipe or a device never ends.
pub(super) fn is_readable(path: &Path) -> bool {
    let regular = std::fs::metadata(path).is_ok_and(|found| found.is_file());
    #[cfg(unix)]
    let readable = || rustix::fs::access(path, rustix::fs::Access::READ_OK).is_ok();
    #[cfg(not(unix))]
    let readable = || true;
    regular && readable()
}

pub(super) fn contradiction(first: &str, second: &str) -> Dropped {
    let detail = format!("`{first}` and `{second}` name two images that differ; leave one out");
    Dropped::new(DropReason::Contradiction, detail)
}

/// `` `a`, `b` or `c` ``.
pub(super) fn one_of(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn wrong(detail: impl Into<String>) -> Dropped {
    Dropped::new(DropReason::Layout, detail)
}
