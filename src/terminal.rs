//! What is said to the user beside data: messages on stderr, coloured where that is wanted.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};

use crate::cli::{Global, When};
use crate::exit::Failure;

/// How much is said, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terminal {
    /// Colour on stderr.
    pub(crate) colour: bool,
    /// stderr is a terminal: bars may be drawn.
    pub(crate) bars: bool,
    /// Data is wanted as JSON.
    pub(crate) json: bool,
    /// Say more.
    pub(crate) verbose: bool,
    /// Say nothing but errors.
    pub(crate) quiet: bool,
}

impl Terminal {
    /// What the flags and the environment come to.
    pub(crate) fn new(global: &Global) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || dumb;
        let colour = match global.color {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !plain,
        };
        Self {
            colour,
            bars: terminal && !dumb,
            json: global.json,
            verbose: global.verbose,
            quiet: global.quiet,
        }
    }

    /// `text` in `style`, if colours are on.
    pub(crate) fn paint(self, style: Style, text: &str) -> String {
        if self.colour {
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// A message, unless the user wants quiet.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            self.to_stderr(text);
        }
    }

    /// An error.
    pub(crate) fn error(self, text: &str) {
        let head = self.paint(AnsiColor::Red.on_default().bold(), "error:");
        self.to_stderr(&format!("{head} {text}"));
    }

    /// What would be right.
    pub(crate) fn help(self, text: &str) {
        let head = self.paint(AnsiColor::Cyan.on_default().bold(), "help:");
        self.to_stderr(&format!("{head} {text}"));
    }

    /// The end of a command that failed.
    pub(crate) fn failure(self, failure: &Failure) {
        match failure {
            Failure::Spec(diagnostics) => {
                self.to_stderr(diagnostics.render(self.colour).trim_end())
            }
            Failure::Message { message, help, .. } => {
                self.error(message);
                if let Some(help) = help {
                    self.help(help);
                }
            }
            Failure::BrokenPipe => {}
        }
    }

    /// A line on stderr. Where nobody listens there is nobody to tell.
    pub(crate) fn to_stderr(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
