//! From files to one tree: the spec, what it `extends`, and `--set` overrides.

use std::path::{Path, PathBuf};

use super::tree::{Data, Entry, Tree};
use super::yaml;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::study::OVERRIDE;

/// Longest chain of `extends`.
const MAX_CHAIN: usize = 32;

/// The texts read so far: files and `--set` overrides.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// (name, text), by index.
    pub(crate) texts: Vec<(PathBuf, String)>,
    canonical: Vec<PathBuf>,
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
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read the spec {}: {error}", path.display());
            findings.push(Diagnostic::error(origin, message));
            return None;
        }
    };
    let canonical = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if sources.canonical.len() >= MAX_CHAIN {
        let message = format!("a chain of more than {MAX_CHAIN} specs that extend one another");
        findings.push(Diagnostic::error(origin, message));
        return None;
    }
    if sources.canonical.contains(&canonical) {
        let chain: Vec<String> = sources
            .canonical
            .iter()
            .chain([&canonical])
            .map(|path| file_name(path))
            .collect();
        let message = format!(
            "specs extend each other in a circle: {}",
            chain.join(" -> ")
        );
        findings.push(Diagnostic::error(origin, message));
        return None;
    }
    let source = sources.texts.len() as u32;
    sources.canonical.push(canonical);
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let span = end_of(&shown[..error.utf8_error().valid_up_to()], source);
            sources.texts.push((path.to_path_buf(), shown));
            findings
                .push(Diagnostic::error(span, "this is not UTF-8").help("save the file as UTF-8"));
            return None;
        }
    };
    // A byte order mark is no part of the text.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
    sources.texts.push((path.to_path_buf(), text.clone()));
    let mut tree = match yaml::parse(&text, source) {
        Ok(tree) => tree,
        Err(problems) => {
            problems
                .into_iter()
                .for_each(|problem| findings.push(problem));
            return None;
        }
    };
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

/// `over` laid on `base`: maps merge, null removes what the base has, everything else replaces.
fn merge(base: Tree, over: Tree) -> Tree {
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

/// Applies `--set` overrides (`a.b.c=value`) in order.
pub(crate) fn override_all(
    tree: &mut Tree,
    overrides: &[String],
    sources: &mut Sources,
    findings: &mut Findings,
) {
    for text in overrides {
        let source = sources.texts.len() as u32;
        sources.texts.push((PathBuf::from(OVERRIDE), text.clone()));
        if let Err(problem) = override_one(tree, text, source) {
            findings.push(*problem);
        }
    }
}

fn override_one(tree: &mut Tree, text: &str, source: u32) -> Result<(), Box<Diagnostic>> {
    let whole = Span {
        source,
        line: 1,
        column: 1,
        length: text.chars().count() as u32,
    };
    let fail = |span: Span, message: String| Box::new(Diagnostic::error(span, message));
    let example = "write it as `--set stages.sft.with.learning_rate=1e-4`";
    let Some((path, value)) = text.split_once('=') else {
        return Err(Box::new(
            Diagnostic::error(whole, "an override without `=`").help(example),
        ));
    };
    if path.is_empty() || path.split('.').any(str::is_empty) {
        return Err(Box::new(
            Diagnostic::error(whole, "an override with an empty name").help(example),
        ));
    }
    if path == "extends" {
        let message = "`extends` is read before anything is overridden";
        return Err(Box::new(
            Diagnostic::error(whole, message).help("write it in a spec"),
        ));
    }
    if path.split('.').count() > yaml::MAX_DEPTH {
        let message = format!("a name of more than {} parts", yaml::MAX_DEPTH);
        return Err(fail(whole, message));
    }
    let offset = path.chars().count() + 1;
    let mut value =
        yaml::parse(value, source).map_err(|mut problems| Box::new(problems.swap_remove(0)))?;
    if text[path.len() + 1..].trim().is_empty() {
        value.data = Data::Scalar(serde_json::Value::Null);
    }
    shift(&mut value, offset as u32);

    let mut here = tree;
    let mut column = 0;
    let parts: Vec<&str> = path.split('.').collect();
    for (depth, part) in parts.iter().enumerate() {
        let span = whole.part(column, part.chars().count());
        column += part.chars().count() + 1;
        // What `vars` and `stages` hold are names of the user's: a new one would be a slip that nothing else finds.
        let named =
            depth == 1 && matches!(parts[0], "vars" | "stages") || depth > 1 && parts[0] == "vars";
        let describe = here.describe();
        if here.is_null() {
            here.data = Data::Map(Vec::new());
        }
        match &mut here.data {
            Data::Map(entries) => {
                let at = match entries.iter().position(|entry| entry.key == *part) {
                    Some(at) => at,
                    None if named => {
                        let parent = parts[..depth].join(".");
                        let names = || entries.iter().map(|entry| entry.key.as_str());
                        let problem = Diagnostic::error(
                            span,
                            format!("`{parent}` has no `{part}` to override"),
                        )
                        .note(format!("it has {}", quoted_list(names())))
                        .maybe_help(did_you_mean(part, names()));
                        return Err(Box::new(problem));
                    }
                    None => {
                        let value = Tree::empty_map(span);
                        entries.push(Entry {
                            key: (*part).to_owned(),
                            key_span: span,
                            value,
                        });
                        entries.len() - 1
                    }
                };
                here = &mut entries[at].value;
            }
            Data::List(items) => {
                let count = items.len();
                let item = part
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get_mut(index));
                here = item.ok_or_else(|| {
                    let message = format!(
                        "`{part}` is not an index of this list of {count} (the first is 0)"
                    );
                    fail(span, message)
                })?;
            }
            Data::Scalar(_) => {
                let message = format!(
                    "`{}` is {describe}: nothing below it to override",
                    parts[..depth].join(".")
                );
                return Err(fail(span, message));
            }
        }
    }
    *here = value;
    Ok(())
}

/// Moves the places of a value that was parsed without what stands before it on its line.
fn shift(tree: &mut Tree, columns: u32) {
    if tree.span.line == 1 {
        tree.span.column += columns;
    }
    match &mut tree.data {
        Data::Scalar(_) => {}
        Data::List(items) => items.iter_mut().for_each(|item| shift(item, columns)),
        Data::Map(entries) => {
            for entry in entries {
                if entry.key_span.line == 1 {
                    entry.key_span.column += columns;
                }
                shift(&mut entry.value, columns);
            }
        }
    }
}
