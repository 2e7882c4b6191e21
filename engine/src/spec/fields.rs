//! The params of a stage in each of its cells, and their mistakes with the places they come from.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::compile::Stage;
use super::origin::{Giver, Origins};
use super::params::{Checker, Outcome, Resolved};
use super::place;
use super::problem::Problem;
use super::relation::Relation;
use super::scope::{Reads, Scope, Vars};
use super::template::{Expr, Form, Template};
use super::tree::Tree;
use crate::diagnostic::{Diagnostic, Findings, Span};
use crate::stage::{FieldPath, Kind};
use crate::study::Place;

/// Fills in and checks params.
pub(crate) struct Fields<'a> {
    vars: &'a Vars<'a>,
    checker: Checker,
    origins: Origins,
    /// What is wrong with the files that params name; nothing where they are there.
    missing: HashMap<PathBuf, Option<String>>,
}

impl<'a> Fields<'a> {
    /// `origins` says what relative paths are relative to.
    pub(crate) fn new(vars: &'a Vars<'a>, origins: Origins) -> Self {
        Self {
            vars,
            checker: Checker::new(origins.root.clone()),
            origins,
            missing: HashMap::new(),
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
    ) -> Vec<Option<Arc<Resolved>>> {
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
        let mut seen: HashMap<Vec<u32>, Option<Arc<Resolved>>> = HashMap::new();
        let mut all = Vec::with_capacity(cells.rows.len());
        let key_of = |row: &[u32]| positions.iter().map(|&at| row[at]).collect::<Vec<u32>>();
        for rows in cells.rows.chunks(AT_ONCE) {
            let mut fresh = Vec::new();
            for row in rows {
                let key = key_of(row);
                if let Entry::Vacant(entry) = seen.entry(key) {
                    let scope = Scope::new(self.vars, &cells.axes, row);
                    fresh.push((row, self.fill(stage, kind, &fields, &scope, findings)));
                    entry.insert(None);
                }
            }
            let filled = fresh.iter().filter_map(|(_, filled)| filled.as_ref());
            let whole = filled.filter(|filled| filled.holes.is_empty());
            let whole: Vec<&Value> = whole.map(|filled| &filled.with).collect();
            let mut outcomes = self.checker.resolve(kind, &whole).into_iter();
            for (row, filled) in fresh {
                let scope = Scope::new(self.vars, &cells.axes, row);
                let params = filled.and_then(|filled| {
                    let outcome = filled.holes.is_empty().then(|| outcomes.next()).flatten();
                    self.judge(stage, kind, &scope, &filled, outcome, findings)
                });
                seen.insert(key_of(row), params);
            }
            all.extend(rows.iter().map(|row| seen[&key_of(row)].clone()));
        }
        all
    }

    /// The params in one combination, as they are written; `fields` without a form are not known.
    fn fill<'f>(
        &self,
        stage: &Stage<'_>,
        kind: &'f dyn Kind,
        fields: &[(&'f str, Option<&Form>)],
        scope: &Scope<'_>,
        findings: &mut Findings,
    ) -> Option<Filled<'f>> {
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
        let mut with = Value::Object(with);
        let mut paths = Paths::new();
        for field in kind.decl().paths {
            let field = FieldPath::from(*field);
            match self.path(stage, scope, &field, &mut with) {
                Ok(found) => drop(paths.insert(field, found)),
                Err(problem) => {
                    self.report(stage, scope, &problem, &paths, findings);
                    return None;
                }
            }
        }
        Some(Filled { with, holes, paths })
    }

    /// The params in one combination, if nothing is wrong with them; without an outcome some of them are not known.
    fn judge(
        &mut self,
        stage: &Stage<'_>,
        kind: &dyn Kind,
        scope: &Scope<'_>,
        filled: &Filled<'_>,
        outcome: Option<Outcome>,
        findings: &mut Findings,
    ) -> Option<Arc<Resolved>> {
        let Filled { with, holes, paths } = filled;
        let Some(outcome) = outcome else {
            let problems = self.checker.problems(kind, with);
            let known = problems
                .iter()
                .filter(|problem| !holes.iter().any(|hole| problem.is_lack_of(hole)));
            known.for_each(|problem| self.report(stage, scope, problem, paths, findings));
            return None;
        };
        match outcome {
            Ok(resolved) => {
                self.missing_files(stage, scope, &resolved, paths, findings);
                Some(resolved)
            }
            Err(problems) => {
                problems
                    .iter()
                    .for_each(|problem| self.report(stage, scope, problem, paths, findings));
                None
            }
        }
    }

    /// Puts the paths that a field stands for, one or a list of them, in its place. Returns what was written, with who
    /// gave it.
    ///
    /// # Errors
    /// A text that stands for no path.
    #[expect(
        clippy::result_large_err,
        reason = "made once for each mistake of a spec"
    )]
    fn path(
        &self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        field: &FieldPath,
        with: &mut Value,
    ) -> Result<Vec<(String, Giver)>, Problem> {
        let Some(slot) = field.find_mut(with) else {
            return Ok(Vec::new());
        };
        let tree = place::find(stage.decl.with, field.iter().map(String::as_str));
        let form = form_at(stage, field);
        let one = |slot: &mut Value, at: Option<(&Form, Option<&Tree>)>| {
            let giver = at.and_then(|(form, tree)| self.origins.giver(form, tree, scope));
            self.one_path(slot, giver.unwrap_or(Giver::Spec))
                .map_err(|message| Problem::new(field.clone(), message))
        };
        let Value::Array(items) = slot else {
            return Ok(one(slot, form.map(|form| (form, tree)))?
                .into_iter()
                .collect());
        };
        let mut found = Vec::new();
        for (index, item) in items.iter_mut().enumerate() {
            let at = form.and_then(|form| self.origins.item(form, tree, index, scope));
            found.extend(one(item, at)?);
        }
        Ok(found)
    }

    /// Puts the path that a value stands for in its place, and returns what was written with who gave it.
    fn one_path(&self, slot: &mut Value, giver: Giver) -> Result<Option<(String, Giver)>, String> {
        if let Giver::Environment(variable) = &giver
            && *slot == variable.value
        {
            // A folder called `2024` is no number.
            *slot = variable.text.clone().into();
        }
        let Some(text) = slot.as_str().map(str::to_owned) else {
            return Ok(None);
        };
        if let Some(path) = self.origins.path(&text, &giver)? {
            *slot = path.into();
        }
        Ok(Some((text, giver)))
    }

    /// Reports a mistake where its value is written: in an axis or a var, if the field is nothing but that.
    fn report(
        &self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        problem: &Problem,
        paths: &Paths,
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
        let diagnostic = match &problem.note {
            Some(note) => diagnostic.note(note.clone()),
            None => diagnostic,
        };
        let diagnostic = self.say_who_gave(diagnostic, &problem.path, paths);
        findings.push(diagnostic.maybe_help(problem.help.clone()));
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

    /// Adds where a path comes from to what is wrong with it.
    fn say_who_gave(&self, problem: Diagnostic, field: &FieldPath, paths: &Paths) -> Diagnostic {
        let given = paths.get(field).map(Vec::as_slice).unwrap_or_default();
        let is_meant = |(text, _): &&(String, Giver)| {
            let name = Path::new(text).file_name().unwrap_or_default();
            problem.message.contains(&*name.to_string_lossy())
        };
        // Of several, the one that the message names.
        let Some((text, giver)) = given.iter().find(is_meant).or(given.first()) else {
            return problem;
        };
        let (note, help) = self.origins.words(text, giver);
        problem.note(note).maybe_help(help)
    }

    fn missing_files(
        &mut self,
        stage: &Stage<'_>,
        scope: &Scope<'_>,
        resolved: &Resolved,
        paths: &Paths,
        findings: &mut Findings,
    ) {
        for param in resolved.files.iter().filter(|param| param.required) {
            for (_, path) in &param.files {
                let known = self.missing.entry(path.clone());
                let Some(message) = known.or_insert_with(|| missing(path)).clone() else {
                    continue;
                };
                let problem = Problem::new(param.field.clone(), message);
                self.report(stage, scope, &problem, paths, findings);
            }
        }
    }

    /// Where each field stands; for a field that is one var, where the var stands.
    pub(crate) fn places(&self, stage: &Stage<'_>) -> BTreeMap<FieldPath, Place> {
        let mut places = place::all(stage.decl.with);
        let nowhere = Scope::new(self.vars, &[], &[]);
        for (path, place) in &mut places {
            if let Some(span) =
                template_at(stage, path).and_then(|template| self.origin(template, &nowhere))
            {
                *place = span.into();
            }
        }
        places
    }
}

