//! Data on stdout: tables and JSON lines. Whatever the text, nothing of it reaches a terminal but what can be seen.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, TableStyle};
use dcsft_engine::text;
use serde::Serialize;

/// A table of text.
pub(crate) struct Table {
    heading: Vec<String>,
    numeric: Vec<usize>,
    rows: Vec<Vec<String>>,
}

/// A table in the house style: no frame, a line under the heading. `numeric` columns are right-aligned. A heading may
/// have several lines.
pub(crate) fn table(heading: &[&str], numeric: &[usize]) -> Table {
    Table {
        heading: heading.iter().map(|cell| (*cell).to_owned()).collect(),
        numeric: numeric.to_vec(),
        rows: Vec::new(),
    }
}

impl Table {
    /// Adds a row; each cell is shown in one line.
    pub(crate) fn add_row<C: Into<String>>(&mut self, cells: impl IntoIterator<Item = C>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// As lines for a terminal, without trailing blanks.
    fn lines(&self) -> Vec<String> {
        let mut table = comfy_table::Table::new();
        table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')));
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(
            self.heading
                .iter()
                .map(|cell| text::block(cell).into_owned()),
        );
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| text::line(cell).into_owned()));
        }
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if self.numeric.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
            .lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// As a Markdown table.
    fn markdown(&self) -> Vec<String> {
        let row = |cells: &[String]| {
            let cells = cells.iter().map(|cell| text::markdown_cell(cell));
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let heading: Vec<String> = self
            .heading
            .iter()
            .map(|cell| cell.replace('\n', " "))
            .collect();
        let rule = (0..heading.len()).map(|index| {
            if self.numeric.contains(&index) {
                "--:"
            } else {
                "---"
            }
        });
        let rule = format!("|{}|", rule.collect::<Vec<_>>().join("|"));
        [row(&heading), rule]
            .into_iter()
            .chain(self.rows.iter().map(|cells| row(cells)))
            .collect()
    }
}

/// Prints a table.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    table
        .lines()
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
}

/// Prints a table as Markdown.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_markdown(out: &mut impl Write, table: &Table) -> io::Result<()> {
    table
        .markdown()
        .iter()
        .try_for_each(|line| writeln!(out, "{line}"))
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let line = serde_json::to_string(value)?;
    writeln!(out, "{}", text::json(&line))
}

/// Standard output, buffered; what cannot be seen is written out ([`text::block`]).
pub(crate) fn stdout() -> Shown<io::BufWriter<io::StdoutLock<'static>>> {
    Shown::new(io::BufWriter::new(io::stdout().lock()))
}

/// Writes text with what cannot be seen written out.
pub(crate) struct Shown<W> {
    out: W,
    /// The beginning of a character whose end has not been written yet.
    part: Vec<u8>,
}

impl<W: Write> Shown<W> {
    /// Writes to `out`.
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            part: Vec::new(),
        }
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.part) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.part.len(),
        };
        let rest = self.part.split_off(whole);
        let shown = String::from_utf8_lossy(&self.part);
        self.out.write_all(text::block(&shown).as_bytes())?;
        self.part = rest;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// `1 stage`, `2 stages`.
pub(crate) fn count(number: usize, singular: &str, plural: &str) -> String {
    format!("{number} {}", if number == 1 { singular } else { plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_cannot_be_seen_and_keeps_its_rows() {
        let mut list = table(&["arm", "value"], &[1]);
        list.add_row(["a\u{1b}[2J\nb|c\u{202e}", "1"]);
        let (mut plain, mut markdown) = (Vec::new(), Vec::new());
        print_table(&mut plain, &list).unwrap();
        print_markdown(&mut markdown, &list).unwrap();
        for bytes in [&plain, &markdown] {
            let text = std::str::from_utf8(bytes).unwrap();
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(
                !text.chars().any(|c| c != '\n' && text::is_hidden(c)),
                "{text:?}"
            );
        }
        assert!(String::from_utf8(markdown).unwrap().contains("b\\|c"));
    }

    #[test]
    fn characters_are_whole_however_they_are_written() {
        let text = "±é\u{9b}日\u{1b}x\n";
        for size in 1..6 {
            let mut out = Shown::new(Vec::new());
            text.as_bytes()
                .chunks(size)
                .for_each(|part| out.write_all(part).unwrap());
            let shown = String::from_utf8(out.out).unwrap();
            assert_eq!(shown, "±é\\u{9b}日\\u{1b}x\n");
        }
        let mut out = Shown::new(Vec::new());
        out.write_all(b"a\xffb").unwrap();
        assert_eq!(out.out, "a\u{fffd}b".as_bytes());
    }
}
