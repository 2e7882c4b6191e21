//! The params of a stage in each of its cells, and their mistakes with the places they come from.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::{Map, Value};

use super::compile::Stage;
use super::params::{Checker, Problem};
use super::place;
use super::relation::Relation;
use super::scope::{Reads, Scope, Vars};
use super::template::{Expr, Form, Template};
use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::kind::{Kind, ResolvedParams};
use crate::study::Place;

/// Fills in and checks params.
pub(crate) struct Fields<'a> {
    vars: &'a Vars<'a>,
    checker: Checker,
    /// Whether the files that params name are there.
    exists: HashMap<PathBuf, bool>,
}

impl<'a> Fields<'a> {
    /// Relative paths are relative to `root`.
    pub(crate) fn new(vars: &'a Vars<'a>, root: PathBuf) -> Self {
        Self {
            vars,
            checker: Checker::new(root),
            exists: HashMap::new(),
        }
    }

    /// The params of every cell, worked out once for each combination of the axes they read; none where they are
    /// wrong.
    pub(crate) fn resolve(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        cells: &Relation,
        findings: &mut Findings,
    ) -> Vec<Option<Rc<ResolvedParams>>> {
        let mut all_reads = Reads::default();
        let mut fields = Vec::with_capacity(stage.params.len());
        for (key, form) in &stage.params {
            let mut reads = Reads::default();
            form.templates(&mut |template| self.vars.reads(template, &mut reads));
            // An axis that is not here has been reported, or hangs on something that has.
            let known =
                form.has_value() && reads.axes.keys().all(|name| cells.position(name).is_some());
            fields.push((key.as_str(), known.then_some(form)));
            all_reads.axes.append(&mut reads.axes);
        }
        let positions: Vec<usize> = all_reads
            .axes
            .keys()
            .filter_map(|name| cells.position(name))
            .collect();
        let mut seen: HashMap<Vec<u32>, Option<Rc<ResolvedParams>>> = HashMap::new();
        let mut all = Vec::with_capacity(cells.rows.len());
        for row in &cells.rows {
            let key: Vec<u32> = positions.iter().map(|&at| row[at]).collect();
            if !seen.contains_key(&key) {
                let scope = Scope::new(self.vars, &cells.axes, row);
                seen.insert(
                    key.clone(),
                    self.one(stage, kind, &fields, &scope, findings),
                );
            }
            all.push(seen[&key].clone());
        }
        all
    }

    /// The params in one combination; `fields` without a form are not known.
    fn one(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        fields: &[(&str, Option<&Form>)],
        scope: &Scope<'_>,
        findings: &mut Findings,
    ) -> Option<Rc<ResolvedParams>> {
        let mut with = Map::new();
        let mut holes = Vec::new();
        for (key, form) in fields {
            let value = form.and_then(|form| {
                scope
                    .value(form)
                    .map_err(|problem| findings.push(*problem))
                    .ok()
            });
            match value {
                Some(value) => drop(with.insert((*key).to_owned(), value)),
                None => holes.push(*key),
            }
        }
        let with = Value::Object(with);
        if !holes.is_empty() {
            let problems = self.checker.problems(kind, &with);
            let known = problems
                .iter()
                .filter(|problem| !holes.iter().any(|hole| problem.is_lack_of(hole)));
            known.for_each(|problem| self.report(stage, scope, problem, findings));
            return None;
        }
        match self.checker.resolve(kind, &with) {
            Ok(resolved) => {
                self.missing_files(stage, &resolved, findings);
                Some(resolved)
            }
            Err(problems) => {
                problems
                    .iter()
                    .for_each(|problem| self.report(stage, scope, problem, findings));
                None
            }
        }
    }

    /// Reports a mistake where its value is written: in an axis or a var, if the field is nothing but that.
    fn report(
        &self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        problem: &Problem,
        findings: &mut Findings,
    ) {
        let (key, value) = place::nearest(stage.decl.with, &problem.path, stage.decl.span);
        let origin =
            template_at(stage, &problem.path).and_then(|template| self.origin(template, scope));
        let diagnostic = match origin {
            _ if problem.on_key => Diagnostic::error(key, problem.message.clone()),
            Some(origin) => {
                Diagnostic::error(origin, problem.message.clone()).also(value, "used here")
            }
            None => Diagnostic::error(value, problem.message.clone()),
        };
        let diagnostic = diagnostic.maybe_help(problem.help.clone());
        findings.push(match &problem.note {
            Some(note) => diagnostic.note(note.clone()),
            None => diagnostic,
        });
    }

    /// Where the value of a template that is one axis or one var is written.
    fn origin(&self, template: &Template, scope: &Scope<'_>) -> Option<Span> {
        match template.whole()? {
            Expr::Axis(name) => {
                let (axis, index) = scope
                    .axes
                    .iter()
                    .zip(scope.row)
                    .find(|(axis, _)| axis.name == *name)?;
                axis.spans.get(*index as usize).copied()
            }
            Expr::Var(path) => self.vars.span(&scope.text(path).ok()?),
            Expr::Env(_) | Expr::Ref(_) => None,
        }
    }

    fn missing_files(
        &mut self,
        stage: &Stage<'_>,
        resolved: &ResolvedParams,
        findings: &mut Findings,
    ) {
        for param in resolved.files.iter().filter(|param| param.required) {
            for (_, path) in &param.files {
                if *self
                    .exists
                    .entry(path.clone())
                    .or_insert_with(|| path.exists())
                {
                    continue;
                }
                let field: Vec<String> = param.field.split('.').map(str::to_owned).collect();
                let (_, span) = place::nearest(stage.decl.with, &field, stage.decl.span);
                let message = format!("there is no file or folder {}", path.display());
                findings.push(
                    Diagnostic::error(span, message)
                        .help("paths are relative to the spec's folder"),
                );
            }
        }
    }

    /// Where each field stands; for a field that is one var, where the var stands.
    pub(crate) fn places(&self, stage: &Stage<'_>) -> BTreeMap<String, Place> {
        let mut places = place::all(stage.decl.with);
        let nowhere = Scope::new(self.vars, &[], &[]);
        for (path, place) in &mut places {
            let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
            if let Some(span) =
                template_at(stage, &parts).and_then(|template| self.origin(template, &nowhere))
            {
                *place = span.into();
            }
        }
        places
    }
}

/// The template that the field at `path` is.
fn template_at<'s>(stage: &'s Stage<'_>, path: &[String]) -> Option<&'s Template> {
    let (first, rest) = path.split_first()?;
    let (_, form) = stage.params.iter().find(|(key, _)| key == first)?;
    match form.at(rest.iter().map(String::as_str))? {
        Form::Text(template) => Some(template),
        _ => None,
    }
}
