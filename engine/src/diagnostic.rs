//! Mistakes in a spec, shown with the text they stand in.
//!
//! A [`Diagnostic`] says where, what, and what would be right. [`Diagnostics`] is what loading a spec fails
//! with: as many as can be found in one go, in the order of the text, with the sources to quote from.

use std::collections::HashSet;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

use crate::study::{Place, Source};
use crate::text;

/// A stretch of one line of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Index of the source.
    pub source: u32,
    /// 1-based line.
    pub line: u32,
    /// 1-based column, in characters.
    pub column: u32,
    /// Length in characters.
    pub length: u32,
}

impl Span {
    /// The part that begins `offset` characters after the start.
    #[must_use]
    pub fn part(self, offset: usize, length: usize) -> Self {
        Self {
            column: self.column + offset as u32,
            length: length as u32,
            ..self
        }
    }
}

impl From<Span> for Place {
    fn from(span: Span) -> Self {
        Self {
            source: span.source as usize,
            line: span.line as usize,
            column: span.column as usize,
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The spec cannot be run.
    Error,
    /// It can, but is probably not what is meant.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence.
    pub message: String,
    /// Where; none for what has no place in a text, such as a file that cannot be read.
    pub span: Option<Span>,
    /// A few words under the offending text.
    pub label: String,
    /// Other places that matter, each with a few words.
    pub labels: Vec<(Span, String)>,
    /// Further facts: what is allowed.
    pub notes: Vec<String>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: span.into(),
            label: String::new(),
            labels: Vec::new(),
            notes: Vec::new(),
            help: None,
        }
    }

    /// A warning at `span`.
    pub fn warning(span: impl Into<Option<Span>>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message)
        }
    }

    /// With words under the offending text.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.label = text.into();
        self
    }

    /// With another place that matters.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push((span, text.into()));
        self
    }

    /// With a further fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// With what to do.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// With what to do, if there is anything to say.
    #[must_use]
    pub fn maybe_help(mut self, text: Option<String>) -> Self {
        self.help = text.or(self.help);
        self
    }
}

/// Mistakes of one spec with the sources they quote.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    /// The mistakes, in the order of the text.
    pub items: Vec<Diagnostic>,
    /// What they quote, by index.
    pub sources: Vec<Source>,
}

