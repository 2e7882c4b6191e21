//! From YAML text to [`Tree`]: YAML 1.2 core scalars, no duplicate keys, bounded size.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, Span as YamlSpan, Tag};
use serde_json::Value;

use super::tree::{Data, Entry, Tree};
use crate::diagnostic::{Diagnostic, Span};

/// Deepest nesting of lists and maps.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most values in one text, those that aliases repeat included.
const MAX_NODES: usize = 1_000_000;
/// Most bytes of text in all these values, those that aliases repeat included.
const MAX_TEXT: usize = 64 << 20;

/// Parses source number `source`; an empty text is an empty map.
///
/// # Errors
/// The first mistake in the syntax, or all duplicate keys and unusable scalars.
pub(crate) fn parse(text: &str, source: u32) -> Result<Tree, Vec<Diagnostic>> {
    let mut builder = Builder {
        source,
        ..Builder::default()
    };
    let mut parser = Parser::new_from_str(text);
    let mut documents = 0;
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let at = error.marker();
                let span = Span {
                    source,
                    line: at.line() as u32,
                    column: at.col() as u32 + 1,
                    length: 1,
                };
                builder.problems.push(Diagnostic::error(
                    span,
                    format!("this is not YAML: {}", error.info()),
                ));
                break;
            }
        };
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                let span = builder.span(span, 3);
                builder.problems.push(
                    Diagnostic::error(span, "a spec is one YAML document").help("remove `---`"),
                );
                break;
            }
        }
        if let Err(problem) = builder.event(event, span) {
            builder.problems.push(*problem);
            break;
        }
    }
    if !builder.problems.is_empty() {
        return Err(builder.problems);
    }
    Ok(builder.root.unwrap_or_else(|| {
        Tree::empty_map(Span {
            source,
            line: 1,
            column: 1,
            length: 0,
        })
    }))
}

/// The YAML 1.2 core schema's reading of a plain scalar.
///
/// # Errors
/// Words on why the scalar cannot be used.
pub(crate) fn plain_scalar(text: &str) -> Result<Value, String> {
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => return number(text).unwrap_or_else(|| Ok(Value::String(text.to_owned()))),
    })
}

/// The number that `text` is, if it is written as one.
fn number(text: &str) -> Option<Result<Value, String>> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(
        unsigned,
        ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN"
    ) {
        return Some(Err(format!(
            "`{text}` is not a number that a spec can hold"
        )));
    }
    let too_large = || Err(format!("`{text}` is too large for a 64-bit integer"));
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return Some(
                u64::from_str_radix(digits, radix)
                    .map(Value::from)
                    .or_else(|_| too_large()),
            );
        }
    }
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    if digits > 0 && digits == unsigned.len() {
        let value = text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::from));
        return Some(value.or_else(|_| too_large()));
    }
    if !is_float(unsigned) {
        return None;
    }
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
    Some(
        value
            .map(Value::from)
            .ok_or_else(|| format!("`{text}` is too large for a 64-bit float")),
    )
}

/// `( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?` of YAML 1.2, section 10.3.2.
fn is_float(text: &str) -> bool {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_fits = match mantissa.split_once('.') {
        Some((whole, fraction)) => all_digits(whole) && all_digits(fraction) && mantissa.len() > 1,
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_fits && exponent_fits
}

/// A list or map that is still open.
struct Open {
    data: Data,
    span: Span,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Span)>,
    /// Keys so far, once there are more than a look at each would find fast.
    keys: HashSet<String>,
    /// The key that waits is a `<<`.
    merging: bool,
    /// Maps that `<<` names, to be merged when the map closes; on a key that several have, the first one counts.
    merges: Vec<Tree>,
}

/// Up to this many keys a map is searched one by one.
const FEW: usize = 16;

