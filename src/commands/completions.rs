//! `dcsft completions SHELL`.

use std::io::Write;

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::exit::{Exit, Failure};
use crate::output::stdout;

/// Prints the script.
///
/// # Errors
/// If stdout cannot be written.
pub(crate) fn run(args: &Completions) -> Result<Exit, Failure> {
    // `generate` panics where it cannot write, so it writes to memory.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dcsft", &mut script);
    let mut out = stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}
