//! What `${matrix...}` and `${vars...}` mean in one combination of axis values.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::axis::Axis;
use super::template::{Expr, Form, Part, Selector, Template};
use super::tree::Tree;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::text::plain;

/// Longest chain of vars that use vars.
const MAX_CHAIN: usize = 32;
/// Most vars that are looked up for one combination: vars that use others twice, and those others again, soon come to
/// more values than any memory holds.
const MAX_LOOKUPS: usize = 100_000;
/// Most bytes of text that vars come to in one combination.
const MAX_TEXT: usize = 16 << 20;

/// `vars:`, compiled.
#[derive(Debug)]
pub(crate) struct Vars<'t> {
    tree: &'t Tree,
    form: Form,
    /// Whether vars use each other in a circle, so that nothing can be evaluated.
    pub(crate) cyclic: bool,
}

/// Open templates with the var each of them leads to.
type Chain = Vec<(*const Template, String)>;

/// The axes that expressions read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// Axes by name, with the place of the first mention.
    pub(crate) axes: BTreeMap<String, Span>,
    followed: HashSet<*const Form>,
}

/// One combination.
pub(crate) struct Scope<'a> {
    /// The vars.
    pub(crate) vars: &'a Vars<'a>,
    /// The axes.
    pub(crate) axes: &'a [Rc<Axis>],
    /// The index of each axis' value.
    pub(crate) row: &'a [u32],
    lookups: Cell<usize>,
    text: Cell<usize>,
}

type Evaluated<T> = Result<T, Box<Diagnostic>>;

impl<'t> Vars<'t> {
    /// Compiles `vars:`; references in it are mistakes, and so are vars that use themselves.
    pub(crate) fn new(tree: &'t Tree, findings: &mut Findings) -> Self {
        let form = Form::compile(tree, findings);
        form.templates(&mut |template| {
            for part in &template.parts {
                if let Part::Expr(Expr::Ref(reference), span) = part {
                    let message = format!("a var cannot refer to the stage `{}`", reference.stage);
                    let help = "write the reference in the input of the stage that reads it";
                    findings.push(Diagnostic::error(*span, message).help(help));
                }
            }
        });
        let mut vars = Self {
            tree,
            form,
            cyclic: false,
        };
        vars.cyclic = vars.find_cycle(findings);
        vars
    }

    /// What is written.
    pub(crate) fn tree(&self) -> &'t Tree {
        self.tree
    }

    /// What is written, compiled.
    pub(crate) fn form(&self) -> &Form {
        &self.form
    }

    /// Reports the first circle of vars; returns whether there is one.
    fn find_cycle(&self, findings: &mut Findings) -> bool {
        let mut roots = Vec::new();
        self.form.templates(&mut |template| roots.push(template));
        let mut done = HashSet::new();
        for root in roots {
            let mut chain = Vec::new();
            if let Some(span) = self.walk(root, &mut chain, &mut done) {
                if chain.len() > MAX_CHAIN {
                    let message = format!("more than {MAX_CHAIN} vars that use one another");
                    findings.push(Diagnostic::error(span, message));
                    return true;
                }
                let names: Vec<&str> = chain
                    .iter()
                    .map(|(_, name)| name.as_str())
                    .filter(|name| !name.is_empty())
                    .collect();
                let message = format!(
                    "vars that use each other in a circle: {}",
                    names.join(" -> ")
                );
                findings.push(
                    Diagnostic::error(span, message).help("give one of them a value of its own"),
                );
                return true;
            }
        }
        false
    }

    /// Follows the vars that `template` uses; the place that closes a circle, if there is one.
    fn walk<'a>(
        &'a self,
        template: &'a Template,
        chain: &mut Chain,
        done: &mut HashSet<*const Template>,
    ) -> Option<Span> {
        if done.contains(&std::ptr::from_ref(template)) {
            return None;
        }
        for part in &template.parts {
            let Part::Expr(Expr::Var(path), span) = part else {
                continue;
            };
            chain.push((template, prefix(path)));
            if chain.len() > MAX_CHAIN {
                return Some(*span);
            }
            let mut next = Vec::new();
            if let Some(form) = self.below(path) {
                form.templates(&mut |template| next.push(template));
            }
            for inner in next {
                if chain.iter().any(|(open, _)| std::ptr::eq(*open, inner)) {
                    return Some(*span);
                }
                if let Some(found) = self.walk(inner, chain, done) {
                    return Some(found);
                }
            }
            chain.pop();
        }
        done.insert(template);
        None
    }

    /// What stands at the part of `path` that is written out.
    fn below(&self, path: &Template) -> Option<&Form> {
        let prefix = prefix(path);
        self.form
            .at(prefix.split('.').filter(|part| !part.is_empty()))
    }

    /// Where the var at `path` stands.
    pub(crate) fn span(&self, path: &str) -> Option<Span> {
        super::place::find(self.tree, path.split('.')).map(|tree| tree.span)
    }

    /// Adds what `template` reads to `reads`, vars followed.
    pub(crate) fn reads(&self, template: &Template, reads: &mut Reads) {
        for part in &template.parts {
            let Part::Expr(expr, span) = part else {
                continue;
            };
            match expr {
                Expr::Axis(name) => {
                    reads.axes.entry(name.clone()).or_insert(*span);
                }
                Expr::Env(_) => {}
                Expr::Var(path) => {
                    self.reads(path, reads);
                    if let Some(form) = self
                        .below(path)
                        .filter(|form| reads.followed.insert(std::ptr::from_ref(*form)))
                    {
                        form.templates(&mut |template| self.reads(template, reads));
                    }
                }
                Expr::Ref(reference) => {
                    for (_, selector, _) in &reference.selectors {
                        if let Selector::Pin(value) = selector {
                            self.reads(value, reads);
                        }
                    }
                    if let Some(output) = &reference.output {
                        self.reads(output, reads);
                    }
                }
            }
        }
    }
}

