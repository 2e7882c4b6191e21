//! Specs that are broken on purpose: nothing in a text brings the program down, and every one gets its message.

#[path = "spec/kinds.rs"]
mod kinds;

use std::collections::BTreeMap;

use kinds::{load_files, load_text, titles};
use serde_json::{Value, json};

fn refusal(text: &str) -> String {
    match load_text(text) {
        Ok(loaded) => panic!("it loads: {:?}", titles(&loaded)),
        Err(message) => message,
    }
}

/// What is said to a spec with these `vars`, each line indented.
fn refusal_of_vars(vars: &str, seed: &str) -> String {
    refusal(&format!(
        "dcsft: 1\nname: vars\nvars:\n{vars}stages:\n  world: {{uses: world, with: {{seed: {seed}}}}}\n"
    ))
}

#[test]
fn aliases_cannot_blow_a_spec_up() {
    let mut text =
        String::from("dcsft: 1\nname: bomb\nvars:\n  a0: [x, x, x, x, x, x, x, x, x, x]\n")
            .replace("a0:", "a0: &a0");
    for level in 1..9 {
        let alias = format!("*a{}", level - 1);
        text += &format!("  a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "));
    }
    text += "stages: {world: {uses: world}}\n";
    let message = refusal(&text);
    assert!(
        message.contains("the spec holds more than 1000000 values"),
        "{message}"
    );
    assert!(message.contains("spec.yaml:"), "{message}");
}

#[test]
fn deep_nesting_is_refused() {
    let text = format!(
        "dcsft: 1\nname: deep\nvars: {{a: {}{}}}\nstages: {{}}\n",
        "[".repeat(100),
        "]".repeat(100)
    );
    assert!(refusal(&text).contains("nested more than 64 deep"));
}

#[test]
fn too_many_combinations_are_refused() {
    let axes: BTreeMap<String, Value> = (0..8)
        .map(|n| (format!("a{n}"), json!({"range": [1, 10]})))
        .collect();
    let note: String = (0..8).map(|n| format!("${{matrix.a{n}}}")).collect();
    let spec = json!({"dcsft": 1, "name": "many", "matrix": axes, "stages": {
        "world": {"uses": "world"},
        "a": {"uses": "train", "with": {"data": "${world}", "steps": 1, "note": note}},
    }});
    let message = refusal(&spec.to_string());
    assert!(
        message.contains("the stage `a` would have more than 1000000 combinations"),
        "{message}"
    );
    assert!(
        message.contains("values of its axes: `a0` has 10, `a1` has 10"),
        "{message}"
    );
}

#[test]
fn stages_with_many_combinations_are_counted_together() {
    let spec = json!({"dcsft": 1, "name": "many", "matrix": {"n": {"range": [1, 100_000]}}, "stages": {
        "world": {"uses": "world"},
        "a": {"uses": "train", "with": {"data": "${world}", "steps": 1, "seed": "${matrix.n}"}},
        "b": {
            "uses": "train",
            "matrix": {"lr": {"linspace": [0.1, 1, 9]}},
            "with": {"model": "${a}", "data": "${world}", "steps": 1, "lr": "${matrix.lr}"},
        },
    }});
    let message = refusal(&spec.to_string());
    assert!(
        message
            .contains("the study would have more than 1000000 stages: `b` adds 900000 to 100001"),
        "{message}"
    );
    assert!(
        message.contains("values of its axes: `n` has 100000, `lr` has 9"),
        "{message}"
    );
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
}

#[test]
fn a_spec_that_cannot_be_read_is_one_error() {
    let found = dcsft_engine::spec::load("nowhere/spec.yaml".as_ref(), &[], &kinds::registry())
        .expect_err("no file");
    assert_eq!(found.items.len(), 1);
    assert!(
        found
            .to_string()
            .starts_with("error: cannot read the spec nowhere/spec.yaml: "),
        "{found}"
    );
}

