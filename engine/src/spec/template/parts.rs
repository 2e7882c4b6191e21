//! What a text with `${...}` in it is made of.

use serde_json::Value;

use crate::diagnostic::Span;

/// A text in parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Template {
    /// The parts, in order.
    pub(crate) parts: Vec<Part>,
}

/// One part of a [`Template`].
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// Text as it is.
    Text(String),
    /// `${...}`, and where it stands.
    Expr(Expr, Span),
}

/// What stands in `${...}`.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    /// The value of an axis.
    Axis(String),
    /// The var at a dotted path.
    Var(Template),
    /// What the environment gave.
    Env(Variable),
    /// Another stage's output.
    Ref(RefExpr),
}

/// A variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: Value,
    /// The value letter for letter: what it is inside a longer text.
    pub(crate) text: String,
    /// The value is the default in the spec: the variable is not set.
    pub(crate) default: bool,
}

/// A reference as it is written.
#[derive(Clone, Debug)]
pub(crate) struct RefExpr {
    /// The stage's name.
    pub(crate) stage: String,
    /// Where the name stands.
    pub(crate) stage_span: Span,
    /// `[*]`: gathered over all axes.
    pub(crate) all: bool,
    /// Pinned and gathered axes, each with its place.
    pub(crate) selectors: Vec<(String, Selector, Span)>,
    /// The output's name; none means the default one.
    pub(crate) output: Option<Template>,
}

/// What a reference says about one axis.
#[derive(Clone, Debug)]
pub(crate) enum Selector {
    /// This value.
    Pin(Template),
    /// All values, as a list.
    All,
}

impl Template {
    /// The expression, if there is nothing else.
    pub(crate) fn whole(&self) -> Option<&Expr> {
        match self.parts.as_slice() {
            [Part::Expr(expr, _)] => Some(expr),
            _ => None,
        }
    }

    /// The text up to the first expression.
    pub(crate) fn static_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// See [`Form::late`].
    pub(super) fn late(self, heads: &[&str]) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut push = |part| match (part, parts.last_mut()) {
            (Part::Text(text), Some(Part::Text(before))) => before.push_str(&text),
            (part, _) => parts.push(part),
        };
        for part in self.parts {
            match part {
                Part::Expr(
                    Expr::Ref(RefExpr {
                        stage,
                        all: false,
                        selectors,
                        output: Some(output),
                        ..
                    }),
                    _,
                ) if selectors.is_empty() && heads.contains(&stage.as_str()) => {
                    push(Part::Text(format!("${{{stage}.")));
                    output.parts.into_iter().for_each(&mut push);
                    push(Part::Text("}".to_owned()));
                }
                part => push(part),
            }
        }
        Self { parts }
    }

    /// The text, if there is nothing to fill in.
    pub(crate) fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}
