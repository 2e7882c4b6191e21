//! A program that answers lines with lines: started once, asked in batches.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize};

use super::environment;
use super::files;
use super::program::cannot_start;
use crate::lines;
use crate::stage::{FieldPath, FileParam, ParamProblem};

/// A program as a spec names it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterProgram {
    /// The program and its arguments; no shell reads them.
    pub argv: Vec<String>,
    /// The program's own files, such as its script; it finds copies in its working folder. What is in them is part of the
    /// key.
    #[serde(default)]
    pub files: Files,
    /// Variables of the environment that the program sees: `NAME` takes the value that it has here, `NAME=VALUE` sets it.
    /// Names and values are part of the key.
    #[serde(default)]
    pub env: Env,
    /// Names of variables that the program sees too and whose values make no difference: tokens, folders of caches.
    #[serde(default)]
    pub pass_env: BTreeSet<String>,
    /// Change it when the program answers otherwise though nothing here has changed.
    #[serde(default)]
    pub version: u64,
    /// Seconds that it may take for the next line.
    #[serde(default = "default_timeout")]
    #[schemars(range(min = 0.001))]
    pub timeout: f64,
}

fn default_timeout() -> f64 {
    60.0
}

/// The user's files, by where a program finds them. A spec lists them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Files(BTreeMap<String, String>);

/// Declared variables; those without a value are not set. A spec lists names, and `NAME=VALUE`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Env(BTreeMap<String, Option<String>>);

/// What a spec lists, or what became of it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed<T> {
    Written(Vec<String>),
    Resolved(BTreeMap<String, T>),
}

fn first(problems: Vec<ParamProblem>) -> Result<(), String> {
    match problems.into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(problem.message),
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Listed::deserialize(deserializer)? {
            Listed::Resolved(files) => Ok(Self(files)),
            Listed::Written(paths) => files::placed(&paths)
                .map(Self)
                .map_err(|problem| serde::de::Error::custom(problem.message)),
        }
    }
}

impl<'de> Deserialize<'de> for Env {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Listed::deserialize(deserializer)? {
            Listed::Resolved(env) => Ok(Self(env)),
            Listed::Written(items) => {
                let mut problems = Vec::new();
                let env = environment::declared(&items, &mut problems);
                first(problems).map_err(serde::de::Error::custom)?;
                Ok(Self(env))
            }
        }
    }
}

impl JsonSchema for Files {
    fn schema_name() -> Cow<'static, str> {
        "Files".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<String>::json_schema(generator)
    }
}

impl JsonSchema for Env {
    fn schema_name() -> Cow<'static, str> {
        "Env".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Vec::<String>::json_schema(generator)
    }
}

impl FilterProgram {
    /// Mistakes that types do not catch: (dotted field, what would be right).
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        if self
            .argv
            .first()
            .is_none_or(|program| program.trim().is_empty())
        {
            let message = "names no program: write `argv: [PROGRAM, ARGUMENT, ...]`";
            problems.push(("argv".to_owned(), message.to_owned()));
        }
        if !(self.timeout.is_finite() && self.timeout > 0.0) {
            let message = format!(
                "{} is no time; write a number of seconds above 0",
                self.timeout
            );
            problems.push(("timeout".to_owned(), message));
        }
        let mut found = Vec::new();
        let names: Vec<String> = self.pass_env.iter().cloned().collect();
        environment::passed(&names, &self.env.0, &mut found);
        problems.extend(
            found
                .into_iter()
                .map(|problem| ("pass_env".to_owned(), problem.message)),
        );
        problems
    }

    /// The files for the key, where this program stands at `field`.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn files(&self, field: &FieldPath, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        files::named(&self.files.0, &field.child("files"), root)
    }

    /// Starts the program in the folder `work`, which is emptied; relative paths of files are relative to `root`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(&self, work: &Path, root: &Path) -> Result<Filter, FilterError> {
        let io = |error: std::io::Error| FilterError::Start(format!("{}: {error}", work.display()));
        match fs::remove_dir_all(work) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        fs::create_dir_all(work).map_err(io)?;
        files::place(&self.files.0, root, work)
            .map_err(|error| FilterError::Start(error.to_string()))?;
        let (name, arguments) = self
            .argv
            .split_first()
            .ok_or_else(|| FilterError::Start("there is no program".to_owned()))?;
        let mut command = if name.contains('/') {
            Command::new(work.join(name))
        } else {
            Command::new(name)
        };
        command
            .args(arguments)
            .current_dir(work)
            .env_clear()
            .envs(environment::base(&self.env.0, &self.pass_env))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command
            .spawn()
            .map_err(|error| FilterError::Start(cannot_start(&command, &error)))?;
        let thread = |error| FilterError::Start(format!("no thread can be started: {error}"));
        let none = || FilterError::Start("the program cannot be spoken to".to_owned());
        let heard = lines::listen(child.stdout.take().ok_or_else(none)?).map_err(thread)?;
        let mut stdin = child.stdin.take().ok_or_else(none)?;
        let (said, to_say) = mpsc::channel::<Vec<u8>>();
        // A thread of its own: a program that has answers to say does not listen until they are heard.
        std::thread::Builder::new()
            .spawn(move || {
                for text in to_say {
                    if stdin.write_all(&text).and_then(|()| stdin.flush()).is_err() {
                        return;
                    }
                }
            })
            .map_err(thread)?;
        Ok(Filter {
            title: self
                .argv
                .iter()
                .take(3)
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
            timeout: Duration::from_secs_f64(self.timeout),
            child,
            said: Some(said),
            heard,
            work: work.to_owned(),
        })
    }
}

