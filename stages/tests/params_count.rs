//! Every param of every kind counts: another value gives other bytes, or is refused, or the table below says why not.
//!
//! The params are those of the JSON Schema, so that a new one without a case fails the test.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use dcsft_engine::stage::Input;
use image::{ImageFormat, RgbImage};
use serde_json::{Map, Value, json};
use support::{Bench, COLOURS, Run, input, labelled, small_model};

/// What another value does.
enum Then {
    /// Some output has other bytes.
    Counts,
    /// It is refused, with this in the message.
    Refused(&'static str),
    /// The outputs stay as they are, by design: why.
    Stays(&'static str),
}
use Then::{Counts, Refused, Stays};

/// A param, what the base params have beside those of the kind, the other value, and what it does.
type Case = (&'static str, Value, Value, Then);

/// Params that other tests hold, by kind and beginning of the name, and which.
const ELSEWHERE: [(&str, &str, &str); 8] = [
    // A model that is sure of its answers gives them at any penalty.
    ("eval", "repetition_penalty", "of_evals_penalty"),
    // Pictures of one colour are their own mirror images.
    ("sft", "augment.flip", "shown.rs"),
    ("dataset", "boxes", "dataset_import"),
    ("dataset", "exif", "dataset_import"),
    ("dataset", "images", "dataset_import"),
    ("rollout", "reward.", "reward_answers.rs"),
    ("grpo", "reward.", "reward_answers.rs"),
    ("eval", "reward.", "reward_answers.rs"),
];

/// Params about samples that are left out, where none is.
fn fits() -> Case {
    let why = "every sample fits";
    ("on_error", nothing(), json!("fail"), Stays(why))
}

fn leaves_out() -> Case {
    let why = "no sample is left out";
    ("max_dropped", nothing(), json!(1), Stays(why))
}

fn asks() -> Case {
    let why = "the set has samples";
    ("on_empty", nothing(), json!("skip"), Stays(why))
}

/// The embedded model sees images of one size.
fn pixels() -> [Case; 2] {
    [("max_pixels", 50_176), ("min_pixels", 784)]
        .map(|(name, area)| (name, nothing(), json!(area), Refused("pixels")))
}

fn nothing() -> Value {
    json!({})
}

/// `{"b": {"a": value}}` in `params` for `b.a`.
fn set(params: &mut Value, path: &str, value: Value) {
    match path.split_once('.') {
        None => params[path] = value,
        Some((first, rest)) => {
            if !params[first].is_object() {
                params[first] = json!({});
            }
            set(&mut params[first], rest, value);
        }
    }
}

fn merged(base: &Value, more: &Value) -> Value {
    let mut merged = base.as_object().unwrap().clone();
    merged.extend(more.as_object().unwrap().clone());
    Value::Object(merged)
}

/// The names of all params in a kind's schema but its inputs, nested ones with dots.
fn params_of(kind: &str) -> BTreeSet<String> {
    fn walk(schema: &Value, all: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let place = name.trim_start_matches('#');
            walk(all.pointer(place).unwrap(), all, prefix, found);
        }
        for list in ["anyOf", "oneOf", "allOf"] {
            for schema in schema[list].as_array().into_iter().flatten() {
                walk(schema, all, prefix, found);
            }
        }
        for (name, schema) in schema["properties"].as_object().unwrap_or(&Map::new()) {
            let name = format!("{prefix}{name}");
            walk(schema, all, &format!("{name}."), found);
            found.insert(name);
        }
    }
    let registry = dcsft_stages::registry();
    let kind = registry.get(kind).unwrap();
    let schema = kind.schema().to_value();
    let mut found = BTreeSet::new();
    walk(&schema, &schema, "", &mut found);
    found
}

/// Runs a stage, or says what its params are refused for.
fn run(
    bench: &mut Bench,
    kind: &str,
    with: &Value,
    inputs: &[(&str, Vec<Input>)],
) -> Result<Run, String> {
    let registry = dcsft_stages::registry();
    let resolved = registry
        .get(kind)
        .unwrap()
        .resolve(with, std::path::Path::new("/"));
    if let Err(problems) = resolved {
        let text = |problem: &dcsft_engine::stage::ParamProblem| {
            format!("{}: {}", problem.path.join("."), problem.message)
        };
        return Err(problems.iter().map(text).collect::<Vec<_>>().join("; "));
    }
    let run = bench.run(kind, with.clone(), inputs);
    match &run.result {
        Ok(_) => Ok(run),
        Err(error) => Err(error.to_string()),
    }
}

/// Checks that each param of `kind` has a case, and each case.
fn check(
    bench: &mut Bench,
    kind: &str,
    base: &Value,
    inputs: &[(&str, Vec<Input>)],
    cases: Vec<Case>,
) {
    let inputs_of: BTreeSet<&str> = inputs.iter().map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = cases.iter().map(|(param, ..)| *param).collect();
    let elsewhere = |param: &str| {
        let held = |(of, prefix, _): &(&str, &str, &str)| *of == kind && param.starts_with(prefix);
        ELSEWHERE.iter().any(held)
    };
    let forgotten: Vec<String> = params_of(kind)
        .into_iter()
        .filter(|param| {
            let param = param.as_str();
            !known.contains(param) && !inputs_of.contains(param) && !elsewhere(param)
        })
        .collect();
    assert!(forgotten.is_empty(), "{kind}: no case for {forgotten:?}");
    let mut bases: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (param, more, value, then) in cases {
        let from = merged(base, &more);
        let mut to = from.clone();
        set(&mut to, param, value.clone());
        let files = bases.entry(from.to_string()).or_insert_with(|| {
            let run = run(bench, kind, &from, inputs);
            run.unwrap_or_else(|error| panic!("{kind} with {from}: {error}"))
                .files()
        });
        let changed = run(bench, kind, &to, inputs).map(|run| run.files() != *files);
        let right = match (&changed, &then) {
            (Ok(true), Counts) | (Ok(false), Stays(_)) => true,
            (Err(message), Refused(part)) => message.contains(part),
            _ => false,
        };
        if !right {
            let expected = match then {
                Counts => "other bytes".to_owned(),
                Refused(part) => format!("a refusal with {part:?}"),
                Stays(why) => format!("the same bytes: {why}"),
            };
            wrong.push(format!(
                "{kind}: `{param}`: {value} gave {changed:?} and not {expected}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Colours, one of them a sample that the model cannot write, with classes that are not the answers'.
fn colours(bench: &mut Bench) -> Input {
    bench.colours("train", 0, 11, |index, name| match index {
        0 => "Red!".to_owned(),
        1 | 5 => "red".to_owned(),
        _ => name.to_owned(),
    })
}

#[test]
fn of_sft() {
    let mut bench = Bench::new();
    let (model, data) = (bench.model(0), colours(&mut bench));
    let inputs = [("model", vec![model]), ("data", vec![data])];
    let base = json!({"steps": 3, "batch_size": 4, "learning_rate": 0.01, "warmup_ratio": 0, "schedule": "linear"});
    let epochs = json!({"steps": null, "epochs": 2.0});
    let class = json!({"auxiliary": {"label": "class", "weight": 0.5}});
    let lora = json!({"lora": {"rank": 2, "alpha": 4, "dropout": 0, "targets": ["decoder"]}});
    let twice = json!({"gradient_accumulation": 2});
    let cases = vec![
        ("steps", nothing(), json!(4), Counts),
        (
            "epochs",
            json!({"steps": null, "epochs": 1.0}),
            json!(2.0),
            Counts,
        ),
        ("batch_size", nothing(), json!(5), Counts),
        ("gradient_accumulation", nothing(), json!(2), Counts),
        ("loss_mean", twice, json!("samples"), Counts),
        (
            "gradient_checkpointing",
            nothing(),
            json!(true),
            Refused("gradient_checkpointing"),
        ),
        ("last_batch", epochs, json!("drop"), Counts),
        (
            "offload_optimizer",
            nothing(),
            json!(true),
            Stays("the CPU's memory is the machine's"),
        ),
        ("learning_rate", nothing(), json!(0.02), Counts),
        ("schedule", nothing(), json!("cosine"), Counts),
        ("warmup_steps", nothing(), json!(2), Counts),
        ("warmup_ratio", nothing(), json!(0.5), Counts),
        ("min_lr_ratio", nothing(), json!(0.5), Counts),
        ("weight_decay", nothing(), json!(0.5), Counts),
        ("betas", nothing(), json!([0.5, 0.6]), Counts),
        ("eps", nothing(), json!(0.01), Counts),
        ("max_grad_norm", nothing(), json!(0.01), Counts),
        ("save_steps", nothing(), json!(1), Counts),
        ("seed", nothing(), json!(1), Counts),
        ("auxiliary", nothing(), class["auxiliary"].clone(), Counts),
        ("auxiliary.label", class.clone(), json!("answer"), Counts),
        ("auxiliary.weight", class, json!(2.0), Counts),
        (
            "augment",
            nothing(),
            json!({"flip": true, "shift": 1}),
            Counts,
        ),
        ("augment.shift", nothing(), json!(2), Counts),
        ("freeze", nothing(), json!(["vision"]), Counts),
        ("lora", nothing(), lora["lora"].clone(), Counts),
        ("lora.rank", lora.clone(), json!(3), Counts),
        ("lora.alpha", lora.clone(), json!(8), Counts),
        ("lora.dropout", lora.clone(), json!(0.5), Counts),
        ("lora.target_modules", lora.clone(), json!(["qkv"]), Counts),
        ("lora.targets", lora, json!(["vision"]), Counts),
        ("on_error", nothing(), json!("fail"), Refused("Red!")),
        (
            "max_dropped",
            nothing(),
            json!(0.01),
            Refused("max_dropped"),
        ),
        asks(),
        (
            "keep_state",
            json!({"schedule": "constant"}),
            json!(true),
            Counts,
        ),
    ];
    let cases = cases.into_iter().chain(pixels()).collect();
    check(&mut bench, "sft", &base, &inputs, cases);
}

/// A model that names the colours in most answers.
fn trained(bench: &mut Bench, data: &Input) -> Input {
    let model = bench.model(0);
    let with = json!({"steps": 35, "batch_size": 8, "learning_rate": 0.01, "seed": 3});
    let inputs = [("model", vec![model]), ("data", vec![data.clone()])];
    let run = bench.run("sft", with, &inputs);
    run.summary();
    input("sft", &run.output("model"))
}

#[test]
fn of_grpo() {
    let mut bench = Bench::new();
    let data = colours(&mut bench);
    let model = trained(&mut bench, &data);
    let inputs = [
        ("model", vec![model]),
        ("data", vec![data]),
        ("difficulty", Vec::new()),
    ];
    let base = json!({"steps": 3, "prompts_per_step": 4, "generations": 4, "max_new_tokens": 5, "temperature": 1.2,
        "learning_rate": 0.02, "warmup_ratio": 0, "schedule": "linear"});
    let updates = json!({"updates_per_batch": 3});
    let lora = json!({"lora": {"rank": 2, "alpha": 4, "dropout": 0, "targets": ["decoder"]}});
    let pattern = json!({"regex": {"pattern": "^(...)"}});
    let cases = vec![
        ("steps", nothing(), json!(4), Counts),
        (
            "epochs",
            json!({"steps": null, "epochs": 1.0}),
            json!(2.0),
            Counts,
        ),
        ("prompts_per_step", nothing(), json!(5), Counts),
        ("generations", nothing(), json!(5), Counts),
        ("temperature", nothing(), json!(0.7), Counts),
        ("top_p", nothing(), json!(0.5), Counts),
        ("top_k", nothing(), json!(2), Counts),
        ("max_new_tokens", nothing(), json!(3), Counts),
        ("updates_per_batch", nothing(), json!(2), Counts),
        ("steps_per_generation", nothing(), json!(2), Counts),
        ("beta", nothing(), json!(0.5), Counts),
        ("kl_bias_correction", updates.clone(), json!(true), Counts),
        ("epsilon", updates.clone(), json!(0.0), Counts),
        ("epsilon_high", updates, json!(0.0), Counts),
        ("loss_type", nothing(), json!("dapo"), Counts),
        ("scale_rewards", nothing(), json!("none"), Counts),
        // The sums of gradients are rounded in other places.
        ("forward_batch", nothing(), json!(3), Counts),
        (
            "generation_batch",
            nothing(),
            json!(1),
            Stays("an answer does not depend on which prompts are asked with its own"),
        ),
        (
            "offload_optimizer",
            nothing(),
            json!(true),
            Stays("the CPU's memory is the machine's"),
        ),
        (
            "gradient_checkpointing",
            nothing(),
            json!(true),
            Refused("gradient_checkpointing"),
        ),
        ("learning_rate", nothing(), json!(0.01), Counts),
        ("schedule", nothing(), json!("cosine"), Counts),
        ("warmup_steps", nothing(), json!(2), Counts),
        ("warmup_ratio", nothing(), json!(0.5), Counts),
        ("min_lr_ratio", nothing(), json!(0.5), Counts),
        ("weight_decay", nothing(), json!(0.5), Counts),
        ("betas", nothing(), json!([0.5, 0.6]), Counts),
        ("eps", nothing(), json!(0.01), Counts),
        ("max_grad_norm", nothing(), json!(0.01), Counts),
        ("save_steps", nothing(), json!(1), Counts),
        ("seed", nothing(), json!(1), Counts),
        ("freeze", nothing(), json!(["vision"]), Counts),
        ("lora", nothing(), lora["lora"].clone(), Counts),
        ("lora.rank", lora.clone(), json!(3), Counts),
        ("lora.alpha", lora.clone(), json!(8), Counts),
        ("lora.dropout", lora.clone(), json!(0.5), Counts),
        ("lora.target_modules", lora.clone(), json!(["qkv"]), Counts),
        ("lora.targets", lora, json!(["vision"]), Counts),
        ("reward", nothing(), pattern, Counts),
        fits(),
        leaves_out(),
        asks(),
        (
            "keep_state",
            json!({"schedule": "constant"}),
            json!(true),
            Counts,
        ),
        ("completions", nothing(), json!(true), Counts),
    ];
    let cases = cases.into_iter().chain(pixels()).collect();
    check(&mut bench, "grpo", &base, &inputs, cases);
}

#[test]
fn of_evals_penalty() {
    let mut bench = Bench::new();
    let data = colours(&mut bench);
    let untrained = bench.model(0);
    let inputs = [("model", vec![untrained]), ("data", vec![data])];
    let mut files = |penalty: f64| {
        let with = json!({"max_new_tokens": 12, "on_error": "drop", "repetition_penalty": penalty});
        let run = run(&mut bench, "eval", &with, &inputs);
        run.unwrap_or_else(|error| panic!("{error}")).files()
    };
    assert_ne!(files(1.0), files(50.0));
}

#[test]
fn of_rollout_and_eval() {
    let mut bench = Bench::new();
    let data = colours(&mut bench);
    let model = trained(&mut bench, &data);
    let inputs = [("model", vec![model]), ("data", vec![data])];
    let pattern = json!({"regex": {"pattern": "^(...)"}});
    let cases = vec![
        ("n", nothing(), json!(4), Counts),
        ("temperature", nothing(), json!(0.5), Counts),
        ("top_p", nothing(), json!(0.3), Counts),
        ("top_k", nothing(), json!(2), Counts),
        ("repetition_penalty", nothing(), json!(50.0), Counts),
        ("max_new_tokens", nothing(), json!(3), Counts),
        ("reward", nothing(), pattern.clone(), Counts),
        ("seed", nothing(), json!(1), Counts),
        fits(),
        leaves_out(),
        asks(),
    ];
    let base = json!({"n": 3, "max_new_tokens": 5, "temperature": 1.3});
    let cases = cases.into_iter().chain(pixels()).collect();
    check(&mut bench, "rollout", &base, &inputs, cases);
    let cases = vec![
        ("max_new_tokens", nothing(), json!(3), Counts),
        ("prompt", nothing(), json!("<image>color? color?"), Counts),
        ("reward", nothing(), pattern, Counts),
        fits(),
        leaves_out(),
        asks(),
    ];
    let cases = cases.into_iter().chain(pixels()).collect();
    check(
        &mut bench,
        "eval",
        &json!({"max_new_tokens": 5}),
        &inputs,
        cases,
    );
}

#[test]
fn of_model() {
    let mut bench = Bench::new();
    let base = small_model(0);
    let blocks = |field: &str, value: usize| {
        let mut blocks = json!({"width": 16, "layers": 1, "heads": 2, "mlp_ratio": 2});
        blocks[field] = json!(value);
        blocks
    };
    let mut cases = vec![
        ("seed", nothing(), json!(1), Counts),
        ("image_size", nothing(), json!(12), Counts),
        ("patch_size", nothing(), json!(2), Counts),
        ("max_text_tokens", nothing(), json!(9), Counts),
        ("words", nothing(), json!(["color?", "object?"]), Counts),
        ("characters", nothing(), json!("abc"), Counts),
        ("vision", nothing(), blocks("layers", 2), Counts),
        ("decoder", nothing(), blocks("layers", 2), Counts),
        (
            "kind",
            nothing(),
            json!("qwen2_5_vl"),
            Refused("image_size"),
        ),
    ];
    for tower in ["vision", "decoder"] {
        for (field, value) in [("width", 24), ("layers", 2), ("heads", 4), ("mlp_ratio", 3)] {
            let param: &'static str = format!("{tower}.{field}").leak();
            cases.push((param, nothing(), json!(value), Counts));
        }
    }
    // Params of checkpoints, which a micro model does not have.
    for (param, value) in [
        ("path", json!("folder")),
        ("init", json!("random")),
        ("precision", json!("bf16")),
        ("quantize", json!("8bit")),
        ("min_pixels", json!(100)),
        ("max_pixels", json!(100)),
        ("max_tokens", json!(100)),
    ] {
        cases.push((param, nothing(), value, Refused(param)));
    }
    check(&mut bench, "model", &base, &[], cases);
}

#[test]
fn of_shapes() {
    let mut bench = Bench::new();
    let counts = json!({"pretrain": 4, "cold_start": 4, "train": 4, "val": 4, "rendition": 4, "adversarial": 4});
    let mut cases = vec![
        ("seed", nothing(), json!(1), Counts),
        ("image_size", nothing(), json!(12), Counts),
        ("rho", nothing(), json!(0.0), Counts),
        ("label_noise", nothing(), json!(1.0), Counts),
        ("p_hide", nothing(), json!(1.0), Counts),
        (
            "counts",
            nothing(),
            json!({"pretrain": 1, "cold_start": 4, "train": 4, "val": 4, "rendition": 4, "adversarial": 4}),
            Counts,
        ),
        (
            "looks",
            nothing(),
            json!({"id": {"noise": [0.2, 0.3]}}),
            Counts,
        ),
    ];
    for set in [
        "pretrain",
        "cold_start",
        "train",
        "val",
        "rendition",
        "adversarial",
    ] {
        let param: &'static str = format!("counts.{set}").leak();
        cases.push((param, nothing(), json!(5), Counts));
    }
    for group in ["pretrain", "id", "rendition", "adversarial"] {
        let param: &'static str = format!("looks.{group}").leak();
        cases.push((param, nothing(), json!({"noise": [0.2, 0.3]}), Counts));
        let always = json!({"looks": {group: {"occlusion": 1.0}}});
        for (field, from, to) in [
            ("scale", nothing(), json!([0.3, 0.4])),
            ("rotation", nothing(), json!(1.5)),
            ("occlusion", nothing(), json!(1.0)),
            ("occluder", always, json!([0.8, 0.9])),
            ("visibility", nothing(), json!([0.1, 0.2])),
            ("noise", nothing(), json!([0.2, 0.3])),
        ] {
            let param: &'static str = format!("looks.{group}.{field}").leak();
            cases.push((param, from, to, Counts));
        }
    }
    check(&mut bench, "shapes", &json!({"counts": counts}), &[], cases);
}

/// A folder with a list of records in three layouts, and their images.
fn records(bench: &mut Bench) -> std::path::PathBuf {
    let dir = bench.folder();
    for (index, (name, rgb)) in COLOURS.iter().enumerate() {
        for (folder, shade) in [("", 0), ("other/", 40)] {
            let path = dir.join(format!("{folder}{name}.png"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let pixel = rgb.map(|value: u8| value.saturating_sub(shade));
            let image = RgbImage::from_pixel(6, 6, image::Rgb(pixel));
            image.save_with_format(path, ImageFormat::Png).unwrap();
        }
        let _ = index;
    }
    let list = |change: &str, folder: &str| -> Vec<Value> {
        let record = |(name, _): &(&str, [u8; 3])| json!({"problem": format!("color{change}?"), "solution": name, "image": format!("{folder}{name}.png")});
        COLOURS.iter().map(record).collect()
    };
    let write = |name: &str, list: Vec<Value>| {
        std::fs::write(dir.join(name), Value::from(list).to_string()).unwrap();
    };
    write("list.json", list("", ""));
    write("prefixed.json", list("", "other/"));
    write("other.json", list(" now", ""));
    let mut broken = list("", "");
    broken.push(json!({"problem": "color?", "solution": "red", "image": "missing.png"}));
    write("broken.json", broken);
    dir
}

#[test]
fn of_dataset() {
    let mut bench = Bench::new();
    let dir = records(&mut bench);
    let path = |name: &str| json!(dir.join(name).to_string_lossy());
    let base = json!({"path": path("list.json")});
    let sample = json!({"sample": 2});
    let cases = vec![
        ("path", nothing(), path("other.json"), Counts),
        ("image_root", nothing(), path("other"), Counts),
        (
            "strip_prefix",
            json!({"path": path("prefixed.json")}),
            json!("other"),
            Counts,
        ),
        ("layout", nothing(), json!("messages"), Refused("messages")),
        ("set", nothing(), json!("train"), Counts),
        ("split", nothing(), json!("ood"), Counts),
        ("prompt", nothing(), json!("<image>Which?"), Counts),
        ("limit", nothing(), json!(2), Counts),
        ("sample", nothing(), json!(2), Counts),
        ("seed", sample, json!(3), Counts),
        (
            "on_error",
            json!({"path": path("broken.json")}),
            json!("fail"),
            Refused("missing.png"),
        ),
        (
            "max_dropped",
            json!({"path": path("broken.json")}),
            json!(0.01),
            Refused("max_dropped"),
        ),
    ];
    check(&mut bench, "dataset", &base, &[], cases);
}

#[test]
fn of_difficulty() {
    let mut bench = Bench::new();
    let data = colours(&mut bench);
    let model = trained(&mut bench, &data);
    let inputs = [("model", vec![model]), ("data", vec![data.clone()])];
    let rolled = bench.run(
        "rollout",
        json!({"n": 4, "max_new_tokens": 5, "temperature": 1.5}),
        &inputs,
    );
    rolled.summary();
    let rollouts = rolled.output("rollouts");
    let inputs = [
        ("rollouts", vec![input("rollouts", &rollouts)]),
        ("data", vec![data]),
    ];
    let quantiles = json!({"quantiles": {"edges": [0.5], "names": ["low", "high"]}});
    let cut = json!({"bins": {"low": "[0, 0.5]", "high": "(0.5, 1]"}});
    let halves = json!({"bins": {"each": {"interval": "[0, 1]", "keep": 0.5}}});
    let scores = bench.folder().join("scores.jsonl");
    let ids = dcsft_stages::data::Dataset::open(&inputs[1].1[0].dir).unwrap();
    let line = |(index, sample): (usize, &dcsft_stages::data::Sample)| {
        json!({"id": sample.id, "score": (index * 7) % 11}).to_string()
    };
    let lines: Vec<String> = ids.samples().iter().enumerate().map(line).collect();
    std::fs::write(&scores, lines.join("\n")).unwrap();
    let cases = vec![
        ("bins", nothing(), cut["bins"].clone(), Counts),
        (
            "uncovered",
            cut,
            json!("drop"),
            Stays("every pass rate is in a bin"),
        ),
        (
            "quantiles",
            nothing(),
            quantiles["quantiles"].clone(),
            Counts,
        ),
        ("quantiles.edges", quantiles.clone(), json!([0.3]), Counts),
        (
            "quantiles.names",
            quantiles.clone(),
            json!(["a", "b"]),
            Counts,
        ),
        ("scores", quantiles, json!(scores), Counts),
        ("unions", nothing(), json!([["easy", "medium"]]), Counts),
        ("controls", nothing(), json!(true), Counts),
        ("min_valid", nothing(), json!(1000), Refused("1000")),
        ("seed", halves, json!(5), Counts),
    ];
    check(&mut bench, "difficulty", &json!({}), &inputs, cases);
}

#[test]
fn of_report() {
    let mut bench = Bench::new();
    let data = colours(&mut bench);
    let model = trained(&mut bench, &data);
    let asked = [("model", vec![model.clone()]), ("data", vec![data.clone()])];
    let evaluated = bench.run("eval", json!({"max_new_tokens": 5}), &asked);
    evaluated.summary();
    let rolled = bench.run("rollout", json!({"n": 2, "max_new_tokens": 5}), &asked);
    rolled.summary();
    let rollouts = input("rollouts", &rolled.output("rollouts"));
    let binned = [("rollouts", vec![rollouts]), ("data", vec![data.clone()])];
    let binned = bench.run("difficulty", json!({}), &binned);
    binned.summary();
    let eval = |arm: &str, axis: i32| {
        let axes = [("seed", json!(axis)), ("fold", json!(axis % 2))];
        labelled("eval", arm, &axes, &evaluated.output("evaluation"))
    };
    let evals = vec![
        eval("cold_start", 0),
        eval("cold_start", 1),
        eval("sft", 0),
        eval("sft", 1),
    ];
    let inputs = [
        ("evals", evals),
        ("logs", Vec::new()),
        (
            "rollouts",
            vec![input("rollouts", &rolled.output("rollouts"))],
        ),
        (
            "difficulty",
            vec![input("difficulty", &binned.output("scores"))],
        ),
        ("data", vec![data]),
    ];
    let cases = vec![
        ("baselines", nothing(), json!(["sft"]), Counts),
        ("repeats", nothing(), json!("fold"), Counts),
        ("gallery", nothing(), json!(1), Counts),
    ];
    check(&mut bench, "report", &json!({}), &inputs, cases);
}
