//! From declarations to stages that know their kind, their inputs and whom they refer to.

use std::collections::HashMap;

use super::document::StageDecl;
use super::names::is_variable;
use super::template::{Expr, Form, Part, RefExpr, Template};
use super::tree::{Data, Tree};
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, nearest, quoted_list};
use crate::stage::{Cardinality, InputDecl, Kind, Registry};

/// A stage before its axes are known.
pub(crate) struct Stage<'a> {
    /// What the spec says.
    pub(crate) decl: &'a StageDecl<'a>,
    /// Its kind, where it is known.
    pub(crate) kind: Option<&'a dyn Kind>,
    /// `with:` without the inputs: a map.
    pub(crate) params: Vec<(String, Form)>,
    /// The inputs that are given.
    pub(crate) inputs: Vec<Input>,
    /// `arm:`.
    pub(crate) arm: Option<Form>,
    /// Something in it could not be read, so that its axes are not known for sure.
    pub(crate) broken: bool,
}

/// One given input.
pub(crate) struct Input {
    /// Its name: the field of `with:`.
    pub(crate) name: String,
    /// What the kind says about it.
    pub(crate) decl: &'static InputDecl,
    /// Its references.
    pub(crate) refs: Vec<Ref>,
}

/// A reference to a stage that exists.
pub(crate) struct Ref {
    /// The stage's index.
    pub(crate) target: usize,
    /// What is written.
    pub(crate) expr: RefExpr,
    /// Where it is written.
    pub(crate) span: Span,
}

/// Names that a `${...}` can mean.
pub(crate) struct Names<'a> {
    /// Stages, with their indices.
    pub(crate) stages: HashMap<&'a str, usize>,
    /// Axes of the experiment.
    pub(crate) axes: Vec<&'a str>,
    /// Vars.
    pub(crate) vars: Vec<&'a str>,
}

/// Compiles one stage.
pub(crate) fn compile<'a>(
    decl: &'a StageDecl<'a>,
    names: &Names<'_>,
    registry: &'a Registry,
    findings: &mut Findings,
) -> Stage<'a> {
    let before = findings.errors();
    let kind = decl
        .uses
        .as_ref()
        .and_then(|(name, span)| known_kind(name, *span, registry, findings));
    let mut stage = Stage {
        decl,
        kind,
        params: Vec::new(),
        inputs: Vec::new(),
        arm: None,
        broken: false,
    };
    let open = kind.and_then(Kind::open_inputs);
    for entry in decl.with.entries().unwrap_or_default() {
        if let (Some(open), Some(kind)) = (open, kind)
            && open.name == entry.key
        {
            let inputs = open_inputs(open, kind, &entry.value, names, findings);
            stage.inputs.extend(inputs);
            continue;
        }
        let mut form = Form::compile(&entry.value, findings);
        if let Some(open) = open {
            check_late(&form, open, decl.with, findings);
            form = form.late(&[open.name, OUTPUTS]);
        }
        let input = kind.and_then(|kind| {
            kind.decl()
                .inputs
                .iter()
                .find(|input| input.name == entry.key)
        });
        match (input, kind) {
            (Some(input), Some(kind)) => {
                let given = Given {
                    name: input.name,
                    decl: input,
                };
                let refs = input_refs(&given, kind, &entry.value, &form, names, findings);
                stage.inputs.push(Input {
                    name: input.name.to_owned(),
                    decl: input,
                    refs,
                });
            }
            (_, Some(kind)) => {
                refuse_refs(&form, &entry.key, kind, names, findings);
                stage.params.push((entry.key.clone(), form));
            }
            (_, None) => check_stages(&form, names, findings),
        }
    }
    if let (Some(kind), Some(span)) = (kind, decl.shards)
        && !kind.decl().shardable
    {
        findings.push(not_shardable(kind, span, registry));
    }
    if let Some(kind) = kind {
        missing_inputs(&stage, kind, findings);
    }
    stage.arm = decl.arm.map(|arm| Form::compile(arm, findings));
    if let Some(arm) = &stage.arm {
        arm.templates(&mut |template| {
            for part in &template.parts {
                if let Part::Expr(Expr::Ref(reference), span) = part {
                    findings.push(no_value(reference, *span, names));
                }
            }
        });
    }
    stage.broken = kind.is_none() || findings.errors() > before;
    stage
}

fn not_shardable(kind: &dyn Kind, span: Span, registry: &Registry) -> Diagnostic {
    let name = kind.decl().name;
    let shardable = registry.iter().filter(|kind| kind.decl().shardable);
    let names: Vec<&str> = shardable.map(|kind| kind.decl().name).collect();
    let problem = Diagnostic::error(
        span,
        format!("a stage of kind `{name}` cannot be cut into shards"),
    );
    let problem = problem.help("leave `shards` out");
    match names.len() {
        0 => problem,
        _ => problem.note(format!("those of {} can", quoted_list(names))),
    }
}

