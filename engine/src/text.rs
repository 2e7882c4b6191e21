//! Text that others wrote, made safe where it is shown.
//!
//! Names in a spec, answers of a model and messages of a downloaded template may hold anything. On a terminal an escape
//! sequence moves the cursor or sets the title, a mark of writing direction shows `a=b` as `b=a`, a separator that takes
//! no room hides a difference; in a spreadsheet a cell that begins with `=` is run.

use std::borrow::Cow;

use serde_json::Value;

/// Whether a character is never shown as it is: control characters (C0, DEL, C1), marks of writing direction, separators
/// of lines and paragraphs, and what takes no room.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

/// An axis value as people write it: strings without quotes.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line: hidden characters, also line feeds and tabs, are written as `\u{1b}`.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |c| c.escape_unicode().to_string())
}

/// Several lines: line feeds and tabs stay, other hidden characters are written as `\u{1b}`.
pub fn block(text: &str) -> Cow<'_, str> {
    let hidden = |c| is_hidden(c) && c != '\n' && c != '\t';
    escaped(text, hidden, |c| c.escape_unicode().to_string())
}

/// JSON text with hidden characters as `\u001b`, which is the same JSON: outside of strings there are none but line feeds
/// between values.
pub fn json(text: &str) -> Cow<'_, str> {
    let unit = |c: char| {
        let mut units = [0; 2];
        let units = c.encode_utf16(&mut units).iter();
        units.map(|unit| format!("\\u{unit:04x}")).collect()
    };
    escaped(text, |c| is_hidden(c) && c != '\n', unit)
}

/// As many characters as before, for text that is pointed into: each hidden one is a replacement character.
pub fn same_width(text: &str) -> Cow<'_, str> {
    // Windows' line ends are line ends.
    if text.contains("\r\n") {
        let lines: Vec<Cow<'_, str>> = text.split("\r\n").map(without_hidden).collect();
        return Cow::Owned(lines.join("\r\n"));
    }
    without_hidden(text)
}

fn without_hidden(text: &str) -> Cow<'_, str> {
    let hidden = |c| is_hidden(c) && c != '\n' && c != '\t';
    escaped(text, hidden, |_| "\u{fffd}".to_owned())
}

fn escaped(
    text: &str,
    hidden: impl Fn(char) -> bool,
    escape: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) {
            out += &escape(c);
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// A cell of a Markdown table: one line, and nothing in it ends the cell or begins a tag.
pub fn markdown_cell(text: &str) -> String {
    let line = line(text);
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        match c {
            '|' | '\\' => out.extend(['\\', c]),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            _ => out.push(c),
        }
    }
    out
}

/// A cell of a CSV file: one line, and no spreadsheet takes it for a formula: text that begins with `=`, `+`, `-` or `@`
/// and is no number gets a `'` in front (OWASP, "CSV Injection").
pub fn csv_cell(text: &str) -> String {
    let starts = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n'])
        || text.starts_with(['\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\u{2212}']);
    let plain = line(text);
    if starts && text.parse::<f64>().is_err() {
        format!("'{plain}")
    } else {
        plain.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_written_out() {
        let hostile = "a\u{1b}]0;t\u{7}b\u{9b}2J\u{202e}c\u{200b}d\u{2028}e\u{7f}\r\u{feff}";
        for text in [line(hostile), block(hostile), same_width(hostile)] {
            assert!(!text.chars().any(is_hidden), "{text:?}");
        }
        assert_eq!(line("a\u{1b}[2J"), "a\\u{1b}[2J");
        assert_eq!(line("two\nlines\t"), "two\\u{a}lines\\u{9}");
        assert_eq!(block("two\nlines\t\r"), "two\nlines\t\\u{d}");
        assert_eq!(same_width(hostile).chars().count(), hostile.chars().count());
        for plain in ["sft/easy+medium", "Zoë ± 3 µm 日本語 👩", ""] {
            assert!(matches!(line(plain), Cow::Borrowed(_)), "{plain}");
        }
    }

    #[test]
    fn json_means_the_same_as_before() {
        let value = serde_json::json!({"a\u{202e}": "b\u{9b}\u{e0041}\n\u{7f}"});
        let text = value.to_string();
        let safe = json(&text);
        assert!(!safe.chars().any(is_hidden), "{safe}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&safe).unwrap(),
            value
        );
    }

    #[test]
    fn a_markdown_cell_ends_where_its_text_does() {
        assert_eq!(
            markdown_cell("a|b\\|c<d>\n&"),
            "a\\|b\\\\\\|c&lt;d>\\\\u{a}&amp;"
        );
    }

    #[test]
    fn csv_cells_are_no_formulas_and_numbers_stay_numbers() {
        for formula in [
            "=1+1", "+1+1", "-1+1", "@SUM(1)", "\t=1", "\r=1", "-", "＝1",
        ] {
            let cell = csv_cell(formula);
            assert!(cell.starts_with('\''), "{cell:?}");
        }
        for plain in ["-0.5", "+3", "-1e-3", "0.25", "sft/a=b", "a-b", ""] {
            assert_eq!(csv_cell(plain), plain);
        }
    }
}
