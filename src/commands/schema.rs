//! `dcsft schema`.

use std::io::Write;

use dcsft_engine::schema::spec_schema;

use crate::exit::{Exit, Failure};
use crate::output::stdout;
use crate::settings::App;

/// Prints the JSON Schema of a spec with all stage kinds.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn run(app: &App) -> Result<Exit, Failure> {
    let mut out = stdout();
    serde_json::to_writer_pretty(&mut out, &spec_schema(&app.kinds()))
        .map_err(std::io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(Exit::Done)
}
