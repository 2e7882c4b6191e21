//! YAML with places: every key and value knows the line and column it was written at.

use serde_json::Value;

use crate::diagnostic::Span;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// What it is.
    pub(crate) data: Data,
    /// Where it stands; the first line of it, where it has several.
    pub(crate) span: Span,
    /// Characters from the start of a string's span to its text, where the text stands there letter for letter.
    pub(crate) verbatim: Option<u32>,
}

/// What a [`Tree`] holds.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// Null, a truth value, a number, a string.
    Scalar(Value),
    /// A list.
    List(Vec<Tree>),
    /// A map in the order it was written.
    Map(Vec<Entry>),
}

/// One entry of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) key_span: Span,
    /// The value.
    pub(crate) value: Tree,
}

/// A map with nothing in it, for what is not written.
pub(crate) static NOTHING: Tree = Tree {
    data: Data::Map(Vec::new()),
    span: Span {
        source: 0,
        line: 1,
        column: 1,
        length: 0,
    },
    verbatim: None,
};

impl Tree {
    /// An empty map at `span`.
    pub(crate) fn empty_map(span: Span) -> Self {
        Self {
            data: Data::Map(Vec::new()),
            span,
            verbatim: None,
        }
    }

    /// The entries, if it is a map.
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.data {
            Data::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub(crate) fn items(&self) -> Option<&[Tree]> {
        match &self.data {
            Data::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Scalar(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// Whether it is null.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.data, Data::Scalar(Value::Null))
    }

    /// The entry called `key`, if it is a map that has one.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries()?.iter().find(|entry| entry.key == key)
    }

    /// The value without places.
    pub(crate) fn to_value(&self) -> Value {
        match &self.data {
            Data::Scalar(value) => value.clone(),
            Data::List(items) => items.iter().map(Self::to_value).collect(),
            Data::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_value()))
                    .collect(),
            ),
        }
    }

    /// What it is, with an article, for "takes a map, not a list".
    pub(crate) fn describe(&self) -> String {
        match &self.data {
            Data::List(_) => "a list".into(),
            Data::Map(_) => "a map".into(),
            Data::Scalar(value) => describe(value),
        }
    }

    /// Where `length` characters of a string stand that begin `offset` characters into it; all of the string
    /// where it does not stand letter for letter in the source.
    pub(crate) fn part(&self, offset: usize, length: usize) -> Span {
        match self.verbatim {
            Some(start) => self.span.part(start as usize + offset, length),
            None => self.span,
        }
    }

    /// How deep its lists and maps are nested; 0 for a scalar.
    pub(crate) fn depth(&self) -> usize {
        let deepest = match &self.data {
            Data::Scalar(_) => return 0,
            Data::List(items) => items.iter().map(Self::depth).max(),
            Data::Map(entries) => entries.iter().map(|entry| entry.value.depth()).max(),
        };
        1 + deepest.unwrap_or(0)
    }

    /// Bytes of its keys and texts.
    pub(crate) fn text_bytes(&self) -> usize {
        match &self.data {
            Data::Scalar(_) => self.text().map_or(0, str::len),
            Data::List(items) => items.iter().map(Self::text_bytes).sum(),
            Data::Map(entries) => entries
                .iter()
                .map(|entry| entry.key.len() + entry.value.text_bytes())
                .sum(),
        }
    }

    /// How many values it is made of.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.data {
            Data::Scalar(_) => 0,
            Data::List(items) => items.iter().map(Self::size).sum(),
            Data::Map(entries) => entries.iter().map(|entry| 1 + entry.value.size()).sum(),
        }
    }
}

/// The whole number from 0 that `value` is, also where it is written as `4.0` or `1e3`.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let float = || {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0 && (0.0..EXACT).contains(float))
    };
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

/// From here on, not every whole number is a 64-bit float.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Characters of a text that a message quotes.
const QUOTED: usize = 60;

/// A value in words: `the text "fast"`, `the number 3`.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(text) => match text.char_indices().nth(QUOTED) {
            Some((end, _)) => format!("the text {}", Value::String(format!("{}…", &text[..end]))),
            None => format!("the text {value}"),
        },
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "a map".into(),
    }
}