#[test]
fn aliases_of_aliases_cannot_nest_a_spec_deep() {
    let nested = |inner: &str| format!("{}{inner}{}", "[".repeat(50), "]".repeat(50));
    let mut vars = format!("  a0: &a0 {}\n", nested("x"));
    for level in 1..2000 {
        vars += &format!(
            "  a{level}: &a{level} {}\n",
            nested(&format!("*a{}", level - 1))
        );
    }
    let message = refusal_of_vars(&vars, "0");
    assert!(message.contains("nested more than 64 deep"), "{message}");
    assert!(message.contains("spec.yaml:5:61"), "{message}");
}

#[test]
fn anchors_inside_each_other_cannot_blow_a_spec_up() {
    let many = |what: &str| format!("[{}]", vec![what; 500].join(", "));
    let anchors: String = (0..50).map(|n| format!("&n{n} [")).collect();
    let vars = format!(
        "  z: &z {}\n  y: &y {}\n  n: {anchors}*y{}\n",
        many("1"),
        many("*z"),
        "]".repeat(50)
    );
    assert!(refusal_of_vars(&vars, "0").contains("the spec holds more than 1000000 values"));
}

#[test]
fn vars_cannot_blow_a_spec_up() {
    let mut vars = String::new();
    for level in 0..30 {
        let next = level + 1;
        vars += &format!("  v{level}: ['${{vars.v{next}}}', '${{vars.v{next}}}']\n");
    }
    vars += "  v30: 1\n";
    let message = refusal_of_vars(&vars, "'${vars.v0}'");
    assert!(
        message.contains("this takes more than 100000 vars that use each other"),
        "{message}"
    );
}

#[test]
fn a_long_chain_of_vars_is_not_called_a_circle() {
    let mut vars: String = (0..40)
        .map(|level| format!("  v{level}: '${{vars.v{}}}'\n", level + 1))
        .collect();
    vars += "  v40: 1\n";
    let message = refusal_of_vars(&vars, "'${vars.v0}'");
    assert!(
        message.contains("more than 32 vars that use one another"),
        "{message}"
    );
}

#[test]
fn interpolations_cannot_be_nested_without_end() {
    let message = refusal_of_vars("  v: 1\n", &format!("'{}'", "${vars.".repeat(100_000)));
    assert!(
        message.contains("interpolations are nested more than 16 deep"),
        "{message}"
    );
}

#[test]
fn an_override_cannot_nest_a_spec_deep() {
    let spec = "dcsft: 1\nname: deep\nstages:\n  world: {uses: world}\n";
    let text = format!("stages.world.with{}=1", ".a".repeat(50_000));
    let message = load_files(&[("spec.yaml", spec)], &[&text]).expect_err("too deep");
    assert!(
        message.contains("a name of more than 64 parts"),
        "{message}"
    );
}

#[test]
fn a_long_chain_of_specs_is_not_called_a_circle() {
    let texts: Vec<(String, String)> = (0..40)
        .map(|n| (format!("{n}.yaml"), format!("extends: {}.yaml\n", n + 1)))
        .collect();
    let files: Vec<(&str, &str)> = texts
        .iter()
        .map(|(name, text)| (name.as_str(), text.as_str()))
        .collect();
    let message = load_files(&files, &[]).expect_err("too long");
    assert!(
        message.contains("a chain of more than 32 specs that extend one another"),
        "{message}"
    );
}

#[test]
fn ranges_end_where_numbers_do() {
    let of = |range: &str| {
        refusal(&format!(
            "dcsft: 1\nname: range\nmatrix: {{a: {{range: {range}}}}}\nstages:\n  world: {{uses: world, with: {{seed: '${{matrix.a}}'}}}}\n"
        ))
    };
    assert!(of("[1, 2, 0]").contains("the step 0 does not lead from 1 to 2"));
    assert!(of("[1, 2, -1]").contains("the step -1 does not lead from 1 to 2"));
    assert!(of("[0, 1e300, 1]").contains("more than 100000 values"));
    assert!(of("[0, 1e20, 9000000000000000000]").contains("too large for a 64-bit integer"));
}

