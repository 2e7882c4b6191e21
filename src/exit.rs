//! How the program ends.

use std::io;
use std::path::PathBuf;

use dcsft_engine::diagnostic::Diagnostics;

/// The exit codes, a promise to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// A stage failed, or the machine did (a full disk, say).
    Failed = 1,
    /// The spec or the command line is wrong.
    Usage = 2,
    /// A locked run diverged from its lock file.
    Diverged = 3,
    /// The user interrupted it.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked. Presented once, in `main`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Mistakes in a spec.
    Spec(Box<Diagnostics>),
    /// Anything else, with its exit code.
    Message {
        /// What is wrong.
        message: String,
        /// What would be right.
        help: Option<String>,
        /// How the program ends.
        exit: Exit,
    },
    /// Whoever read the output went away; nothing is to be said.
    BrokenPipe,
}

impl Failure {
    /// A mistake of the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Message {
            message: message.into(),
            help: None,
            exit: Exit::Usage,
        }
    }

    /// Something that went wrong on the way.
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Message {
            message: error.to_string(),
            help: None,
            exit: Exit::Failed,
        }
    }

    /// Adds what would be right.
    pub(crate) fn help(mut self, text: impl Into<String>) -> Self {
        if let Self::Message { help, .. } = &mut self {
            *help = Some(text.into());
        }
        self
    }

    /// A file that could not be written.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::failed(format!("cannot write {}: {error}", path.display()))
    }

    /// How the program ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Spec(_) => Exit::Usage,
            Self::Message { exit, .. } => *exit,
            Self::BrokenPipe => Exit::Done,
        }
    }
}

/// For writes to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::failed(format!("cannot write to stdout: {error}")),
        }
    }
}

impl From<dcsft_cache::StoreError> for Failure {
    fn from(error: dcsft_cache::StoreError) -> Self {
        Self::failed(error)
    }
}
