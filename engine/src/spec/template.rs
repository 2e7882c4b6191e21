//! Text with `${...}` in it.
//!
//! | written | means |
//! |---|---|
//! | `${matrix.x}` | the value of axis `x` |
//! | `${vars.a.b}` | a var |
//! | `${env.X}`, `${env.X:-default}` | a variable of the environment, or the default where it is not set |
//! | `${stage}`, `${stage.output}` | another stage's output |
//! | `${stage[x=1,y=*].output}` | with axis `x` pinned and `y` gathered |
//! | `$${` | the characters `${` |
//!
//! The path of a var, an output and a pinned value may hold `${matrix...}` and `${vars...}` themselves.

mod parts;
mod read;

use serde_json::Value;

use super::tree::{Data, Tree};
use crate::diagnostic::Findings;

pub(crate) use parts::{Expr, Part, RefExpr, Selector, Template, Variable};
pub(crate) use read::parse;

/// A value with templates in it.
#[derive(Clone, Debug)]
pub(crate) enum Form {
    /// Nothing to fill in.
    Const(Value),
    /// A text to fill in.
    Text(Template),
    /// A list.
    List(Vec<Form>),
    /// A map.
    Map(Vec<(String, Form)>),
    /// A text that could not be read, which has been reported.
    Broken,
}

impl Form {
    /// Compiles a tree; mistakes are reported and leave their text as it is.
    pub(crate) fn compile(tree: &Tree, findings: &mut Findings) -> Self {
        match &tree.data {
            Data::Scalar(Value::String(text)) if text.contains("${") => match parse(tree, text) {
                Ok(template) => match template.constant() {
                    Some(text) => Self::Const(Value::String(text.to_owned())),
                    None => Self::Text(template),
                },
                Err(problem) => {
                    findings.push(*problem);
                    Self::Broken
                }
            },
            Data::Scalar(value) => Self::Const(value.clone()),
            Data::List(items) => Self::List(
                items
                    .iter()
                    .map(|item| Self::compile(item, findings))
                    .collect(),
            ),
            Data::Map(entries) => {
                let form = |entry: &super::tree::Entry, findings: &mut Findings| {
                    (entry.key.clone(), Self::compile(&entry.value, findings))
                };
                Self::Map(entries.iter().map(|entry| form(entry, findings)).collect())
            }
        }
    }

    /// The same with `${HEAD.NAME}`, for each of `heads`, as text: the worker fills it in.
    pub(crate) fn late(self, heads: &[&str]) -> Self {
        match self {
            Self::Text(template) => {
                let template = template.late(heads);
                match template.constant() {
                    Some(text) => Self::Const(Value::String(text.to_owned())),
                    None => Self::Text(template),
                }
            }
            Self::List(items) => {
                Self::List(items.into_iter().map(|item| item.late(heads)).collect())
            }
            Self::Map(entries) => {
                let entries = entries.into_iter();
                Self::Map(entries.map(|(key, form)| (key, form.late(heads))).collect())
            }
            other => other,
        }
    }

    /// The part at `path`.
    pub(crate) fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Self> {
        path.into_iter().try_fold(self, |form, part| match form {
            Self::Map(entries) => entries
                .iter()
                .find(|(key, _)| key == part)
                .map(|(_, form)| form),
            Self::List(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        })
    }

    /// Whether it has a value: nothing in it is broken or a reference to a stage.
    pub(crate) fn has_value(&self) -> bool {
        match self {
            Self::Const(_) => true,
            Self::Text(template) => !template
                .parts
                .iter()
                .any(|part| matches!(part, Part::Expr(Expr::Ref(_), _))),
            Self::List(items) => items.iter().all(Self::has_value),
            Self::Map(entries) => entries.iter().all(|(_, form)| form.has_value()),
            Self::Broken => false,
        }
    }

    /// Calls `visit` with every template in it.
    pub(crate) fn templates<'a>(&'a self, visit: &mut impl FnMut(&'a Template)) {
        match self {
            Self::Const(_) | Self::Broken => {}
            Self::Text(template) => visit(template),
            Self::List(items) => items.iter().for_each(|item| item.templates(visit)),
            Self::Map(entries) => entries.iter().for_each(|(_, form)| form.templates(visit)),
        }
    }
}
