//! `dcsft completions SHELL`.

use std::io::Write;

use clap::{Command, CommandFactory};

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
    clap_complete::generate(args.shell, &mut shown(), "dcsft", &mut script);
    let mut out = stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// The command line without what is hidden from people.
fn shown() -> Command {
    let all = Cli::command();
    let commands = all
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    Command::new("dcsft")
        .args(all.get_arguments().cloned())
        .subcommands(commands.cloned())
}
