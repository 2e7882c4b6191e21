//! What YAML habits come to, from what users of other programs ran into. Each case names the thread it comes from.

use crate::support::{Lab, lines};

/// A model by itself, with `with` and `vars`.
fn models(vars: &str, merged: &str, plain: &str) -> String {
    format!(
        "dcsft: 1\nname: case\nvars:\n{vars}stages:\n  merged: {{uses: model, with: {{{merged}}}}}\n  plain: {{uses: model, with: {{{plain}}}}}\n"
    )
}

fn keys(spec: &str) -> Vec<String> {
    let plan = lines(&Lab::new(spec).ok(&["plan", "spec.yaml", "--json", "--all"]));
    let key = |line: &serde_json::Value| line["key"].as_str().map(str::to_owned);
    plan.iter().filter_map(key).collect()
}

/// plannigan/columbo#537, ota-meshi/yaml-eslint-parser#306: `<<` with one map and with a list of them.
#[test]
fn merged_maps_give_the_key_of_what_they_stand_for() {
    let vars = "  a: &a {kind: micro, seed: 3}\n  b: &b {image_size: 32, patch_size: 4}\n";
    let plain = "kind: micro, seed: 3, image_size: 32, patch_size: 4";
    for merged in [
        "<<: [*a, *b]",
        "<<: *a, <<: *b",
        "<<: *a, image_size: 32, patch_size: 4",
    ] {
        let keys = keys(&models(vars, merged, plain));
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[0], keys[1], "{merged}");
    }
}

/// hiyouga/LlamaFactory#4014: `steps: 1e1` and `steps: 4.0` are numbers of steps like any other. They give the keys
/// of `10` and `4`, also where the kind reads its params by hand, as `model` does.
#[test]
fn whole_numbers_give_one_key_however_they_are_written() {
    for (written, meant) in [
        ("1e1", "10"),
        ("4.0", "4"),
        ("4.", "4"),
        ("+4", "4"),
        ("0x10", "16"),
    ] {
        let with = |seed: &str| format!("kind: micro, seed: {seed}");
        let keys = keys(&models("  none: 0\n", &with(written), &with(meant)));
        assert_eq!(keys[0], keys[1], "{written}");
    }
    let spec = |steps: &str| {
        format!(
            "dcsft: 1\nname: case\nstages:\n  w: {{uses: shapes}}\n  m: {{uses: model, with: {{kind: micro}}}}\n  s:\n    uses: sft\n    with:\n      model: \"${{m}}\"\n      data: \"${{w.train}}\"\n      steps: {steps}\n"
        )
    };
    Lab::new(&spec("1e1")).ok(&["plan", "spec.yaml"]);
    for steps in ["1.5", "1e30", "-2.0", "'10'", "yes", "1_000"] {
        let done = Lab::new(&spec(steps)).dcsft(&["plan", "spec.yaml"]);
        assert_eq!(done.code, 2, "{steps}");
        // What no schema bounds is found where the stage begins.
        let place = if steps == "1e30" {
            "spec.yaml:6:3"
        } else {
            "spec.yaml:11:14"
        };
        assert!(done.stderr.contains(place), "{}", done.stderr);
        for word in ["usize", "u64", "invalid type", "invalid value"] {
            assert!(!done.stderr.contains(word), "{}", done.stderr);
        }
    }
}

/// facebookresearch/hydra#573, facebookresearch/hydra#126: a list on the command line.
#[test]
fn a_list_on_the_command_line_is_a_list_or_refused() {
    let spec = "dcsft: 1\nname: case\nmatrix: {seed: [0]}\nstages:\n  b: {uses: model, with: {kind: micro, seed: \"${matrix.seed}\"}}\n";
    let lab = Lab::new(spec);
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "matrix.seed=0,1,2"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("takes a list of values"),
        "{}",
        done.stderr
    );
    let plan = lines(&lab.ok(&[
        "plan",
        "spec.yaml",
        "--json",
        "--all",
        "--set",
        "matrix.seed=[0,1,2]",
    ]));
    assert_eq!(
        plan.iter().filter(|line| line["kind"] == "model").count(),
        3
    );
}