impl Open {
    fn entries(&self) -> &[Entry] {
        match &self.data {
            Data::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Whether the map has the key already.
    fn has(&mut self, key: &str) -> bool {
        if self.entries().len() < FEW {
            return self.entries().iter().any(|entry| entry.key == key);
        }
        if self.keys.is_empty() {
            self.keys = self
                .entries()
                .iter()
                .map(|entry| entry.key.clone())
                .collect();
        }
        !self.keys.insert(key.to_owned())
    }
}

#[derive(Default)]
struct Builder {
    source: u32,
    stack: Vec<Open>,
    root: Option<Tree>,
    anchors: HashMap<usize, Tree>,
    nodes: usize,
    text: usize,
    problems: Vec<Diagnostic>,
}

type Fallible<T> = Result<T, Box<Diagnostic>>;

impl Builder {
    fn event(&mut self, event: Event<'_>, at: YamlSpan) -> Fallible<()> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(&text, style, anchor, tag.as_deref(), at)
            }
            Event::SequenceStart(anchor, tag) => {
                self.untagged(tag.as_deref(), at)?;
                self.open(Data::List(Vec::new()), anchor, at)
            }
            Event::MappingStart(anchor, tag) => {
                self.untagged(tag.as_deref(), at)?;
                self.open(Data::Map(Vec::new()), anchor, at)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        at: YamlSpan,
    ) -> Fallible<()> {
        let as_text = tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str");
        if !as_text {
            self.untagged(tag, at)?;
        }
        let chars = text.chars().count();
        let span = self.span(at, chars);
        if self.wants_key() {
            // In quotes it is a key like any other.
            let merges = text == "<<" && style == ScalarStyle::Plain;
            return self.key(text, merges, span);
        }
        let value = if style == ScalarStyle::Plain && !as_text {
            plain_scalar(text).unwrap_or_else(|reason| {
                self.problems.push(Diagnostic::error(span, reason));
                Value::Null
            })
        } else {
            Value::String(text.to_owned())
        };
        let quote = u32::from(matches!(
            style,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted
        ));
        let one_line = at.start.line() == at.end.line();
        let verbatim = (one_line && at.len() == chars + 2 * quote as usize).then_some(quote);
        let tree = Tree {
            data: Data::Scalar(value),
            span,
            verbatim,
        };
        self.count(1, text.len(), span)?;
        self.place(tree, anchor)
    }

    fn open(&mut self, data: Data, anchor: usize, at: YamlSpan) -> Fallible<()> {
        let span = self.span(at, 1);
        if self.wants_key() {
            return Err(Box::new(
                Diagnostic::error(span, "a key must be text").help("quote the key"),
            ));
        }
        self.nest(self.stack.len() + 1, span)?;
        self.count(1, 0, span)?;
        self.stack.push(Open {
            data,
            span,
            anchor,
            key: None,
            keys: HashSet::new(),
            merging: false,
            merges: Vec::new(),
        });
        Ok(())
    }

    fn close(&mut self) -> Fallible<()> {
        let Some(mut open) = self.stack.pop() else {
            return Ok(());
        };
        if let Data::Map(entries) = &mut open.data {
            for merged in std::mem::take(&mut open.merges) {
                let Data::Map(defaults) = merged.data else {
                    continue;
                };
                for entry in defaults {
                    if !entries.iter().any(|own| own.key == entry.key) {
                        entries.push(entry);
                    }
                }
            }
        }
        let tree = Tree {
            data: open.data,
            span: open.span,
            verbatim: None,
        };
        self.place(tree, open.anchor)
    }

    fn alias(&mut self, anchor: usize, at: YamlSpan) -> Fallible<()> {
        let span = self.span(at, 1);
        if self.wants_key() {
            return Err(Box::new(
                Diagnostic::error(span, "a key must be text").help("write the key out"),
            ));
        }
        let Some(tree) = self.anchors.get(&anchor).cloned() else {
            return Err(Box::new(Diagnostic::error(
                span,
                "an alias inside the value it stands for",
            )));
        };
        self.count(tree.size(), tree.text_bytes(), span)?;
        self.nest(self.stack.len() + tree.depth(), span)?;
        self.place(tree, 0)
    }

    fn key(&mut self, text: &str, merges: bool, span: Span) -> Fallible<()> {
        let Some(open) = self.stack.last_mut() else {
            return Ok(());
        };
        if !merges && open.has(text) {
            let first = open
                .entries()
                .iter()
                .find(|entry| entry.key == text)
                .map(|entry| entry.key_span);
            let mut problem =
                Diagnostic::error(span, format!("the key `{text}` stands here twice"))
                    .help("remove one of the two");
            if let Some(first) = first {
                problem = problem.also(first, "first here");
            }
            self.problems.push(problem);
        }
        open.key = Some((text.to_owned(), span));
        open.merging = merges;
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, tree: Tree, anchor: usize) -> Fallible<()> {
        if anchor > 0 {
            // A copy is kept, and anchors may stand inside each other.
            self.count(tree.size(), tree.text_bytes(), tree.span)?;
            self.anchors.insert(anchor, tree.clone());
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(tree);
            return Ok(());
        };
        match &mut open.data {
            Data::List(items) => items.push(tree),
            Data::Map(entries) => {
                let Some((key, key_span)) = open.key.take() else {
                    return Ok(());
                };
                if !open.merging {
                    entries.push(Entry {
                        key,
                        key_span,
                        value: tree,
                    });
                    return Ok(());
                }
                let maps = match tree.data {
                    Data::List(items) => items,
                    _ => vec![tree],
                };
                for map in maps {
                    if map.entries().is_some() {
                        open.merges.push(map);
                    } else {
                        let message =
                            format!("`<<` takes a map or a list of maps, not {}", map.describe());
                        self.problems.push(Diagnostic::error(key_span, message));
                    }
                }
            }
            Data::Scalar(_) => {}
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        self.stack
            .last()
            .is_some_and(|open| matches!(open.data, Data::Map(_)) && open.key.is_none())
    }

    fn count(&mut self, nodes: usize, text: usize, span: Span) -> Fallible<()> {
        self.nodes += nodes;
        self.text += text;
        if self.text > MAX_TEXT {
            let message = format!(
                "the texts of the spec come to more than {} MiB, those that aliases repeat included",
                MAX_TEXT >> 20
            );
            return Err(Box::new(Diagnostic::error(span, message)));
        }
        if self.nodes > MAX_NODES {
            let message = format!("the spec holds more than {MAX_NODES} values");
            return Err(Box::new(Diagnostic::error(span, message)));
        }
        Ok(())
    }

    fn nest(&self, depth: usize, span: Span) -> Fallible<()> {
        if depth > MAX_DEPTH {
            let message = format!("lists and maps are nested more than {MAX_DEPTH} deep");
            return Err(Box::new(Diagnostic::error(span, message)));
        }
        Ok(())
    }

    fn untagged(&self, tag: Option<&Tag>, at: YamlSpan) -> Fallible<()> {
        match tag {
            Some(tag) => {
                let message = format!("the tag `{tag}` is not supported");
                Err(Box::new(
                    Diagnostic::error(self.span(at, 1), message).help("remove it"),
                ))
            }
            None => Ok(()),
        }
    }

    /// The first line of a YAML span; `length` characters where it has several lines or none.
    fn span(&self, at: YamlSpan, length: usize) -> Span {
        let one_line = at.start.line() == at.end.line() && at.end.index() > at.start.index();
        Span {
            source: self.source,
            line: at.start.line() as u32,
            column: at.start.col() as u32 + 1,
            length: if one_line { at.len() } else { length } as u32,
        }
    }
}
