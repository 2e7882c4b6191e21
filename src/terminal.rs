//! What is said to the user beside data: messages on stderr, coloured where that is wanted.

use std::io::{IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use dcsft_engine::diagnostic::Diagnostics;
use dcsft_engine::text;

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

    /// `text`, a word of ours, in `style`, if colours are on.
    fn paint(self, style: Style, text: &str) -> String {
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
        self.write(&format!("{head} {}", text::block(text)));
    }

    /// What would be right.
    pub(crate) fn help(self, text: &str) {
        let head = self.paint(AnsiColor::Cyan.on_default().bold(), "help:");
        self.write(&format!("{head} {}", text::block(text)));
    }

    /// Asks something that can be answered with yes. Where nobody is there to answer, or nothing but yes is said, no.
    pub(crate) fn asks(self, question: &str) -> bool {
        if self.json || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return false;
        }
        let _ = write!(std::io::stderr(), "{question}");
        let mut answer = String::new();
        let _ = std::io::stdin().read_line(&mut answer);
        matches!(answer.trim(), "y" | "Y" | "yes")
    }

    /// The end of a command that failed: for people, and with `--json` for programs too.
    pub(crate) fn failure(self, failure: &Failure) {
        if self.json {
            self.tell(failure);
        }
        self.explain(failure);
    }

    /// Tells programs of a failure.
    pub(crate) fn tell(self, failure: &Failure) {
        let mut out = std::io::stdout().lock();
        for mistake in failure.to_json() {
            // Where nobody listens there is nobody to tell.
            let _ = writeln!(out, "{}", text::json(&mistake.to_string()));
        }
    }

    fn explain(self, failure: &Failure) {
        match failure {
            Failure::Told(failure) => self.explain(failure),
            Failure::Spec(diagnostics) => self.write(diagnostics.render(self.colour).trim_end()),
            Failure::Message { message, help, .. } => {
                self.error(message);
                if let Some(help) = help {
                    self.help(help);
                }
            }
            Failure::BrokenPipe => {}
        }
    }

    /// Mistakes of a spec that do not keep it from running, unless the user wants quiet.
    pub(crate) fn warn(self, warnings: &Diagnostics) {
        if !self.quiet && !warnings.is_empty() {
            self.write(warnings.render(self.colour).trim_end());
        }
    }

    /// Text on stderr; what cannot be seen is written out.
    pub(crate) fn to_stderr(self, text: &str) {
        self.write(&text::block(text));
    }

    /// Text that is safe to show. Where nobody listens there is nobody to tell.
    fn write(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
