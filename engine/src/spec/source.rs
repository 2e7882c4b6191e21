//! From files to one tree: the spec and what it `extends`.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::series;
use super::tree::{Data, Entry, Tree};
use super::yaml;
use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::study::Source;

/// Longest chain of `extends`.
const MAX_CHAIN: usize = 32;
/// Largest spec, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The texts read so far: files and `--set` overrides.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// By index.
    pub(crate) texts: Vec<Source>,
    /// Files that extend one another, without links in their paths.
    chain: Vec<PathBuf>,
}

/// Reads the spec at `path` and those it extends, merged into one tree.
pub(crate) fn read(path: &Path, sources: &mut Sources, findings: &mut Findings) -> Option<Tree> {
    read_from(path, None, sources, findings)
}

/// `origin` is the place of the `extends:` that named the file.
fn read_from(
    path: &Path,
    origin: Option<Span>,
    sources: &mut Sources,
    findings: &mut Findings,
) -> Option<Tree> {
    let mut tree = read_one(path, origin, sources)
        .map_err(|problems| problems.into_iter().for_each(|found| findings.push(found)))
        .ok()?;
    let Data::Map(entries) = &mut tree.data else {
        let message = format!("a spec is a map, not {}", tree.describe());
        findings.push(
            Diagnostic::error(tree.span, message)
                .help("begin with `dcsft: 1`, `name:` and `stages:`"),
        );
        return None;
    };
    let Some(at) = entries.iter().position(|entry| entry.key == "extends") else {
        return Some(tree);
    };
    let extends = entries.remove(at).value;
    let Some(base) = extends.text() else {
        let message = format!(
            "`extends` takes the path of another spec, not {}",
            extends.describe()
        );
        findings.push(Diagnostic::error(extends.span, message));
        return None;
    };
    let base = path.parent().unwrap_or(Path::new("")).join(base);
    let base = read_from(&base, Some(extends.span), sources, findings)?;
    Some(merge(base, tree))
}

/// The tree of one file alone.
fn read_one(
    path: &Path,
    origin: Option<Span>,
    sources: &mut Sources,
) -> Result<Tree, Vec<Diagnostic>> {
    let at_origin = |message: String| vec![Diagnostic::error(origin, message)];
    let bytes = read_bytes(path).map_err(|reason| {
        at_origin(format!("cannot read the spec {}: {reason}", path.display()))
    })?;
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    sources.extend_chain(canonical).map_err(at_origin)?;
    let source = sources.texts.len() as u32;
    let file = |text| Source::File {
        path: path.to_path_buf(),
        text,
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let span = end_of(&shown[..error.utf8_error().valid_up_to()], source);
        sources.texts.push(file(shown));
        vec![Diagnostic::error(span, "this is not UTF-8").help("save the file as UTF-8")]
    })?;
    // A byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
    sources.texts.push(file(text.clone()));
    yaml::parse(&text, source)
}

/// The bytes of a regular file of bearable size. Opening a pipe would wait for whoever writes into it, and a device
/// may have no end.
fn read_bytes(path: &Path) -> Result<Vec<u8>, String> {
    let kind = fs::metadata(path).map_err(|error| error.to_string())?;
    if kind.is_dir() {
        return Err("it is a folder".to_owned());
    }
    if !kind.is_file() {
        return Err("it is a pipe, a socket or a device, not a file".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
    }
    Ok(bytes)
}

impl Sources {
    /// Adds a file to the chain of those that extend one another.
    fn extend_chain(&mut self, file: PathBuf) -> Result<(), String> {
        if self.chain.len() >= MAX_CHAIN {
            return Err(format!(
                "a chain of more than {MAX_CHAIN} specs that extend one another"
            ));
        }
        if self.chain.contains(&file) {
            let names = self.chain.iter().chain([&file]).map(|path| file_name(path));
            let names: Vec<String> = names.collect();
            return Err(format!(
                "specs extend each other in a circle: {}",
                names.join(" -> ")
            ));
        }
        self.chain.push(file);
        Ok(())
    }
}

/// The place of the character after `text`.
fn end_of(text: &str, source: u32) -> Span {
    let line = text.rsplit('\n').next().unwrap_or_default();
    Span {
        source,
        line: text.matches('\n').count() as u32 + 1,
        column: line.chars().count() as u32 + 1,
        length: 1,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// `over` laid on `base`: maps merge, null removes what the base has, everything else replaces; so does one way to make
/// the values of an axis another.
fn merge(base: Tree, over: Tree) -> Tree {
    if series::is_series(&base) && series::is_series(&over) {
        return over;
    }
    let (mut entries, additions) = match (base.data, over.data) {
        (Data::Map(base), Data::Map(over)) => (base, over),
        (_, data) => return Tree { data, ..over },
    };
    for addition in additions {
        let at = entries.iter().position(|entry| entry.key == addition.key);
        match at {
            Some(at) if addition.value.is_null() => {
                entries.remove(at);
            }
            Some(at) => {
                let old =
                    std::mem::replace(&mut entries[at].value, Tree::empty_map(addition.key_span));
                entries[at] = Entry {
                    value: merge(old, addition.value),
                    ..addition
                };
            }
            None => entries.push(addition),
        }
    }
    Tree {
        data: Data::Map(entries),
        span: over.span,
        verbatim: None,
    }
}
