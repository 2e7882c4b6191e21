//! Who gave a value: the spec, the command line or the environment. What a relative path is relative to hangs on it.

use std::path::{Path, PathBuf};

use super::scope::{Scope, Vars};
use super::template::{Expr, Form, Part, Variable};
use super::tree::Tree;

/// Who gave the beginning of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Giver {
    /// It is written in a spec.
    Spec,
    /// It comes with `--set`.
    CommandLine,
    /// A variable of the environment, or its default in the spec.
    Environment(Variable),
}

/// What tells files from `--set`, and where relative paths of either begin.
pub(crate) struct Origins {
    /// The spec's folder.
    pub(crate) root: PathBuf,
    /// The first source that is an override.
    pub(crate) first_override: u32,
}

impl Origins {
    /// Who gave the first characters of `form`, which stands at `tree`; none if there are no characters.
    pub(crate) fn giver(
        &self,
        form: &Form,
        tree: Option<&Tree>,
        scope: &Scope<'_>,
    ) -> Option<Giver> {
        let of = |source: u32| {
            if source >= self.first_override {
                Giver::CommandLine
            } else {
                Giver::Spec
            }
        };
        let here = || tree.map_or(Giver::Spec, |tree| of(tree.span.source));
        let Form::Text(template) = form else {
            return Some(here());
        };
        template.parts.iter().find_map(|part| match part {
            Part::Text(text) => (!text.is_empty()).then(here),
            Part::Expr(Expr::Env(variable), _) => Some(Giver::Environment(variable.clone())),
            Part::Expr(Expr::Axis(name), _) => {
                let mut axes = scope.axes.iter().zip(scope.row);
                let (axis, index) = axes.find(|(axis, _)| axis.name == *name)?;
                axis.spans.get(*index as usize).map(|span| of(span.source))
            }
            Part::Expr(Expr::Var(path), _) => {
                let path = scope.text(path).ok()?;
                let (form, tree) = scope.vars.at(&path)?;
                if let Form::Const(value) = form
                    && value.as_str() == Some("")
                {
                    return None;
                }
                self.giver(form, tree, scope)
            }
            Part::Expr(Expr::Ref(_), _) => None,
        })
    }

    /// Item `index` of a list, also of one that is a var.
    pub(crate) fn item<'a>(
        &self,
        form: &'a Form,
        tree: Option<&'a Tree>,
        index: usize,
        scope: &Scope<'a>,
    ) -> Option<(&'a Form, Option<&'a Tree>)> {
        match form {
            Form::List(items) => {
                let tree = tree
                    .and_then(Tree::items)
                    .and_then(|items| items.get(index));
                Some((items.get(index)?, tree))
            }
            Form::Text(template) => match template.whole()? {
                Expr::Var(path) => {
                    let (form, tree) = scope.vars.at(&scope.text(path).ok()?)?;
                    self.item(form, tree, index, scope)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The path that `text` stands for, where that is not `text` itself relative to the spec's folder.
    ///
    /// # Errors
    /// Words on why it stands for no path.
    pub(crate) fn path(&self, text: &str, giver: &Giver) -> Result<Option<String>, String> {
        if text == "~" || text.starts_with("~/") {
            return home(&text[1..]).map(Some);
        }
        if text.starts_with('~') {
            return Err(format!(
                "`{text}` would be in another user's home folder, which is not looked up; write the folder out, or \
                 `./{text}` for one of that name"
            ));
        }
        let beside_the_spec = match giver {
            Giver::Spec => true,
            Giver::CommandLine => false,
            Giver::Environment(variable) => variable.default,
        };
        if beside_the_spec || text.is_empty() || Path::new(text).is_absolute() {
            return Ok(None);
        }
        let path = std::path::absolute(text)
            .map_err(|error| format!("`{text}`: the current folder cannot be found: {error}"))?;
        let path = path.into_os_string().into_string();
        path.map(Some).map_err(|path| {
            format!(
                "{}: the folder's name is not UTF-8",
                Path::new(&path).display()
            )
        })
    }

    /// Who gave the path `text` and what it is relative to, for a message; and what to do.
    pub(crate) fn words(&self, text: &str, giver: &Giver) -> (String, Option<String>) {
        let spec = "the spec's folder";
        let relative = Path::new(text).is_relative() && !text.starts_with('~');
        let to = |folder: &str| {
            if relative {
                format!(", relative to {folder}")
            } else {
                String::new()
            }
        };
        match giver {
            Giver::Spec if relative => (format!("`{text}` is relative to {spec}"), None),
            Giver::Spec => (format!("`{text}` is written in the spec"), None),
            Giver::CommandLine => (
                format!("`{text}` comes with `--set`{}", to("the current folder")),
                None,
            ),
            Giver::Environment(Variable {
                name,
                default: false,
                ..
            }) => (
                format!(
                    "`{text}` comes from the environment variable `{name}`{}",
                    to("the current folder")
                ),
                None,
            ),
            Giver::Environment(Variable { name, .. }) => (
                format!(
                    "the environment variable `{name}` is not set; `{text}` comes from its default in the spec{}",
                    to(spec)
                ),
                Some(format!("set `{name}`, or give the path with `--set`")),
            ),
        }
    }
}

/// The user's home folder with `rest` after it.
fn home(rest: &str) -> Result<String, String> {
    match std::env::var("HOME") {
        Ok(home) if Path::new(&home).is_absolute() => {
            Ok(format!("{}{rest}", home.trim_end_matches('/')))
        }
        _ => Err("`~` stands for the home folder, and `HOME` names none".to_owned()),
    }
}

impl<'t> Vars<'t> {
    /// The var at a dotted path, and where it stands.
    pub(crate) fn at(&self, path: &str) -> Option<(&Form, Option<&'t Tree>)> {
        let form = self.form().at(path.split('.'))?;
        Some((form, super::place::find(self.tree(), path.split('.'))))
    }
}