/// So many combinations are filled in before they are checked: that is done for all of them at once.
const AT_ONCE: usize = 1024;

/// The params in one combination, as they are written.
struct Filled<'f> {
    with: Value,
    /// Fields that are not known.
    holes: Vec<&'f str>,
    paths: Paths,
}

/// Fields that are paths: what was written, and who gave it.
type Paths = BTreeMap<FieldPath, Vec<(String, Giver)>>;

/// What is wrong with a file or folder that has to be there.
fn missing(path: &Path) -> Option<String> {
    match path.try_exists() {
        Ok(true) => None,
        Ok(false) if path.is_symlink() => Some(format!(
            "{} is a link to a file or folder that is not there",
            path.display()
        )),
        Ok(false) => Some(format!("there is no file or folder {}", path.display())),
        Err(error) => Some(format!("{}: {error}", path.display())),
    }
}

/// The form of the field at `path`.
fn form_at<'s>(stage: &'s Stage<'_>, path: &[String]) -> Option<&'s Form> {
    let (first, rest) = path.split_first()?;
    let (_, form) = stage.params.iter().find(|(key, _)| key == first)?;
    form.at(rest.iter().map(String::as_str))
}

/// The template that the field at `path` is.
fn template_at<'s>(stage: &'s Stage<'_>, path: &[String]) -> Option<&'s Template> {
    match form_at(stage, path)? {
        Form::Text(template) => Some(template),
        _ => None,
    }
}
