//! Data on stdout: tables and JSON lines.

use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use serde::Serialize;

/// A table in the house style: no frame, a line under the heading. `numeric` columns are right-aligned.
pub(crate) fn table(heading: &[&str], numeric: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─')));
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(heading.to_vec());
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numeric.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The same table as Markdown.
pub(crate) fn markdown(mut table: Table) -> Table {
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    for column in table.column_iter_mut() {
        column.set_padding((1, 1));
    }
    table
}

/// Prints a table; its lines carry no trailing blanks.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Prints a value as one line of JSON.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn print_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

/// Standard output, buffered.
pub(crate) fn stdout() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::new(io::stdout().lock())
}

/// A size for people: `1.4 GiB`.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{size} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `1 stage`, `2 stages`.
pub(crate) fn count(number: usize, singular: &str, plural: &str) -> String {
    format!("{number} {}", if number == 1 { singular } else { plural })
}

/// Seconds since 1970 as `2025-01-31 12:00 UTC`.
pub(crate) fn date(unix: u64) -> String {
    let stamp = i64::try_from(unix)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    stamp.map_or_else(
        || unix.to_string(),
        |stamp| stamp.strftime("%Y-%m-%d %H:%M UTC").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_the_unit_a_person_would_take() {
        assert_eq!(
            [0, 1023, 1024, 1_048_575, 5_368_709_120].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "5.0 GiB"]
        );
    }

    #[test]
    fn dates_are_in_utc() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
    }
}