fn known_kind<'a>(
    name: &str,
    span: Span,
    registry: &'a Registry,
    findings: &mut Findings,
) -> Option<&'a dyn Kind> {
    let kind = registry.get(name);
    if kind.is_none() {
        let names = || registry.iter().map(|kind| kind.decl().name);
        let problem = Diagnostic::error(span, format!("there is no stage kind `{name}`"))
            .note(format!("there are {}", quoted_list(names())))
            .maybe_help(did_you_mean(name, names()));
        findings.push(problem);
    }
    kind
}

/// What outputs are called in texts that are filled in late.
const OUTPUTS: &str = "outputs";

/// An input that a stage gives, by the name that it has there.
struct Given<'a> {
    name: &'a str,
    decl: &'static InputDecl,
}

/// The inputs that a map from names of the user's choice gives.
fn open_inputs(
    open: &'static InputDecl,
    kind: &dyn Kind,
    tree: &Tree,
    names: &Names<'_>,
    findings: &mut Findings,
) -> Vec<Input> {
    let entries = match &tree.data {
        Data::Map(entries) => entries,
        Data::Scalar(value) if value.is_null() => return Vec::new(),
        _ => {
            let message = format!(
                "`{}` of `{}` takes a map from names to references, not {}",
                open.name,
                kind.decl().name,
                tree.describe()
            );
            let help = format!("write `{}: {{NAME: \"${{STAGE}}\"}}`", open.name);
            findings.push(Diagnostic::error(tree.span, message).help(help));
            return Vec::new();
        }
    };
    let mut inputs = Vec::new();
    for entry in entries {
        if !is_variable(&entry.key) {
            let message = format!("`{}` cannot name an input", entry.key);
            let problem = Diagnostic::error(entry.key_span, message);
            findings.push(problem.note("a name is a letter or `_`, then letters, digits and `_`"));
        }
        let form = Form::compile(&entry.value, findings);
        let name = format!("{}.{}", open.name, entry.key);
        let given = Given {
            name: &name,
            decl: open,
        };
        let refs = input_refs(&given, kind, &entry.value, &form, names, findings);
        inputs.push(Input {
            name,
            decl: open,
            refs,
        });
    }
    inputs
}

/// Reports names in `${inputs.NAME}` and `${outputs.NAME}` that the stage does not have.
fn check_late(form: &Form, open: &InputDecl, with: &Tree, findings: &mut Findings) {
    form.templates(&mut |template| {
        for part in &template.parts {
            let Part::Expr(Expr::Ref(reference), span) = part else {
                continue;
            };
            let head = reference.stage.as_str();
            let Some(name) = reference.output.as_ref().and_then(Template::constant) else {
                continue;
            };
            if ![open.name, OUTPUTS].contains(&head) {
                continue;
            }
            let field = with.entries().unwrap_or_default().iter();
            let mut field = field.filter(|entry| entry.key == head);
            let known: Vec<&str> = match field.next().map(|entry| &entry.value.data) {
                Some(Data::Map(entries)) => {
                    entries.iter().map(|entry| entry.key.as_str()).collect()
                }
                // What is filled in from a var is known later.
                Some(_) => continue,
                None => Vec::new(),
            };
            if known.contains(&name) {
                continue;
            }
            let problem = Diagnostic::error(*span, format!("`{head}` has no `{name}`"));
            let problem = match known.len() {
                0 => problem.note(format!("the stage has no `{head}:`")),
                _ => problem.note(format!("it has {}", quoted_list(known.iter().copied()))),
            };
            findings.push(problem.maybe_help(did_you_mean(name, known)));
        }
    });
}

/// The references of one input.
fn input_refs(
    input: &Given<'_>,
    kind: &dyn Kind,
    tree: &Tree,
    form: &Form,
    names: &Names<'_>,
    findings: &mut Findings,
) -> Vec<Ref> {
    let many = input.decl.cardinality == Cardinality::Many;
    let items: Vec<(&Tree, &Form)> = match (&tree.data, form) {
        (Data::List(trees), Form::List(forms)) if many => trees.iter().zip(forms).collect(),
        (Data::List(_), _) => {
            let message = format!(
                "`{}` of `{}` takes one reference, not a list",
                input.name,
                kind.decl().name
            );
            findings.push(
                Diagnostic::error(tree.span, message).help("write the reference without brackets"),
            );
            return Vec::new();
        }
        (Data::Scalar(value), _)
            if value.is_null() && input.decl.cardinality != Cardinality::One =>
        {
            return Vec::new();
        }
        _ => vec![(tree, form)],
    };
    items
        .into_iter()
        .filter_map(|(tree, form)| input_ref(input, tree, form, names, findings))
        .collect()
}

