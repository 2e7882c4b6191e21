//! The JSON Schema (draft 2020-12) of a spec, for editors: every stage kind with its inputs and params, from
//! the same types that parse them.
//!
//! It is a little more lenient than [`crate::spec::load`], which alone knows axes, references and the kinds'
//! own checks; it refuses nothing that `load` accepts.

use serde_json::{Map, Value, json};

use crate::stage::{Cardinality, InputDecl, Kind, Registry};
use crate::study::Shards;
use crate::units;

/// The schema of specs that use the kinds of `registry`.
pub fn spec_schema(registry: &Registry) -> Value {
    let mut defs = Map::new();
    for (name, def) in common() {
        defs.insert(name.to_owned(), def);
    }
    for kind in registry.iter() {
        let with = with(kind, &mut defs);
        defs.insert(format!("with.{}", kind.decl().name), with);
    }
    defs.insert("stage".into(), stage(registry, true));
    defs.insert(
        "partialStage".into(),
        json!({"anyOf": [stage(registry, false), {"type": "null"}]}),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dcsft spec",
        "description": "A post-training study: stages, what they read from each other, and the axes they vary over.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "dcsft": {"const": crate::spec::VERSION, "description": "Version of the spec language."},
            "name": {"type": "string", "description": "Name of the study: letters, digits, `-`, `_`, `.`."},
            "description": {"type": "string", "description": "For people; changes nothing."},
            "extends": {
                "type": "string",
                "description": "Another spec, relative to this one. Maps merge, lists and values replace, null removes.",
            },
            "vars": {"type": "object", "description": "Values to use as `${vars.name}` and to override with `--set`."},
            "matrix": {"$ref": "#/$defs/matrix", "description": "Axes of the experiment: any stage may use them."},
            "stages": {"type": "object", "description": "Stages by name, in any order."},
        },
        "if": {"required": ["extends"]},
        "then": {"properties": {"stages": {"additionalProperties": {"$ref": "#/$defs/partialStage"}}}},
        "else": {
            "required": ["dcsft", "name", "stages"],
            "properties": {"stages": {"additionalProperties": {"$ref": "#/$defs/stage"}}},
        },
        "$defs": defs,
    })
}

/// What is the same for all kinds.
fn common() -> [(&'static str, Value); 6] {
    let interpolation = json!({"$ref": "#/$defs/interpolation"});
    let number = json!({"anyOf": [{"type": "number"}, interpolation]});
    let series = |name: &str, doc: &str| {
        json!({
            "type": "object",
            "description": doc,
            "required": [name],
            "additionalProperties": false,
            "properties": {name: {"type": "array", "items": number, "minItems": 2, "maxItems": 3}},
        })
    };
    let combination = json!({"type": "array", "items": {"type": "object"}});
    [
        (
            "interpolation",
            json!({"type": "string", "pattern": "\\$\\{"}),
        ),
        (
            "reference",
            json!({"type": "string", "pattern": "^\\$\\{.+\\}$", "examples": ["${stage}", "${stage.output}"]}),
        ),
        (
            "matrix",
            json!({
                "type": ["object", "null"],
                "properties": {
                    "exclude": {"$ref": "#/$defs/combinations", "description": "Combinations to leave out."},
                    "include": {"$ref": "#/$defs/combinations", "description": "Combinations to add."},
                },
                "additionalProperties": {"$ref": "#/$defs/axis"},
            }),
        ),
        (
            "combinations",
            json!({"anyOf": [combination, {"type": "null"}]}),
        ),
        (
            "axis",
            json!({"anyOf": [
                {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}},
                series("range", "First, last, step; the last is included where it is hit."),
                series("every", "Step, last: the multiples of the step below the last value, and the last value."),
                series("linspace", "First, last, how many: evenly spaced."),
                series("logspace", "First, last, how many: evenly spaced in their logarithm."),
                interpolation,
                {"type": "null"},
            ]}),
        ),
        (
            "duration",
            json!({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": units::TIME}]}),
        ),
    ]
}

/// A stage; a complete one names its kind and gives what the kind requires.
fn stage(registry: &Registry, complete: bool) -> Value {
    let names: Vec<Value> = registry
        .iter()
        .map(|kind| json!({"const": kind.decl().name, "description": kind.decl().summary}))
        .collect();
    let mut branches: Vec<Value> = registry.iter().map(|kind| branch(kind, complete)).collect();
    if !complete {
        branches.push(some_kind(registry));
    }
    let mut stage = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "uses": {"anyOf": names, "description": "The stage kind."},
            "with": {"type": ["object", "null"], "description": "Inputs and params: what the stage is."},
            "matrix": {"$ref": "#/$defs/matrix", "description": "Axes that this stage adds."},
            "arm": {"type": "string", "description": "What results count this stage to; may interpolate."},
            "resources": {
                "type": ["object", "null"],
                "description": "What it takes to run; never part of a key.",
                "additionalProperties": false,
                "properties": {
                    "gpus": {"type": "integer", "minimum": 0, "description": "Accelerators."},
                    "threads": {"type": "integer", "minimum": 1, "description": "CPU threads."},
                    "time": {"$ref": "#/$defs/duration", "description": "Wall time for batch systems, as `2h`."},
                    "memory": {"type": "string", "pattern": units::SIZE, "description": "Memory, as `16GiB`."},
                    "partition": {"type": "string", "description": "The batch system's partition."},
                    "account": {"type": "string", "description": "The batch system's account."},
                    "flags": {"type": "array", "items": {"type": "string"}, "description": "Further arguments of the submission."},
                },
            },
            "timeout": {"$ref": "#/$defs/duration", "description": "Stops an attempt: `90s`, `30m`, `2h`, or seconds."},
            "retries": {"type": "integer", "minimum": 0, "description": "Further tries after a failure."},
            "shards": {
                "anyOf": [{"type": "integer", "minimum": 1, "maximum": Shards::MOST}, {"const": "auto"}],
                "description": "Parts that the samples of a rollout or an evaluation are cut into, each an attempt of its own.",
            },
            "description": {"type": "string", "description": "For people; changes nothing."},
        },
        "allOf": branches,
    });
    if complete {
        stage["required"] = json!(["uses"]);
    }
    stage
}