#[test]
fn timeouts_are_times_that_a_clock_can_wait_for() {
    for time in ["1e300", "0", "-1", "1000000000000d", "101000d"] {
        let message = refusal(&format!(
            "dcsft: 1\nname: time\nstages:\n  world: {{uses: world, timeout: {time}}}\n"
        ));
        assert!(
            message.contains("`timeout` takes a time such as `90s`"),
            "{time}: {message}"
        );
    }
}

#[test]
fn a_spec_that_is_not_utf8_says_where() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("spec.yaml");
    std::fs::write(&path, b"dcsft: 1\nname: caf\xe9\n").expect("a spec");
    let found = dcsft_engine::spec::load(&path, &[], &kinds::registry()).expect_err("Latin-1");
    let message = found.to_string();
    assert!(message.contains("this is not UTF-8"), "{message}");
    assert!(message.contains("spec.yaml:2:10"), "{message}");
    assert!(message.contains("save the file as UTF-8"), "{message}");
}

#[test]
fn a_name_fits_a_folder() {
    let of = |length| {
        load_text(&format!(
            "dcsft: 1\nname: {}\nstages:\n  world: {{uses: world}}\n",
            "n".repeat(length)
        ))
    };
    assert!(of(100).is_ok());
    assert!(of(101).expect_err("too long").contains("up to 100 letters"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_move_no_place() {
    let message = refusal("\u{feff}dcsfd: 1\r\nname: bom\r\nstages:\r\n  world: {uses: wrold}\r\n");
    assert!(
        message.contains("spec.yaml:1:1\n  |\n1 | dcsfd: 1\n  | ^^^^^\n"),
        "{message}"
    );
    assert!(message.contains("spec.yaml:4:17"), "{message}");
}

#[test]
fn aliases_of_a_long_text_cannot_blow_a_spec_up() {
    let text = "x".repeat(1 << 20);
    let vars = format!("  a: &a {text}\n  b: [{}]\n", vec!["*a"; 100].join(", "));
    let message = refusal_of_vars(&vars, "0");
    assert!(
        message.contains("the texts of the spec come to more than 64 MiB"),
        "{message}"
    );
}

#[test]
fn vars_of_a_long_text_cannot_blow_a_spec_up() {
    let mut vars = format!("  v20: {}\n", "x".repeat(1 << 12));
    for level in 0..20 {
        let next = level + 1;
        vars += &format!("  v{level}: \"${{vars.v{next}}}${{vars.v{next}}}\"\n");
    }
    let message = refusal_of_vars(&vars, "\"${vars.v0}\"");
    assert!(
        message.contains("this comes to more than 16 MiB of text"),
        "{message}"
    );
}

#[test]
fn a_spec_larger_than_any_spec_is_not_read() {
    let message = refusal(&format!("# {}\n", "x".repeat(17 << 20)));
    assert!(message.contains("it is larger than 16 MiB"), "{message}");
}

/// A pipe that nobody writes into would be waited for without end, and `/dev/zero` has none.
#[cfg(unix)]
#[test]
fn a_spec_is_a_file() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let pipe = dir.path().join("pipe.yaml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    for (path, reason) in [
        (
            pipe.as_path(),
            "it is a pipe, a socket or a device, not a file",
        ),
        (
            "/dev/zero".as_ref(),
            "it is a pipe, a socket or a device, not a file",
        ),
        (dir.path(), "it is a folder"),
    ] {
        let whole = format!("cannot read the spec {}: {reason}", path.display());
        let found = dcsft_engine::spec::load(path, &[], &kinds::registry()).expect_err("no file");
        assert!(found.to_string().contains(&whole), "{found}");
        let extends = dir.path().join("spec.yaml");
        std::fs::write(&extends, format!("extends: {}\n", path.display())).expect("a spec");
        let found =
            dcsft_engine::spec::load(&extends, &[], &kinds::registry()).expect_err("no file");
        assert!(found.to_string().contains(&whole), "{found}");
        assert!(found.to_string().contains("spec.yaml:1:10"), "{found}");
    }
}
