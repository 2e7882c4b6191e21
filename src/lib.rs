//! dcsft: declarative, cached, reproducible experiments in vision-language post-training.
//!
//! The program only presents: it parses the command line, asks the engine, and shows what comes back. It is a library so
//! that a program with further stage kinds is one line: [`main_with`].

mod cli;
mod collect;
mod commands;
mod exit;
mod kernels;
mod origin;
mod output;
mod program;
mod progress;
mod project_file;
mod remote;
mod report;
mod select;
mod settings;
mod terminal;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue};
use cli::{Cli, Command};
use dcsft_engine::text;
use exit::{Exit, Failure};
use output::Shown;
use settings::App;
pub use settings::Kinds;
use tracing_subscriber::EnvFilter;

/// Training allocates and frees a buffer for every operation of every step; the system's allocator gives such
/// memory back to the kernel and asks for it again.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The whole program with these stage kinds, from the command line to the exit code. It starts itself again as the process
/// in which a stage runs, so `main` calls this and does nothing else that costs or prints.
pub fn main_with(kinds: Kinds) -> ExitCode {
    let cli = parse();
    log_to_stderr();
    if let Command::Worker(args) = &cli.command {
        return ExitCode::from(commands::worker::run(args, &kinds()));
    }
    let app = App::new(&cli.global, kinds);
    match dispatch(&app, &cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => end(&app, &failure),
    }
}

/// Reads the command line; on a mistake says so and ends.
fn parse() -> Cli {
    Cli::try_parse().unwrap_or_else(|mut error| {
        // Where a command is missing, clap lists the hidden one too.
        let named = error.get(ContextKind::ValidSubcommand).cloned();
        if let Some(ContextValue::Strings(mut names)) = named {
            names.retain(|name| name != "worker");
            error.insert(ContextKind::ValidSubcommand, ContextValue::Strings(names));
        }
        if error.use_stderr() && wants_json() {
            tell_as_json(&error);
        }
        let said = error.render().to_string();
        if said.chars().any(|c| c != '\n' && text::is_hidden(c)) {
            // An argument that is quoted holds what would not be seen as it is.
            let _ = write!(std::io::stderr(), "{}", text::block(&said));
            std::process::exit(error.exit_code());
        }
        error.exit()
    })
}

/// Whether a command line that cannot be read asks for JSON.
fn wants_json() -> bool {
    std::env::args_os()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json")
}

/// Tells a mistake of the command line to programs: clap's text for people, without its colours and its head.
fn tell_as_json(error: &clap::Error) {
    let text = error.render().to_string();
    let mut parts = text.trim().split("\n\n");
    let message = parts.next().unwrap_or_default();
    let help: Vec<&str> = parts.collect();
    let failure = Failure::usage(message.strip_prefix("error: ").unwrap_or(message));
    let failure = if help.is_empty() {
        failure
    } else {
        failure.help(help.join("\n\n"))
    };
    for mistake in failure.to_json() {
        let mistake = mistake.to_string();
        let _ = writeln!(std::io::stdout(), "{}", text::json(&mistake));
    }
}

fn dispatch(app: &App, command: &Command) -> Result<Exit, Failure> {
    // A run starts them itself, after it has seen to the signals that threads share.
    if !matches!(command, Command::Run(_)) {
        settings::start_threads()?;
    }
    match command {
        Command::Run(args) => commands::run::run(app, args),
        Command::Cancel(args) => commands::cancel::run(app, args),
        Command::Plan(args) => commands::plan::run(app, args),
        Command::Why(args) => commands::why::run(app, args),
        Command::Graph(args) => commands::graph::run(app, args),
        Command::Status(args) => commands::status::run(app, args),
        Command::Results(args) => commands::results::run(app, args),
        Command::Report(args) => commands::report::run(app, args),
        Command::Lock(args) => commands::lock::run(app, args),
        Command::Export(args) => commands::export::run(app, args),
        Command::Score(args) => commands::score::run(args),
        Command::Cache(command) => commands::cache::run(app, command),
        Command::Stages(args) => commands::stages::run(app, args),
        Command::Schema => commands::schema::run(app),
        Command::Doctor(args) => commands::doctor::run(app, args),
        Command::Completions(args) => commands::completions::run(args),
        // It was run above: its exit code is its own.
        Command::Worker(_) => Ok(Exit::Done),
    }
}

fn end(app: &App, failure: &Failure) -> ExitCode {
    app.terminal.failure(failure);
    failure.exit().into()
}

/// Diagnostics for developers, `DCSFT_LOG=debug`; warnings are always shown.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("DCSFT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Shown::new(std::io::stderr()))
        .with_ansi(false)
        .without_time()
        .init();
}