/// "If the stage uses this kind, then `with` is as follows."
fn branch(kind: &dyn Kind, complete: bool) -> Value {
    let reference = json!({"$ref": format!("#/$defs/with.{}", kind.decl().name)});
    let required = if complete { required(kind) } else { Vec::new() };
    let mut then = json!({"properties": {"with": reference}});
    if !required.is_empty() {
        then["properties"]["with"] = json!({"allOf": [reference], "required": required});
        then["required"] = json!(["with"]);
    }
    json!({"if": {"required": ["uses"], "properties": {"uses": {"const": kind.decl().name}}}, "then": then})
}

/// "If the stage does not say what it uses, since the extended spec does, then `with` fits one of the kinds."
fn some_kind(registry: &Registry) -> Value {
    let reference = |kind: &dyn Kind| json!({"$ref": format!("#/$defs/with.{}", kind.decl().name)});
    let kinds: Vec<Value> = registry.iter().map(reference).collect();
    json!({"if": {"not": {"required": ["uses"]}}, "then": {"properties": {"with": {"anyOf": kinds}}}})
}

/// Inputs and params without which a stage is not complete.
fn required(kind: &dyn Kind) -> Vec<Value> {
    let inputs = kind
        .decl()
        .inputs
        .iter()
        .filter(|input| input.cardinality == Cardinality::One);
    let inputs = inputs.map(|input| Value::from(input.name));
    let params = kind
        .schema()
        .get("required")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    inputs.chain(params).collect()
}

/// `with:` of a kind, nothing in it required; its definitions go to `defs`.
fn with(kind: &dyn Kind, defs: &mut Map<String, Value>) -> Value {
    let mut schema = kind.schema().to_value();
    if let Some(Value::Object(own)) = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("$defs"))
    {
        for (name, mut def) in own {
            open(&mut def, kind.decl().name);
            defs.insert(format!("{}.{name}", kind.decl().name), def);
        }
    }
    open(&mut schema, kind.decl().name);
    let mut properties: Map<String, Value> = kind
        .decl()
        .inputs
        .iter()
        .map(|input| (input.name.to_owned(), input_schema(input)))
        .collect();
    if let Some(Value::Object(params)) = schema
        .as_object_mut()
        .and_then(|schema| schema.remove("properties"))
    {
        properties.extend(params);
    }
    let mut with = json!({"type": ["object", "null"], "description": kind.decl().summary, "additionalProperties": false});
    with["properties"] = Value::Object(properties);
    with
}

fn input_schema(input: &InputDecl) -> Value {
    let one = json!({"$ref": "#/$defs/reference"});
    let schema = match input.cardinality {
        Cardinality::One => return json!({"$ref": "#/$defs/reference", "description": input.doc}),
        Cardinality::Optional => json!([one, {"type": "null"}]),
        Cardinality::Many => json!([one, {"type": "array", "items": one}, {"type": "null"}]),
    };
    json!({"anyOf": schema, "description": input.doc})
}

/// Lets an interpolation stand for every value below `schema`, and null for every param (it removes what an
/// extended spec sets); references to the kind's own definitions follow them.
fn open(schema: &mut Value, kind: &str) {
    let Value::Object(object) = schema else {
        return;
    };
    if let Some(Value::String(reference)) = object.get_mut("$ref")
        && let Some(name) = reference.strip_prefix("#/$defs/")
    {
        *reference = format!("#/$defs/{kind}.{name}");
    }
    // An interpolated tag fits several forms.
    if let Some(forms) = object.remove("oneOf") {
        object.insert("anyOf".into(), forms);
    }
    for key in ["anyOf", "allOf", "prefixItems"] {
        for form in object
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            open(form, kind);
            if key == "prefixItems" {
                accept_interpolation(form);
            }
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(key).filter(|inner| inner.is_object()) {
            open(inner, kind);
            accept_interpolation(inner);
        }
    }
    for property in object
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flat_map(Map::values_mut)
    {
        open(property, kind);
        accept_interpolation(property);
    }
}

/// `schema`, an interpolation, or null; documentation stays outside.
fn accept_interpolation(schema: &mut Value) {
    let mut outer = Map::new();
    if let Value::Object(object) = schema {
        for key in ["description", "default", "title"] {
            if let Some(value) = object.remove(key) {
                outer.insert(key.into(), value);
            }
        }
    }
    let forms = vec![
        schema.take(),
        json!({"$ref": "#/$defs/interpolation"}),
        json!({"type": "null"}),
    ];
    outer.insert("anyOf".into(), forms.into());
    *schema = Value::Object(outer);
}
