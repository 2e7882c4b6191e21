//! `dcsft stages [KIND]`: the stage kinds and their params, from the types that parse them.

use std::io::Write;

use dcsft_engine::stage::{Cardinality, InputDecl, Kind, Registry};
use serde_json::{Value, json};

use crate::cli::Stages;
use crate::exit::{Exit, Failure};
use crate::output::{print_json, print_table, stdout, table};
use crate::settings::App;

/// Prints the list of kinds, or all about one.
///
/// # Errors
/// An unknown kind.
pub(crate) fn run(app: &App, args: &Stages) -> Result<Exit, Failure> {
    let registry = app.kinds();
    let mut out = stdout();
    match &args.kind {
        Some(name) => {
            let kind = registry.get(name).ok_or_else(|| unknown(&registry, name))?;
            if app.terminal.json {
                print_json(&mut out, &describe(kind))?
            } else {
                print_kind(&mut out, kind)?
            }
        }
        None if app.terminal.json => {
            for kind in registry.iter() {
                print_json(&mut out, &describe(kind))?;
            }
        }
        None => {
            let mut list = table(&["kind", "what it does"], &[]);
            for kind in registry.iter() {
                list.add_row([kind.decl().name, kind.decl().summary]);
            }
            print_table(&mut out, &list)?;
            writeln!(
                out,
                "\n`dcsft stages KIND` shows a kind's params, inputs and outputs."
            )?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn unknown(registry: &Registry, name: &str) -> Failure {
    let names: Vec<&str> = registry.iter().map(|kind| kind.decl().name).collect();
    Failure::usage(format!("there is no stage kind `{name}`"))
        .help(format!("the kinds are {}", names.join(", ")))
}

fn describe(kind: &dyn Kind) -> Value {
    json!({
        "kind": kind.decl().name,
        "summary": kind.decl().summary,
        "version": kind.decl().version,
        "inputs": kind.decl().inputs,
        "params": kind.schema(),
        "outputs": default_outputs(kind),
    })
}

/// The outputs with default params, where these suffice.
fn default_outputs(kind: &dyn Kind) -> Option<Value> {
    let params = kind.resolve(&json!({}), std::path::Path::new(".")).ok()?;
    serde_json::to_value(params.outputs).ok()
}

fn print_kind(out: &mut impl Write, kind: &dyn Kind) -> Result<(), Failure> {
    writeln!(
        out,
        "{} (version {})\n{}\n",
        kind.decl().name,
        kind.decl().version,
        kind.decl().summary
    )?;
    let schema = kind.schema().to_value();
    if !kind.decl().inputs.is_empty() {
        writeln!(out, "inputs")?;
        for input in kind.decl().inputs {
            writeln!(out, "  {:<20} {}", input.name, input_type(input))?;
            writeln!(out, "  {:<20}   {}", "", input.doc)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "params")?;
    print_params(out, &schema, &schema, 1)?;
    if let Some(Value::Array(outputs)) = default_outputs(kind) {
        writeln!(out, "\noutputs")?;
        for (index, output) in outputs.iter().enumerate() {
            let name = output["name"].as_str().unwrap_or_default();
            let note = if index == 0 {
                "  (the default: ${stage})"
            } else {
                ""
            };
            writeln!(
                out,
                "  {name:<20} {}{note}",
                output["artifact"].as_str().unwrap_or_default()
            )?;
        }
    }
    Ok(())
}

fn input_type(input: &InputDecl) -> String {
    let accepts = serde_json::to_value(input.accepts).unwrap_or_default();
    let accepts: Vec<&str> = accepts
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let how = match input.cardinality {
        Cardinality::One => "",
        Cardinality::Optional => ", optional",
        Cardinality::Many => ", a list",
    };
    format!("{}{how}", accepts.join(" or "))
}

/// The properties of an object schema, nested ones indented.
fn print_params(
    out: &mut impl Write,
    root: &Value,
    schema: &Value,
    depth: usize,
) -> Result<(), Failure> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    let indent = "  ".repeat(depth);
    if properties.is_none_or(serde_json::Map::is_empty) && depth == 1 {
        writeln!(out, "{indent}none")?;
    }
    for (name, property) in properties.into_iter().flatten() {
        let default = match property.get("default") {
            Some(Value::Null) => ", optional".to_owned(),
            Some(value) => format!(", default {value}"),
            None if required.contains(&name.as_str()) => ", required".to_owned(),
            None => ", optional".to_owned(),
        };
        let width = 22usize.saturating_sub(indent.len());
        writeln!(
            out,
            "{indent}{name:<width$} {}{default}",
            type_name(root, property)
        )?;
        if let Some(text) = property.get("description").and_then(Value::as_str) {
            for line in text.lines() {
                writeln!(out, "{indent}{:<width$}   {line}", "")?;
            }
        }
        let nested = target(root, property);
        if nested.get("properties").is_some() && depth < 3 {
            print_params(out, root, nested, depth + 1)?;
        }
    }
    Ok(())
}

/// What a `$ref`, or the only schema beside null, points to.
fn target<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(pointer) = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|text| text.strip_prefix('#'))
    {
        return root
            .pointer(pointer)
            .map_or(schema, |found| target(root, found));
    }
    let alternatives = schema.get("anyOf").and_then(Value::as_array);
    let mut others = alternatives
        .into_iter()
        .flatten()
        .filter(|one| one.get("type") != Some(&json!("null")));
    match (others.next(), others.next()) {
        (Some(only), None) => target(root, only),
        _ => schema,
    }
}

/// A type in words: `integer`, `one of constant, linear, cosine`, `list of string`.
fn type_name(root: &Value, schema: &Value) -> String {
    let schema = target(root, schema);
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let values: Vec<String> = values.iter().map(dcsft_engine::text::plain).collect();
        return format!("one of {}", values.join(", "));
    }
    if let Some(value) = schema.get("const") {
        return dcsft_engine::text::plain(value);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        return format!("list of {}", type_name(root, items));
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(alternatives) = schema.get(key).and_then(Value::as_array) {
            let names: Vec<String> = alternatives
                .iter()
                .map(|one| type_name(root, one))
                .collect();
            return names.join(" or ");
        }
    }
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let names: Vec<&str> = properties.keys().map(String::as_str).collect();
        return format!("map with {}", names.join(", "));
    }
    match schema.get("type") {
        Some(Value::String(name)) => friendly(name).to_owned(),
        Some(Value::Array(names)) => {
            let names = names
                .iter()
                .filter_map(Value::as_str)
                .filter(|name| *name != "null");
            names.map(friendly).collect::<Vec<_>>().join(" or ")
        }
        _ => "any value".to_owned(),
    }
}

fn friendly(name: &str) -> &str {
    match name {
        "object" => "map",
        "array" => "list",
        other => other,
    }
}
