//! From a text to a template.

use super::parts::{Expr, Part, RefExpr, Selector, Template, Variable};
use crate::diagnostic::{Diagnostic, Span};
use crate::spec::environment::{self, Missing};
use crate::spec::names::{is_name, is_name_char};
use crate::spec::tree::Tree;

/// Parses the string `text` of `tree`.
///
/// # Errors
/// The first mistake.
pub(crate) fn parse(tree: &Tree, text: &str) -> Result<Template, Box<Diagnostic>> {
    let mut reader = Reader {
        tree,
        chars: text.chars().collect(),
        at: 0,
        depth: 0,
    };
    reader.template(&[], true)
}

/// Deepest nesting of interpolations.
const MAX_DEPTH: usize = 16;

struct Reader<'a> {
    tree: &'a Tree,
    chars: Vec<char>,
    at: usize,
    /// Interpolations that are open.
    depth: usize,
}

type Parsed<T> = Result<T, Box<Diagnostic>>;

impl Reader<'_> {
    /// Text and expressions up to one of `ends` or the end of the text.
    fn template(&mut self, ends: &[char], references: bool) -> Parsed<Template> {
        let mut parts = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.peek(0) {
            if ends.contains(&c) {
                break;
            }
            match (c, self.peek(1), self.peek(2)) {
                ('$', Some('$'), Some('{')) => {
                    text.push_str("${");
                    self.at += 3;
                }
                ('$', Some('{'), _) => {
                    if !text.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut text)));
                    }
                    let start = self.at;
                    let expr = self.expr()?;
                    let span = self.span(start);
                    if !references && matches!(expr, Expr::Ref(_)) {
                        let message =
                            "a reference to a stage cannot stand inside another interpolation";
                        return Err(Box::new(Diagnostic::error(span, message)));
                    }
                    parts.push(Part::Expr(expr, span));
                }
                _ => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
        if !text.is_empty() || parts.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Template { parts })
    }

    /// `${...}`, from its `$`.
    fn expr(&mut self) -> Parsed<Expr> {
        let start = self.at;
        self.at += 2;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            let message = format!("interpolations are nested more than {MAX_DEPTH} deep");
            return Err(self.fail(start, &message));
        }
        let head_at = self.at;
        let head = self.name();
        let expr = match head.as_str() {
            "" => return Err(self.unexpected(start)),
            "matrix" => {
                self.expect('.', start)?;
                let name_at = self.at;
                let name = self.name();
                if !is_name(&name) {
                    return Err(self.fail(
                        name_at.saturating_sub(1),
                        "`matrix.` is followed by the name of an axis",
                    ));
                }
                Expr::Axis(name)
            }
            "vars" => {
                self.expect('.', start)?;
                Expr::Var(self.template(&['}'], false)?)
            }
            "env" => {
                self.expect('.', start)?;
                Expr::Env(self.environment(start)?)
            }
            _ => Expr::Ref(self.reference(head, head_at)?),
        };
        match self.peek(0) {
            Some('}') => {
                self.at += 1;
                self.depth -= 1;
                Ok(expr)
            }
            _ => Err(self.unexpected(start)),
        }
    }

    /// `NAME` or `NAME:-default`, looked up at once. The default goes up to the `}`.
    fn environment(&mut self, start: usize) -> Parsed<Variable> {
        let name_at = self.at;
        let name = self.name();
        if !environment::is_name(&name) {
            return Err(self.fail(
                name_at.saturating_sub(1),
                "`env.` is followed by the name of an environment variable",
            ));
        }
        let mut default = None;
        if (self.peek(0), self.peek(1)) == (Some(':'), Some('-')) {
            let text = self.at + 2;
            while self.peek(0).is_some_and(|c| c != '}') {
                self.at += 1;
            }
            default = Some(self.chars[text..self.at].iter().collect::<String>());
        }
        if self.peek(0) != Some('}') {
            return Err(self.unexpected(start));
        }
        let found = environment::read(&name, default.as_deref()).map_err(|missing| {
            let span = self.tree.part(start, self.at + 1 - start);
            let (what, help) = match missing {
                Missing::Unset => (
                    "is not set",
                    format!("set it, or write a default: `${{env.{name}:-default}}`"),
                ),
                Missing::NotText => ("is not UTF-8", "set it to text".to_owned()),
            };
            let message = format!("the environment variable `{name}` {what}");
            Box::new(Diagnostic::error(span, message).help(help))
        })?;
        Ok(Variable {
            name,
            value: found.value,
            text: found.text,
            default: found.default,
        })
    }

    fn reference(&mut self, stage: String, head_at: usize) -> Parsed<RefExpr> {
        let stage_span = self.span(head_at);
        let mut reference = RefExpr {
            stage,
            stage_span,
            all: false,
            selectors: Vec::new(),
            output: None,
        };
        if self.peek(0) == Some('[') {
            self.at += 1;
            self.selectors(&mut reference)?;
        }
        if self.peek(0) == Some('.') {
            self.at += 1;
            let output_at = self.at;
            let output = self.template(&['}'], false)?;
            if output.constant() == Some("") {
                return Err(self.fail(
                    output_at - 1,
                    "the name of an output is missing after the dot",
                ));
            }
            reference.output = Some(output);
        }
        Ok(reference)
    }

    /// `*]` or `axis=value,axis=*]`.
    fn selectors(&mut self, reference: &mut RefExpr) -> Parsed<()> {
        loop {
            self.spaces();
            let start = self.at;
            if self.peek(0) == Some('*') {
                self.at += 1;
                reference.all = true;
            } else {
                let name = self.name();
                self.spaces();
                if !is_name(&name) || self.peek(0) != Some('=') {
                    return Err(
                        self.fail(start, "in brackets stands `*`, `axis=value` or `axis=*`")
                    );
                }
                self.at += 1;
                let value = self.template(&[',', ']', '}'], false)?;
                let selector = match value.constant().map(str::trim) {
                    Some("*") => Selector::All,
                    Some(text) => Selector::Pin(Template {
                        parts: vec![Part::Text(text.to_owned())],
                    }),
                    None => Selector::Pin(value),
                };
                let span = self.span(start);
                if reference.selectors.iter().any(|(other, ..)| *other == name) {
                    return Err(Box::new(Diagnostic::error(
                        span,
                        format!("the axis `{name}` is named twice"),
                    )));
                }
                reference.selectors.push((name, selector, span));
            }
            self.spaces();
            match self.peek(0) {
                Some(',') => self.at += 1,
                Some(']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fail(start, "the bracket `[` is not closed")),
            }
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while self.peek(0).is_some_and(is_name_char) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().collect()
    }

    fn spaces(&mut self) {
        while self.peek(0) == Some(' ') {
            self.at += 1;
        }
    }

    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn expect(&mut self, c: char, start: usize) -> Parsed<()> {
        if self.peek(0) == Some(c) {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected(start))
    }

    fn unexpected(&self, start: usize) -> Box<Diagnostic> {
        let closed = self.chars[self.at.min(self.chars.len())..].contains(&'}');
        let message = if closed {
            "this interpolation cannot be read"
        } else {
            "this `${` is not closed with `}`"
        };
        let end = if closed {
            self.at + 1
        } else {
            self.chars.len()
        };
        let span = self
            .tree
            .part(start, end.min(self.chars.len()).max(start + 1) - start);
        let problem = Diagnostic::error(span, message)
            .note("there are `${matrix.AXIS}`, `${vars.NAME}`, `${env.NAME}`, `${STAGE}`, `${STAGE.OUTPUT}`, `${STAGE[AXIS=VALUE].OUTPUT}`")
            .help("for the characters `${` themselves write `$${`");
        Box::new(problem)
    }

    fn fail(&self, start: usize, message: &str) -> Box<Diagnostic> {
        let length = self.at.max(start + 1).min(self.chars.len()) - start.min(self.chars.len());
        Box::new(Diagnostic::error(
            self.tree.part(start, length.max(1)),
            message,
        ))
    }

    /// From `start` to here.
    fn span(&self, start: usize) -> Span {
        self.tree.part(start, self.at - start)
    }
}