/// The dotted path up to the first part that is computed.
fn prefix(path: &Template) -> String {
    if let Some(text) = path.constant() {
        return text.to_owned();
    }
    let text = path.static_prefix();
    text.rfind('.')
        .map_or(String::new(), |dot| text[..dot].to_owned())
}

impl<'a> Scope<'a> {
    /// The combination `row` of values of `axes`.
    pub(crate) fn new(vars: &'a Vars<'a>, axes: &'a [Rc<Axis>], row: &'a [u32]) -> Self {
        Self {
            vars,
            axes,
            row,
            lookups: Cell::new(0),
            text: Cell::new(0),
        }
    }

    /// A form with everything filled in.
    ///
    /// # Errors
    /// The first mistake.
    pub(crate) fn value(&self, form: &Form) -> Evaluated<Value> {
        Ok(match form {
            Form::Const(value) => {
                self.text
                    .set(self.text.get() + value.as_str().map_or(0, str::len));
                value.clone()
            }
            Form::Broken => Value::Null,
            Form::Text(template) => match template.parts.as_slice() {
                [Part::Expr(expr, span)] => self.expr(expr, *span)?,
                _ => Value::String(self.text(template)?),
            },
            Form::List(items) => items
                .iter()
                .map(|item| self.value(item))
                .collect::<Evaluated<Vec<_>>>()?
                .into(),
            Form::Map(entries) => {
                let entry = |(key, form): &(String, Form)| Ok((key.clone(), self.value(form)?));
                Value::Object(
                    entries
                        .iter()
                        .map(entry)
                        .collect::<Evaluated<Map<_, _>>>()?,
                )
            }
        })
    }

    /// A template as text.
    ///
    /// # Errors
    /// The first mistake; a list or map cannot be part of a text.
    pub(crate) fn text(&self, template: &Template) -> Evaluated<String> {
        let mut text = String::new();
        for part in &template.parts {
            match part {
                Part::Text(part) => text.push_str(part),
                // A folder called `007` or `1e3` is no number.
                Part::Expr(Expr::Env(variable), _) => text.push_str(&variable.text),
                Part::Expr(expr, span) => match self.expr(expr, *span)? {
                    value @ (Value::Array(_) | Value::Object(_) | Value::Null) => {
                        let message =
                            format!("{} cannot be part of a text", super::tree::describe(&value));
                        return Err(Box::new(Diagnostic::error(*span, message)));
                    }
                    value => text.push_str(&plain(&value)),
                },
            }
        }
        self.text.set(self.text.get() + text.len());
        Ok(text)
    }

    fn expr(&self, expr: &Expr, span: Span) -> Evaluated<Value> {
        match expr {
            Expr::Axis(name) => {
                let found = self
                    .axes
                    .iter()
                    .zip(self.row)
                    .find(|(axis, _)| axis.name == *name);
                let value = found.and_then(|(axis, index)| axis.values.get(*index as usize));
                value.cloned().ok_or_else(|| {
                    Box::new(Diagnostic::error(
                        span,
                        format!("there is no axis `{name}` here"),
                    ))
                })
            }
            Expr::Var(path) => {
                self.lookups.set(self.lookups.get() + 1);
                if self.text.get() > MAX_TEXT {
                    let message = format!("this comes to more than {} MiB of text", MAX_TEXT >> 20);
                    return Err(Box::new(Diagnostic::error(span, message)));
                }
                if self.lookups.get() > MAX_LOOKUPS {
                    let message =
                        format!("this takes more than {MAX_LOOKUPS} vars that use each other");
                    return Err(Box::new(Diagnostic::error(span, message)));
                }
                let path = self.text(path)?;
                let form = self
                    .vars
                    .form
                    .at(path.split('.'))
                    .ok_or_else(|| self.unknown_var(&path, span))?;
                self.value(form)
            }
            Expr::Env(variable) => Ok(variable.value.clone()),
            Expr::Ref(reference) => {
                let message = format!(
                    "a reference to the stage `{}` cannot stand here",
                    reference.stage
                );
                Err(Box::new(Diagnostic::error(span, message)))
            }
        }
    }

    fn unknown_var(&self, path: &str, span: Span) -> Box<Diagnostic> {
        let mut form = &self.vars.form;
        let mut known = vec!["vars"];
        let mut missing = path;
        for part in path.split('.') {
            missing = part;
            match form.at([part]) {
                Some(next) => form = next,
                None => break,
            }
            known.push(part);
        }
        let parent = known.join(".");
        let problem = Diagnostic::error(span, format!("`{parent}` has no `{missing}`"));
        let problem = match form {
            Form::Map(entries) if entries.is_empty() => problem.note("the spec has no `vars`"),
            Form::Map(entries) => {
                let names = || entries.iter().map(|(key, _)| key.as_str());
                problem
                    .note(format!("it has {}", quoted_list(names())))
                    .maybe_help(did_you_mean(missing, names()))
            }
            _ => problem.note(format!("`{parent}` is no map")),
        };
        Box::new(problem)
    }
}
