//! A value of a list, whichever format it was written in.

use serde_json::{Map, Value};

/// A value as the list has it: integers digit by digit, and what JSON has no word for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    /// As JSON writes it.
    Number(String),
    /// `NaN`, `Infinity` or `-Infinity`, as Python writes them into JSON.
    NotFinite(&'static str),
    Text(String),
    /// Of a Parquet file.
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Record(Vec<(String, Cell)>),
}

impl Cell {
    pub(crate) fn float(value: f64) -> Self {
        match serde_json::Number::from_f64(value) {
            Some(number) => Self::Number(number.to_string()),
            None if value.is_nan() => Self::NotFinite("NaN"),
            None if value > 0.0 => Self::NotFinite("Infinity"),
            None => Self::NotFinite("-Infinity"),
        }
    }

    /// The field of a record; of two with one name the last, as in Python.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Record(fields) = self else {
            return None;
        };
        let named = fields.iter().rev().find(|(field, _)| field == name);
        named.map(|(_, value)| value)
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Nothing was written here: null, or an empty text, list or record, as tables have it whose rows were merged.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Text(text) => text.is_empty(),
            Self::List(items) => items.is_empty(),
            Self::Record(fields) => fields.is_empty(),
            _ => false,
        }
    }

    /// What it is, for people.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::NotFinite(word) => word,
            Self::Text(_) => "a text",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "a list",
            Self::Record(_) => "an object",
        }
    }

    /// The value as a further fact of a sample. What JSON has no number for is text, NaN is null, of bytes the count
    /// is kept.
    pub(crate) fn into_json(self) -> Value {
        match self {
            Self::Null | Self::NotFinite(_) => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Number(text) => number(text),
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()).into(),
            Self::List(items) => items.into_iter().map(Self::into_json).collect(),
            Self::Record(fields) => fields
                .into_iter()
                .map(|(name, value)| (name, value.into_json()))
                .collect::<Map<_, _>>()
                .into(),
        }
    }
}

/// A number that keeps its digits, else its text.
fn number(text: String) -> Value {
    match serde_json::from_str::<Value>(&text) {
        Ok(value) if format!("{value}") == text => value,
        _ => text.into(),
    }
}

/// The names of a record's fields, for people; none where it is no record.
pub(crate) fn fields(record: &Cell) -> Option<String> {
    let Cell::Record(fields) = record else {
        return None;
    };
    let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    Some(names.join(", "))
}