fn input_ref(
    input: &Given<'_>,
    tree: &Tree,
    form: &Form,
    names: &Names<'_>,
    findings: &mut Findings,
) -> Option<Ref> {
    if matches!(form, Form::Broken) {
        return None;
    }
    let whole = if let Form::Text(template) = form {
        template.parts.as_slice()
    } else {
        &[]
    };
    let [Part::Expr(Expr::Ref(expr), span)] = whole else {
        findings.push(not_a_reference(input, tree, names));
        return None;
    };
    let Some(&target) = names.stages.get(expr.stage.as_str()) else {
        findings.push(unknown_stage(expr, names));
        return None;
    };
    let gathers = expr.all
        || expr
            .selectors
            .iter()
            .any(|(_, selector, _)| matches!(selector, super::template::Selector::All));
    if gathers && input.decl.cardinality != Cardinality::Many {
        let message = format!(
            "`{}` takes one artifact, and `*` gathers several",
            input.name
        );
        let help = format!(
            "pin a value, as in `${{{}[axis=value]}}`, or leave the brackets out",
            expr.stage
        );
        findings.push(Diagnostic::error(*span, message).help(help));
        return None;
    }
    Some(Ref {
        target,
        expr: expr.clone(),
        span: *span,
    })
}

fn not_a_reference(input: &Given<'_>, tree: &Tree, names: &Names<'_>) -> Diagnostic {
    let message = format!(
        "`{}` takes a reference to a stage, not {}",
        input.name,
        tree.describe()
    );
    let problem = Diagnostic::error(tree.span, message);
    let text = tree.text().unwrap_or_default();
    let stage = text.split(['.', '[']).next().unwrap_or_default();
    let help = if names.stages.contains_key(stage) {
        format!("write `${{{text}}}`")
    } else {
        "write it as `${STAGE}` or `${STAGE.OUTPUT}`".to_owned()
    };
    problem.help(help)
}

fn unknown_stage(expr: &RefExpr, names: &Names<'_>) -> Diagnostic {
    let name = expr.stage.as_str();
    let stages: Vec<&str> = {
        let mut ordered: Vec<(&usize, &str)> = names
            .stages
            .iter()
            .map(|(name, index)| (index, *name))
            .collect();
        ordered.sort_unstable();
        ordered.into_iter().map(|(_, name)| name).collect()
    };
    let help = if names.axes.contains(&name) {
        Some(format!("the axis is `${{matrix.{name}}}`"))
    } else if names.vars.contains(&name) {
        Some(format!("the var is `${{vars.{name}}}`"))
    } else if stages.len() > 20 {
        nearest(name, stages.iter().copied()).map(|near| format!("did you mean `{near}`?"))
    } else {
        did_you_mean(name, stages.iter().copied())
    };
    let problem =
        Diagnostic::error(expr.stage_span, format!("there is no stage `{name}`")).maybe_help(help);
    if stages.len() > 20 {
        problem
    } else {
        problem.note(format!("there are {}", quoted_list(stages)))
    }
}

/// Reports references in a field that takes values.
fn refuse_refs(
    form: &Form,
    field: &str,
    kind: &dyn Kind,
    names: &Names<'_>,
    findings: &mut Findings,
) {
    form.templates(&mut |template| {
        for part in &template.parts {
            let Part::Expr(Expr::Ref(reference), span) = part else {
                continue;
            };
            if !names.stages.contains_key(reference.stage.as_str()) {
                findings.push(unknown_stage(reference, names));
                continue;
            }
            let message = format!(
                "`{field}` of `{}` takes a value, not a reference to a stage",
                kind.decl().name
            );
            let inputs = kind.decl().inputs;
            let note = if inputs.is_empty() {
                format!("`{}` has no inputs", kind.decl().name)
            } else {
                format!(
                    "references go to its inputs: {}",
                    quoted_list(inputs.iter().map(|input| input.name))
                )
            };
            let near = did_you_mean(field, inputs.iter().map(|input| input.name));
            findings.push(
                Diagnostic::error(*span, message)
                    .note(note)
                    .maybe_help(near),
            );
        }
    });
}

fn no_value(reference: &RefExpr, span: Span, names: &Names<'_>) -> Diagnostic {
    if !names.stages.contains_key(reference.stage.as_str()) {
        return unknown_stage(reference, names);
    }
    let message = format!("`arm` takes text, and `{}` is a stage", reference.stage);
    Diagnostic::error(span, message).help("use `${matrix.AXIS}` or `${vars.NAME}`")
}

/// Reports references to stages that do not exist, where the kind is unknown.
fn check_stages(form: &Form, names: &Names<'_>, findings: &mut Findings) {
    form.templates(&mut |template| {
        for part in &template.parts {
            if let Part::Expr(Expr::Ref(reference), _) = part
                && !names.stages.contains_key(reference.stage.as_str())
            {
                findings.push(unknown_stage(reference, names));
            }
        }
    });
}

fn missing_inputs(stage: &Stage<'_>, kind: &dyn Kind, findings: &mut Findings) {
    for input in kind
        .decl()
        .inputs
        .iter()
        .filter(|input| input.cardinality == Cardinality::One)
    {
        if stage
            .inputs
            .iter()
            .any(|given| given.decl.name == input.name)
        {
            continue;
        }
        let message = format!(
            "the stage `{}` lacks the input `{}`",
            stage.decl.name, input.name
        );
        let problem = Diagnostic::error(stage.decl.span, message)
            .note(format!(
                "`{}` of `{}`: {}",
                input.name,
                kind.decl().name,
                input.doc
            ))
            .help(format!("add `{}: ${{STAGE}}` below `with:`", input.name));
        findings.push(problem);
    }
}
