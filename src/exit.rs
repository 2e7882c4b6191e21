//! How the program ends.

use std::io;
use std::path::PathBuf;

use dcsft_cache::StoreError;
use dcsft_engine::diagnostic::Diagnostics;
use dcsft_engine::key::KeyError;
use dcsft_engine::plan::PlanError;
use dcsft_engine::run::RunError;
use serde_json::{Value, json};

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
    /// One that was told as JSON already.
    Told(Box<Failure>),
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
            Self::Told(failure) => failure.exit(),
        }
    }

    /// For programs: one object per mistake, with the code that the program ends with.
    pub(crate) fn to_json(&self) -> Vec<Value> {
        let exit = self.exit() as u8;
        match self {
            Self::Spec(diagnostics) => match diagnostics.to_json() {
                Value::Array(mistakes) => mistakes,
                mistake => vec![mistake],
            },
            Self::Message { message, help, .. } => vec![json!({"message": message, "help": help})],
            Self::BrokenPipe | Self::Told(_) => return Vec::new(),
        }
        .into_iter()
        .map(|mut mistake| {
            // What it is stands first, as in every event.
            let mut event = json!({"event": "error", "exit": exit});
            if let (Value::Object(event), Value::Object(mistake)) = (&mut event, &mut mistake) {
                event.append(mistake);
            }
            event
        })
        .collect()
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

impl From<Diagnostics> for Failure {
    fn from(mistakes: Diagnostics) -> Self {
        Self::Spec(Box::new(mistakes))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of_store(&error, &error)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match &error {
            PlanError::Store(store) => Self::of_store(&error, store),
            PlanError::Key(KeyError::File { source, .. }) => Self::of_store(&error, source),
            _ => Self::failed(error),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        match &error {
            RunError::Store(store) | RunError::Unstored { source: store, .. } => {
                Self::of_store(&error, store)
            }
            RunError::Key(KeyError::File { source, .. }) => Self::of_store(&error, source),
            RunError::Workspace { .. } => Self::failed(error)
                .help("free some space there, or choose another folder with --cache-dir"),
            RunError::Thread { .. } => Self::failed(error)
                .help("raise the limit on processes (ulimit -u), or use fewer --jobs"),
            _ => Self::failed(error),
        }
    }
}

impl Failure {
    /// An error of the cache, or one that comes from it, with what can be done about it on the command line.
    fn of_store(error: &dyn std::fmt::Display, store: &StoreError) -> Self {
        let failure = Self::failed(error);
        match cure(store) {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

/// What can be done about an error of the cache.
fn cure(error: &StoreError) -> Option<&'static str> {
    Some(match error {
        StoreError::NoSpace { .. } => {
            "free some space, run `dcsft cache gc`, or choose another folder with --cache-dir"
        }
        StoreError::Permission { .. } => {
            "change the owner or mode of that path, or choose another folder with --cache-dir"
        }
        StoreError::NewerLayout { .. } | StoreError::NewerFormat { .. } => {
            "use a newer dcsft, or another folder with --cache-dir"
        }
        StoreError::LocksUnsupported { .. } => "choose a folder on a local disk with --cache-dir",
        StoreError::RootNotUnicode { .. } => "choose another folder with --cache-dir",
        _ => return None,
    })
}