impl Diagnostics {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Themselves, unless there are none.
    ///
    /// # Errors
    /// If there are any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// All of them as text for people: message, excerpt, what would be right.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let blocks: Vec<String> = self
            .items
            .iter()
            .map(|item| self.render_one(item, &renderer))
            .collect();
        blocks.join("\n\n") + if blocks.is_empty() { "" } else { "\n" }
    }

    /// All of them for programs: a list of objects.
    pub fn to_json(&self) -> Value {
        self.items.iter().map(|item| self.item_json(item)).collect()
    }

    fn render_one(&self, item: &Diagnostic, renderer: &Renderer) -> String {
        let level = match item.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(text::block(&item.message));
        let mut group = Group::with_title(title);
        if let Some(span) = item.span {
            group = self.snippets(group, item, span);
        }
        for note in &item.notes {
            group = group.element(Level::NOTE.message(text::block(note)));
        }
        if let Some(help) = &item.help {
            group = group.element(Level::HELP.message(text::block(help)));
        }
        renderer.render(&[group])
    }

    /// The excerpts of one mistake, one per source it touches, the offending one first.
    fn snippets<'a>(&'a self, mut group: Group<'a>, item: &'a Diagnostic, span: Span) -> Group<'a> {
        let mut marks = vec![(span, AnnotationKind::Primary, item.label.as_str())];
        marks.extend(
            item.labels
                .iter()
                .map(|(span, text)| (*span, AnnotationKind::Context, text.as_str())),
        );
        let mut seen = HashSet::new();
        for source in marks.iter().map(|mark| mark.0.source) {
            let Some(text) = self.sources.get(source as usize) else {
                continue;
            };
            let name = text::line(&text.to_string()).into_owned();
            if !seen.insert(source) {
                continue;
            }
            // Character by character, so that marks stay where they point.
            let text = text::same_width(text.text());
            let annotations =
                marks
                    .iter()
                    .filter(|mark| mark.0.source == source)
                    .map(|(span, kind, label)| {
                        let annotation = kind.span(byte_range(&text, *span));
                        if label.is_empty() {
                            annotation
                        } else {
                            annotation.label(text::line(label))
                        }
                    });
            let annotations: Vec<_> = annotations.collect();
            let snippet = Snippet::source(text).path(name);
            group = group.element(snippet.annotations(annotations));
        }
        group
    }

    fn item_json(&self, item: &Diagnostic) -> Value {
        let mut value = json!({"severity": item.severity.name(), "message": item.message});
        if let Some(span) = item.span {
            merge(&mut value, self.span_json(span));
            value["text"] = self.excerpt(span).into();
        }
        let labels: Vec<Value> = item
            .labels
            .iter()
            .map(|(span, text)| {
                let mut label = self.span_json(*span);
                label["message"] = text.as_str().into();
                label
            })
            .collect();
        value["labels"] = labels.into();
        value["notes"] = item.notes.clone().into();
        value["help"] = item.help.clone().into();
        value
    }

    fn span_json(&self, span: Span) -> Value {
        let file = self
            .sources
            .get(span.source as usize)
            .map_or_else(String::new, Source::to_string);
        json!({
            "file": file,
            "line": span.line,
            "column": span.column,
            "length": span.length,
        })
    }

    /// The offending text itself.
    fn excerpt(&self, span: Span) -> &str {
        self.sources.get(span.source as usize).map_or("", |source| {
            let text = source.text();
            &text[byte_range(text, span)]
        })
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// Takes mistakes while a spec is read; the same one twice counts once.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    items: Vec<Diagnostic>,
    seen: HashSet<Diagnostic>,
}

impl Findings {
    /// Takes one.
    pub(crate) fn push(&mut self, item: Diagnostic) {
        if self.seen.insert(item.clone()) {
            self.items.push(item);
        }
    }

    /// How many errors there are so far.
    pub(crate) fn errors(&self) -> usize {
        self.items
            .iter()
            .filter(|item| item.severity == Severity::Error)
            .count()
    }

    /// All of them in the order of the text.
    pub(crate) fn finish(self, sources: Vec<Source>) -> Diagnostics {
        let mut items = self.items;
        items.sort_by_key(|item| item.span);
        Diagnostics { items, sources }
    }
}

/// "did you mean `x`?", if one of `names` is near enough to `name`.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(name, names).map(|near| format!("did you mean `{near}`?"))
}

/// The one of `names` that is nearest to `name`, if it is near enough for a slip: much the same letters, or one
/// letter more, less, other or swapped.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    let score = |candidate: &str| {
        let one_slip = candidate.len() > 1 && strsim::osa_distance(&name, candidate) <= 1;
        strsim::jaro_winkler(&name, candidate) + if one_slip { 1.0 } else { 0.0 }
    };
    names
        .into_iter()
        .map(|candidate| (score(&candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c` in backquotes, for "allowed here: ...".
pub(crate) fn quoted_list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

/// The byte range of a span that counts characters, always within `text`.
fn byte_range(text: &str, span: Span) -> std::ops::Range<usize> {
    let line_start = match span.line {
        0 | 1 => 0,
        line => text
            .match_indices('\n')
            .nth(line as usize - 2)
            .map_or(text.len(), |(at, _)| at + 1),
    };
    let line = text[line_start..].split('\n').next().unwrap_or_default();
    let at = |column: usize| {
        line.char_indices()
            .nth(column)
            .map_or(line.len(), |(at, _)| at)
    };
    let start = at(span.column.saturating_sub(1) as usize);
    let end = at((span.column.saturating_sub(1) + span.length) as usize);
    line_start + start..line_start + end.max(start)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