/// Why a program has not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It cannot be started.
    #[error("{0}")]
    Start(String),
    /// It has ended before its time.
    #[error(
        "`{title}` ended ({status}) after {answered} of {asked} lines: it is to answer each line of its stdin with a line"
    )]
    Ended {
        /// The program.
        title: String,
        /// Its status.
        status: String,
        /// Lines of the batch that it has answered.
        answered: usize,
        /// Lines of the batch.
        asked: usize,
    },
    /// It takes too long.
    #[error(
        "`{title}` has said nothing for {seconds} s after {answered} of {asked} lines: it is to answer each line of its stdin \
         with a line and to flush its stdout; `timeout` allows more"
    )]
    Silent {
        /// The program.
        title: String,
        /// How long.
        seconds: String,
        /// Lines of the batch that it has answered.
        answered: usize,
        /// Lines of the batch.
        asked: usize,
    },
    /// It says more than it was asked.
    #[error(
        "`{title}` said {line:?}, which nothing was asked for: it is to answer each line of its stdin with one line"
    )]
    Uncalled {
        /// The program.
        title: String,
        /// What it said.
        line: String,
    },
    /// What is to be asked cannot be written.
    #[error("{0}")]
    Encode(String),
}

/// A program that runs. It is ended when this is dropped.
#[derive(Debug)]
pub struct Filter {
    title: String,
    timeout: Duration,
    child: Child,
    /// None once it has been told that nothing more comes.
    said: Option<Sender<Vec<u8>>>,
    heard: Receiver<Vec<u8>>,
    work: PathBuf,
}

impl Filter {
    /// Asks a batch, a line of JSON each, and gives the lines that it answers, in their order.
    ///
    /// # Errors
    /// If it ends, says nothing for too long, or says more than it was asked.
    pub fn ask<T: Serialize>(&mut self, batch: &[T]) -> Result<Vec<String>, FilterError> {
        self.refuse_uncalled(Duration::ZERO)?;
        let mut text = Vec::new();
        for item in batch {
            serde_json::to_writer(&mut text, item)
                .map_err(|error| FilterError::Encode(error.to_string()))?;
            text.push(b'\n');
        }
        if let Some(said) = &self.said {
            // If it has ended, that shows when it is listened to.
            let _ = said.send(text);
        }
        let mut answers = Vec::with_capacity(batch.len());
        while answers.len() < batch.len() {
            match self.heard.recv_timeout(self.timeout) {
                Ok(line) => answers.push(String::from_utf8_lossy(&line).trim().to_owned()),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(FilterError::Silent {
                        title: self.title.clone(),
                        seconds: self.timeout.as_secs_f64().to_string(),
                        answered: answers.len(),
                        asked: batch.len(),
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(FilterError::Ended {
                        title: self.title.clone(),
                        status: self.status(),
                        answered: answers.len(),
                        asked: batch.len(),
                    });
                }
            }
        }
        Ok(answers)
    }

    /// Tells the program that nothing more comes, and hears whether it has more to say.
    ///
    /// # Errors
    /// If it has.
    pub fn finish(mut self) -> Result<(), FilterError> {
        self.said = None;
        self.refuse_uncalled(self.timeout.min(Duration::from_secs(5)))
    }

    /// Refuses a line that comes within `wait` without having been asked for.
    fn refuse_uncalled(&self, wait: Duration) -> Result<(), FilterError> {
        match self.heard.recv_timeout(wait) {
            Ok(line) => Err(FilterError::Uncalled {
                title: self.title.clone(),
                line: String::from_utf8_lossy(&line).into_owned(),
            }),
            Err(_) => Ok(()),
        }
    }

    /// How it ended. It has closed its stdout and may take a moment.
    fn status(&mut self) -> String {
        for _ in 0..100 {
            match self.child.try_wait() {
                Ok(Some(status)) => return status.to_string(),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return error.to_string(),
            }
        }
        "it has closed its stdout".to_owned()
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.work);
    }
}
