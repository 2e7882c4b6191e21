//! Specs that load: what becomes of them.

#[path = "spec/kinds.rs"]
mod kinds;

use dcsft_engine::spec::Loaded;
use dcsft_engine::stage::FieldPath;
use dcsft_engine::study::{Node, Shards};
use kinds::{load_files, load_text, titles};
use serde_json::{Value, json};

const SWEEP: &str = r#"
dcsft: 1
name: sweep
matrix: {seed: [0, 1]}
vars: {steps: 200, deep: {lr: 1e-3}}
stages:
  world:
    uses: world
    with: {size: 10}
  base:
    uses: train
    with: {data: "${world}", steps: 100, seed: "${matrix.seed}"}
  sft:
    uses: train
    matrix: {subset: [easy, easy+medium]}
    with: {model: "${base}", data: "${world.${matrix.subset}}", steps: "${vars.steps}", lr: "${vars.deep.lr}"}
  eval:
    uses: eval
    matrix: {step: [100, 200]}
    with: {model: "${sft.step-${matrix.step}}", data: "${world.val}"}
  report:
    uses: report
    with: {evals: ["${eval[*]}"], logs: ["${sft[subset=*,seed=*].log}"]}
"#;

fn load(text: &str) -> Loaded {
    load_text(text).unwrap_or_else(|message| panic!("{message}"))
}

/// Loads stages below a world with `head` before them.
fn load_stages(head: &str, stages: &str) -> Loaded {
    load(&format!(
        "dcsft: 1\nname: test\n{head}\nstages:\n  world: {{uses: world}}\n{stages}"
    ))
}

fn refusal(text: &str) -> String {
    match load_text(text) {
        Ok(loaded) => panic!("it loads: {:?}", titles(&loaded)),
        Err(message) => message,
    }
}

fn node<'a>(loaded: &'a Loaded, title: &str) -> &'a Node {
    let found = loaded.study.nodes.iter().find(|node| node.title() == title);
    found.unwrap_or_else(|| panic!("no {title} among {:?}", titles(loaded)))
}

/// What a node reads at one input: `title.output`.
fn reads(loaded: &Loaded, title: &str, input: &str) -> Vec<String> {
    let found = node(loaded, title)
        .inputs
        .iter()
        .find(|(name, _)| name == input);
    let references = &found.unwrap_or_else(|| panic!("{title} has no {input}")).1;
    let name = |reference: &dcsft_engine::study::Reference| {
        format!(
            "{}.{}",
            loaded.study.nodes[reference.node.0].title(),
            reference.output
        )
    };
    references.iter().map(name).collect()
}

/// The value of a param in every node of a stage.
fn params(loaded: &Loaded, stage: &str, param: &str) -> Vec<Value> {
    loaded
        .study
        .nodes
        .iter()
        .filter(|node| node.stage == stage)
        .map(|node| node.params.value()[param].clone())
        .collect()
}

#[test]
fn axes_flow_to_what_refers_and_to_nothing_else() {
    let loaded = load(SWEEP);
    let mut expected = vec![
        "world".to_owned(),
        "base[seed=0]".into(),
        "base[seed=1]".into(),
    ];
    for seed in [0, 1] {
        expected.extend(
            ["easy", "easy+medium"].map(|subset| format!("sft[seed={seed},subset={subset}]")),
        );
    }
    for (seed, subset) in [
        (0, "easy"),
        (0, "easy+medium"),
        (1, "easy"),
        (1, "easy+medium"),
    ] {
        expected.extend(
            [100, 200].map(|step| format!("eval[seed={seed},step={step},subset={subset}]")),
        );
    }
    expected.push("report".into());
    assert_eq!(titles(&loaded), expected);
    assert!(
        loaded.warnings.is_empty(),
        "{}",
        loaded.warnings.render(false)
    );
}

#[test]
fn references_find_the_cell_with_the_same_values() {
    let loaded = load(SWEEP);
    assert_eq!(
        reads(&loaded, "sft[seed=1,subset=easy+medium]", "model"),
        ["base[seed=1].model"]
    );
    assert_eq!(
        reads(&loaded, "sft[seed=1,subset=easy+medium]", "data"),
        ["world.easy+medium"]
    );
    assert_eq!(
        reads(&loaded, "eval[seed=0,step=200,subset=easy]", "model"),
        ["sft[seed=0,subset=easy].step-200"]
    );
    assert_eq!(reads(&loaded, "report", "evals").len(), 8);
    assert_eq!(
        reads(&loaded, "report", "logs"),
        [
            "sft[seed=0,subset=easy].log",
            "sft[seed=0,subset=easy+medium].log",
            "sft[seed=1,subset=easy].log",
            "sft[seed=1,subset=easy+medium].log",
        ]
    );
}

#[test]
fn nodes_come_after_what_they_read_and_know_their_index() {
    let loaded = load(SWEEP);
    for (index, node) in loaded.study.nodes.iter().enumerate() {
        assert_eq!(node.id.0, index);
        for reference in node.inputs.iter().flat_map(|(_, references)| references) {
            assert!(
                reference.node.0 < index,
                "{} reads what comes later",
                node.title()
            );
        }
    }
}

#[test]
fn stages_may_stand_in_any_order() {
    let loaded = load(
        "dcsft: 1\nname: test\nstages:\n  b:\n    uses: train\n    with: {data: '${a}', steps: 1}\n  a: {uses: world}\n",
    );
    assert_eq!(titles(&loaded), ["a", "b"]);
}

#[test]
fn params_come_with_defaults_and_keep_their_types() {
    let loaded = load(SWEEP);
    let sft = node(&loaded, "sft[seed=0,subset=easy]");
    assert_eq!(
        sft.params.value(),
        json!({"steps": 200, "lr": 1e-3, "schedule": "constant", "lora": null, "seed": 0, "note": ""})
    );
    assert_eq!(
        node(&loaded, "base[seed=1]").params.value()["seed"],
        json!(1)
    );
}

#[test]
fn interpolation_alone_keeps_the_type_and_inside_text_becomes_text() {
    let loaded = load_stages(
        "vars: {n: 100, half: 0.5, lora: {rank: 4, targets: [vision]}, word: 'n=${vars.n}', on: true}",
        r#"  a:
    uses: train
    with: {data: "${world}", steps: "${vars.n}", lora: "${vars.lora}", note: "${vars.word}, ${vars.half}, ${vars.on}, $${x}, $5"}
"#,
    );
    let a = node(&loaded, "a");
    assert_eq!(a.params.value()["steps"], json!(100));
    assert_eq!(
        a.params.value()["lora"],
        json!({"rank": 4, "targets": ["vision"]})
    );
    assert_eq!(
        a.params.value()["note"],
        json!("n=100, 0.5, true, ${x}, $5")
    );
}

#[test]
fn vars_may_be_looked_up_by_an_axis() {
    let loaded = load_stages(
        "vars: {lr: {small: 1e-3, large: 1e-4}}",
        r#"  a:
    uses: train
    matrix: {size: [small, large]}
    with: {data: "${world}", steps: 1, lr: "${vars.lr.${matrix.size}}"}
"#,
    );
    assert_eq!(params(&loaded, "a", "lr"), [json!(1e-3), json!(1e-4)]);
}

#[test]
fn vars_that_use_an_axis_bring_it_along() {
    let loaded = load_stages(
        "matrix: {seed: [3, 4]}\nvars: {tag: 'seed ${matrix.seed}'}",
        "  a:\n    uses: train\n    with: {data: '${world}', steps: 1, note: '${vars.tag}'}\n",
    );
    assert_eq!(titles(&loaded), ["world", "a[seed=3]", "a[seed=4]"]);
    assert_eq!(
        params(&loaded, "a", "note"),
        [json!("seed 3"), json!("seed 4")]
    );
}

#[test]
fn a_pinned_axis_does_not_flow() {
    let loaded = load(&format!(
        "{SWEEP}  best:\n    uses: eval\n    with: {{model: '${{sft[subset=easy]}}', data: '${{world}}'}}\n"
    ));
    assert_eq!(
        reads(&loaded, "best[seed=1]", "model"),
        ["sft[seed=1,subset=easy].model"]
    );
    assert!(!titles(&loaded).contains(&"best[seed=0,subset=easy]".to_owned()));
}

#[test]
fn several_axes_can_be_pinned_and_a_pin_may_be_computed() {
    let loaded = load(&format!(
        "{SWEEP}  one:\n    uses: eval\n    with: {{model: '${{sft[ subset=easy+medium, seed=1 ]}}', data: '${{world}}'}}
  shifted:
    uses: eval
    matrix: {{of: [1, 0]}}
    with: {{model: '${{sft[seed=${{matrix.of}}].step-100}}', data: '${{world}}'}}\n"
    ));
    assert_eq!(
        reads(&loaded, "one", "model"),
        ["sft[seed=1,subset=easy+medium].model"]
    );
    assert_eq!(
        reads(&loaded, "shifted[of=1,subset=easy]", "model"),
        ["sft[seed=1,subset=easy].step-100"]
    );
    assert_eq!(
        loaded
            .study
            .nodes
            .iter()
            .filter(|node| node.stage == "shifted")
            .count(),
        4
    );
}

#[test]
fn gathering_one_axis_leaves_the_others() {
    let loaded = load(&format!(
        "{SWEEP}  per_seed:\n    uses: report\n    with: {{evals: '${{eval[step=*,subset=*]}}'}}\n"
    ));
    assert_eq!(
        reads(&loaded, "per_seed[seed=1]", "evals"),
        [
            "eval[seed=1,step=100,subset=easy].metrics",
            "eval[seed=1,step=200,subset=easy].metrics",
            "eval[seed=1,step=100,subset=easy+medium].metrics",
            "eval[seed=1,step=200,subset=easy+medium].metrics",
        ]
    );
}

#[test]
fn inputs_that_take_many_keep_the_order_of_the_spec() {
    let loaded = load(&format!(
        "{SWEEP}  some:\n    uses: report\n    with: {{logs: ['${{base[seed=1].log}}', '${{sft[subset=*,seed=0].log}}', '${{base[seed=0].log}}'], evals: []}}\n"
    ));
    assert_eq!(
        reads(&loaded, "some", "logs"),
        [
            "base[seed=1].log",
            "sft[seed=0,subset=easy].log",
            "sft[seed=0,subset=easy+medium].log",
            "base[seed=0].log"
        ]
    );
    assert_eq!(reads(&loaded, "some", "evals"), Vec::<String>::new());
}

#[test]
fn two_parents_meet_where_their_shared_axes_agree() {
    let loaded = load_stages(
        "matrix: {seed: [0, 1], size: [1, 2], exclude: [{seed: 1, size: 2}]}",
        r#"  a:
    uses: train
    with: {data: "${world}", steps: 1, seed: "${matrix.seed}"}
  b:
    uses: world
    with: {size: "${matrix.size}", seed: "${matrix.seed}"}
  both:
    uses: train
    with: {model: "${a}", data: "${b}", steps: 1}
"#,
    );
    assert_eq!(
        titles(&loaded)[3..],
        [
            "b[seed=0,size=1]",
            "b[seed=0,size=2]",
            "b[seed=1,size=1]",
            "both[seed=0,size=1]",
            "both[seed=0,size=2]",
            "both[seed=1,size=1]",
        ]
    );
    assert_eq!(
        reads(&loaded, "both[seed=0,size=2]", "model"),
        ["a[seed=0].model"]
    );
}

#[test]
fn the_same_axis_at_two_stages_is_one_axis_where_they_meet() {
    let loaded = load_stages(
        "",
        r#"  a:
    uses: train
    matrix: {lr: [1, 2]}
    with: {data: "${world}", steps: 1, lr: "${matrix.lr}"}
  b:
    uses: split
    matrix: {lr: [1, 2]}
    with: {data: "${world}", parts: [x], bound: "${matrix.lr}"}
  both:
    uses: train
    with: {model: "${a}", data: "${b}", steps: 1}
"#,
    );
    assert_eq!(titles(&loaded)[5..], ["both[lr=1]", "both[lr=2]"]);
    assert_eq!(reads(&loaded, "both[lr=2]", "data"), ["b[lr=2].x"]);
}

#[test]
fn exclude_leaves_combinations_out_here_and_downstream() {
    let loaded = load_stages(
        "matrix: {seed: [0, 1]}",
        r#"  a:
    uses: train
    matrix:
      lr: [1, 2, 3]
      exclude: [{lr: [1, 2], seed: 1}]
    with: {data: "${world}", steps: 1, lr: "${matrix.lr}", seed: "${matrix.seed}"}
  next:
    uses: eval
    with: {model: "${a}", data: "${world}"}
"#,
    );
    assert_eq!(
        titles(&loaded)[5..],
        [
            "next[lr=1,seed=0]",
            "next[lr=2,seed=0]",
            "next[lr=3,seed=0]",
            "next[lr=3,seed=1]"
        ]
    );
}

#[test]
fn include_adds_combinations_with_new_values() {
    let loaded = load_stages(
        "",
        r#"  a:
    uses: train
    matrix:
      lr: [1, 2]
      steps: [10]
      exclude: [{lr: 2}]
      include: [{lr: 2, steps: 99}]
    with: {data: "${world}", steps: "${matrix.steps}", lr: "${matrix.lr}"}
"#,
    );
    assert_eq!(
        titles(&loaded)[1..],
        ["a[lr=1,steps=10]", "a[lr=2,steps=99]"]
    );
}

#[test]
fn axis_values_can_be_computed() {
    let loaded = load_stages(
        "",
        r#"  a:
    uses: train
    matrix:
      steps: {range: [100, 300, 100]}
      seed: {range: [0, 2]}
      exclude: [{seed: [1, 2], steps: [200, 300]}]
    with: {data: "${world}", steps: "${matrix.steps}", seed: "${matrix.seed}"}
  b:
    uses: train
    matrix: {lr: {range: [0, 0.35, 0.1]}}
    with: {data: "${world}", steps: 1, lr: "${matrix.lr}"}
  c:
    uses: train
    matrix: {lr: {linspace: [0.1, 0.5, 5]}}
    with: {data: "${world}", steps: 1, lr: "${matrix.lr}"}
  d:
    uses: train
    matrix: {lr: {logspace: [1e-4, 1e-2, 3]}}
    with: {data: "${world}", steps: 1, lr: "${matrix.lr}"}
  e:
    uses: train
    matrix: {steps: {logspace: [1, 16, 5]}}
    with: {data: "${world}", steps: "${matrix.steps}"}
  f:
    uses: train
    matrix: {seed: {range: [9007199254740993, 9007199254740996, 2]}}
    with: {data: "${world}", steps: 1, seed: "${matrix.seed}"}
"#,
    );
    assert_eq!(
        params(&loaded, "a", "steps")
            .iter()
            .filter(|steps| **steps == json!(100))
            .count(),
        3
    );
    assert_eq!(
        params(&loaded, "b", "lr"),
        [json!(0.0), json!(0.1), json!(0.2), json!(0.3)]
    );
    assert_eq!(
        params(&loaded, "c", "lr"),
        [json!(0.1), json!(0.2), json!(0.3), json!(0.4), json!(0.5)]
    );
    assert_eq!(
        params(&loaded, "d", "lr"),
        [json!(1e-4), json!(1e-3), json!(1e-2)]
    );
    assert_eq!(
        params(&loaded, "e", "steps"),
        [json!(1), json!(2), json!(4), json!(8), json!(16)]
    );
    assert_eq!(
        params(&loaded, "f", "seed"),
        [
            json!(9_007_199_254_740_993_u64),
            json!(9_007_199_254_740_995_u64)
        ]
    );
}

#[test]
fn axis_values_may_come_from_vars_and_a_trainers_checkpoints_follow_its_steps() {
    let steps = |overrides: &[&str]| {
        let text = r#"dcsft: 1
name: follow
vars: {steps: 300, save: 100, subsets: [easy, "easy+${vars.rest}"], rest: medium}
stages:
  world: {uses: world}
  sft:
    uses: train
    matrix: {subset: "${vars.subsets}"}
    with: {data: "${world.${matrix.subset}}", steps: "${vars.steps}"}
  eval:
    uses: eval
    matrix: {step: {every: ["${vars.save}", "${vars.steps}"]}}
    with: {model: "${sft.step-${matrix.step}}", data: "${world}"}
  last:
    uses: eval
    matrix: {step: ["${vars.steps}"], exclude: [{subset: "easy+${vars.rest}"}]}
    with: {model: "${sft.step-${matrix.step}}", data: "${world}"}
"#;
        let loaded = load_files(&[("spec.yaml", text)], overrides)
            .unwrap_or_else(|message| panic!("{message}"));
        titles(&loaded)
            .into_iter()
            .filter(|title| title.starts_with("eval[") || title.starts_with("last["))
            .filter(|title| !title.contains("medium"))
            .collect::<Vec<_>>()
    };
    let eval = |step: u32| format!("eval[step={step},subset=easy]");
    let last = |step: u32| format!("last[step={step},subset=easy]");
    assert_eq!(steps(&[]), [eval(100), eval(200), eval(300), last(300)]);
    assert_eq!(
        steps(&["vars.steps=200"]),
        [eval(100), eval(200), last(200)]
    );
    let more: Vec<String> = (1..=6).map(|n| eval(100 * n)).chain([last(600)]).collect();
    assert_eq!(steps(&["vars.steps=600"]), more);
    assert_eq!(
        steps(&["stages.eval.matrix.step=[300]"]),
        [eval(300), last(300)]
    );
}

#[test]
fn one_way_to_make_values_replaces_another_one() {
    let base = "dcsft: 1\nname: base\nmatrix: {seed: {every: [2, 5]}}\nstages: {world: {uses: world, with: {seed: '${matrix.seed}'}}}\n";
    let child = "extends: base.yaml\nmatrix: {seed: {range: [0, 1]}}\n";
    let loaded = load_files(&[("child.yaml", child), ("base.yaml", base)], &[]).expect("it loads");
    assert_eq!(titles(&loaded), ["world[seed=0]", "world[seed=1]"]);
}

#[test]
fn every_gives_the_multiples_of_the_step_and_always_the_last() {
    let values = |step: &str, last: &str| {
        let loaded = load_stages(
            "",
            &format!(
                "  a:\n    uses: train\n    matrix: {{n: {{every: [{step}, {last}]}}}}\n    with: {{data: '${{world}}', steps: '${{matrix.n}}'}}\n"
            ),
        );
        params(&loaded, "a", "steps")
    };
    assert_eq!(values("100", "250"), [json!(100), json!(200), json!(250)]);
    assert_eq!(values("100", "200"), [json!(100), json!(200)]);
    assert_eq!(values("100", "50"), [json!(50)]);
    assert_eq!(values("0", "50"), [json!(50)]);
    assert_eq!(values("1e2", "2e2"), [json!(100), json!(200)]);
}

#[test]
fn axis_values_that_cannot_be_known_are_one_mistake_each() {
    for (axis, message) in [
        (
            "['${matrix.seed}']",
            "the values of an axis cannot hang on the axis `seed`",
        ),
        (
            "['${world}']",
            "an axis takes values, and `world` is a stage",
        ),
        ("['${vars.none}']", "`vars` has no `none`"),
        ("'${vars.none}'", "`vars` has no `none`"),
        ("{every: ['${vars.none}', 3]}", "`vars` has no `none`"),
        ("['$${']", "the value of an axis cannot hold `${`"),
        (
            "['${vars.map}']",
            "a value of an axis is text, a number or a truth value, not a map",
        ),
        (
            "'${vars.one}'",
            "the axis `n` takes a list of values, not the number 1",
        ),
        ("{every: [1.5, 3]}", "`every` takes two whole numbers"),
        (
            "{every: [1, 0]}",
            "the last value, which is above 0; not 1 and 0",
        ),
        ("{every: [1, 1000000]}", "more than 100000 values"),
    ] {
        let text = format!(
            "dcsft: 1\nname: t\nvars: {{one: 1, map: {{a: 1}}}}\nmatrix: {{seed: [0]}}\nstages:\n  world: {{uses: world, with: {{seed: '${{matrix.seed}}'}}}}\n  a:\n    uses: train\n    matrix: {{n: {axis}}}\n    with: {{data: '${{world}}', steps: '${{matrix.n}}'}}\n"
        );
        let refused = refusal(&text);
        assert!(refused.contains(message), "no {message:?} in\n{refused}");
        assert_eq!(refused.matches("error: ").count(), 1, "{refused}");
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_point_or_an_exponent() {
    let loaded = load_stages(
        "",
        r#"  a:
    uses: train
    retries: 2.0
    resources: {threads: 2.0}
    with: {data: "${world}", steps: 1e1, seed: 4.0, lr: 1.0, lora: {rank: 2.0}}
"#,
    );
    let a = &loaded.study.nodes[1];
    assert_eq!(a.params.value()["steps"], json!(10));
    assert_eq!(a.params.value()["seed"], json!(4));
    assert_eq!(a.params.value()["lr"], json!(1.0));
    assert_eq!(a.params.value()["lora"]["rank"], json!(2));
    assert_eq!(a.execution.retries, 2);
    assert_eq!(a.execution.resources.threads, Some(2));
    for (written, message) in [
        (
            "4.5",
            "`steps` of `train` takes a whole number, not the number 4.5",
        ),
        ("-4.0", "`steps` of `train` is at least 0"),
        (
            "1e30",
            "`steps` of `train`: takes a whole number from 0 to 4294967295, not the number",
        ),
        (
            "5000000000",
            "`steps` of `train`: takes a whole number from 0 to 4294967295, not the number 5000000000",
        ),
        (
            "'5'",
            "`steps` of `train` takes a whole number, not the text \"5\"",
        ),
        (
            "1_000",
            "`steps` of `train` takes a whole number, not the text \"1_000\"",
        ),
    ] {
        let refused = refusal(&format!(
            "dcsft: 1\nname: t\nstages:\n  world: {{uses: world}}\n  a: {{uses: train, with: {{data: '${{world}}', steps: {written}}}}}\n"
        ));
        assert!(refused.contains(message), "no {message:?} in\n{refused}");
    }
}

#[test]
fn merge_keys_take_a_list_of_maps_of_which_the_first_counts() {
    let loaded = load_stages(
        "vars: {a: &a {steps: 5, note: first}, b: &b {note: second, lr: 0.5}}",
        r#"  a: {uses: train, with: {<<: [*a, *b], data: "${world}"}}
  b: {uses: train, with: {data: "${world}", <<: [*b, *a], steps: 6}}
  c: {uses: train, with: {<<: [], data: "${world}", steps: 1}}
"#,
    );
    let a = node(&loaded, "a").params.value();
    assert_eq!(
        (&a["steps"], &a["note"], &a["lr"]),
        (&json!(5), &json!("first"), &json!(0.5))
    );
    let b = node(&loaded, "b").params.value();
    assert_eq!(
        (&b["steps"], &b["note"], &b["lr"]),
        (&json!(6), &json!("second"), &json!(0.5))
    );
    let stage = |with: &str| {
        format!(
            "dcsft: 1\nname: t\nvars: {{a: &a {{steps: 1}}}}\nstages:\n  world: {{uses: world}}\n  a: {{uses: train, with: {{data: '${{world}}', {with}}}}}\n"
        )
    };
    let message = refusal(&stage("<<: [*a, 3]"));
    assert!(
        message.contains("`<<` takes a map or a list of maps, not the number 3"),
        "{message}"
    );
    // In quotes it is a key, and the kind has none of that name.
    let message = refusal(&stage("'<<': *a, steps: 1"));
    assert!(message.contains("`train` has no `<<`"), "{message}");
}

#[test]
fn arms_are_the_stage_and_its_own_axes_and_evaluations_take_that_of_their_model() {
    let loaded = load(&format!(
        "{SWEEP}  named:\n    uses: train\n    matrix: {{n: [1, 2]}}\n    arm: 'run/${{matrix.n}} of ${{vars.steps}}'\n    with: {{data: '${{world}}', steps: '${{matrix.n}}'}}
  grid:
    uses: train
    matrix: {{n: [1], lr: [1e-3]}}
    with: {{data: '${{world}}', steps: '${{matrix.n}}', lr: '${{matrix.lr}}'}}\n"
    ));
    let arm = |title: &str| node(&loaded, title).arm.clone();
    assert_eq!(arm("base[seed=0]"), "base");
    assert_eq!(arm("sft[seed=0,subset=easy+medium]"), "sft/easy+medium");
    assert_eq!(arm("eval[seed=1,step=100,subset=easy]"), "sft/easy");
    assert_eq!(arm("named[n=2]"), "run/2 of 200");
    assert_eq!(arm("grid[lr=0.001,n=1]"), "grid/1,0.001");
}

#[test]
fn scalars_are_those_of_yaml_1_2() {
    let text = |value: &str| {
        let loaded = load_stages(
            "",
            &format!(
                "  a:\n    uses: train\n    with: {{data: '${{world}}', steps: 1, note: {value}}}\n"
            ),
        );
        node(&loaded, "a").params.value()["note"].clone()
    };
    assert_eq!(text("yes"), json!("yes"));
    assert_eq!(text("off"), json!("off"));
    assert_eq!(text("1_000"), json!("1_000"));
    assert_eq!(text("1:30"), json!("1:30"));
    assert_eq!(text("2026-01-01"), json!("2026-01-01"));
    assert_eq!(text("\"12\""), json!("12"));
    assert_eq!(text("!!str 12"), json!("12"));
    assert_eq!(text("'.nan'"), json!(".nan"));
    let number = |value: &str| {
        let loaded = load_stages(
            "",
            &format!(
                "  a:\n    uses: train\n    with: {{data: '${{world}}', steps: 1, lr: {value}}}\n"
            ),
        );
        node(&loaded, "a").params.value()["lr"].as_f64()
    };
    assert_eq!(number("1e-4"), Some(1e-4));
    assert_eq!(number("+.5"), Some(0.5));
    assert_eq!(number("0x10"), Some(16.0));
    assert_eq!(number("0o10"), Some(8.0));
    assert_eq!(number("010"), Some(10.0));
    assert_eq!(number("7."), Some(7.0));
}

#[test]
fn anchors_aliases_and_merge_keys() {
    let loaded = load_stages(
        "",
        r#"  a:
    uses: train
    with: &common {data: "${world}", steps: 5, note: &word shared}
  b:
    uses: train
    with:
      <<: *common
      steps: 6
  c:
    uses: train
    with: {data: "${world}", steps: 1, note: *word}
"#,
    );
    assert_eq!(node(&loaded, "b").params.value()["steps"], json!(6));
    assert_eq!(node(&loaded, "b").params.value()["note"], json!("shared"));
    assert_eq!(node(&loaded, "c").params.value()["note"], json!("shared"));
}

#[test]
fn extends_merges_maps_replaces_lists_and_null_removes() {
    let base = r#"dcsft: 1
name: base
matrix: {seed: [0, 1]}
vars: {steps: 1}
stages:
  world: {uses: world, with: {seed: "${matrix.seed}", size: 5}}
  a: {uses: train, with: {data: "${world}", steps: "${vars.steps}", note: base}}
  gone: {uses: train, with: {data: "${world}", steps: 1}}
"#;
    let child = r#"extends: base.yaml
name: child
matrix: {seed: [7]}
vars: {steps: 2}
stages:
  world: {with: {size: null}}
  a: {with: {lr: 0.5}}
  gone: null
  more: {uses: eval, with: {model: "${a}", data: "${world}"}}
"#;
    let loaded = load_files(&[("child.yaml", child), ("base.yaml", base)], &[])
        .unwrap_or_else(|m| panic!("{m}"));
    assert_eq!(loaded.study.name, "child");
    assert_eq!(
        titles(&loaded),
        ["world[seed=7]", "a[seed=7]", "more[seed=7]"]
    );
    assert_eq!(
        node(&loaded, "world[seed=7]").params.value()["size"],
        json!(100)
    );
    assert_eq!(
        (
            &node(&loaded, "a[seed=7]").params.value()["steps"],
            &node(&loaded, "a[seed=7]").params.value()["note"]
        ),
        (&json!(2), &json!("base"))
    );
    let names: Vec<String> = loaded
        .study
        .files()
        .map(|(path, _)| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(names, ["child.yaml", "base.yaml"]);
}

#[test]
fn mistakes_in_an_extended_spec_are_shown_there() {
    let base = "dcsft: 1\nname: base\nstages:\n  world: {uses: world, with: {size: none}}\n";
    let child = "extends: base.yaml\nname: child\nstages:\n  world: {with: {sed: 1}}\n";
    let message = load_files(&[("child.yaml", child), ("base.yaml", base)], &[])
        .expect_err("a mistake in each");
    assert!(message.contains("child.yaml:4:18"), "{message}");
    assert!(message.contains("base.yaml:4:37"), "{message}");
}

#[test]
fn overrides_replace_any_value_and_are_typed_as_yaml() {
    let set = |overrides: &[&str]| {
        load_files(&[("spec.yaml", SWEEP)], overrides).unwrap_or_else(|message| panic!("{message}"))
    };
    let loaded = set(&[
        "vars.steps=100",
        "vars.deep.lr=1e-4",
        "matrix.seed=[5]",
        "stages.eval.matrix.step.1=50",
        "stages.eval.matrix.step=[100]",
    ]);
    let sft = node(&loaded, "sft[seed=5,subset=easy]");
    assert_eq!(
        (&sft.params.value()["steps"], &sft.params.value()["lr"]),
        (&json!(100), &json!(1e-4))
    );
    assert_eq!(loaded.study.overrides.len(), 5);
    let loaded = set(&[
        "stages.sft.with.lora.rank=4",
        "stages.sft.with.note=a=b",
        "stages.sft.timeout=90s",
        "stages.sft.resources.gpus=1",
    ]);
    let sft = node(&loaded, "sft[seed=0,subset=easy]");
    assert_eq!(
        (
            &sft.params.value()["lora"]["rank"],
            &sft.params.value()["note"]
        ),
        (&json!(4), &json!("a=b"))
    );
    assert_eq!(
        (sft.execution.timeout, sft.execution.resources.gpus),
        (Some(90.0), 1)
    );
    let index = set(&["stages.sft.matrix.subset.0=val"]);
    assert!(titles(&index).contains(&"sft[seed=0,subset=val]".to_owned()));
}

#[test]
fn overrides_of_what_is_not_there_say_what_is() {
    let refuse =
        |text: &str| load_files(&[("spec.yaml", SWEEP)], &[text]).expect_err("a wrong override");
    let cases = [
        (
            "vars.step=1",
            "`vars` has no `step` to override",
            "did you mean `steps`?",
        ),
        (
            "vars.deep.rl=1",
            "`vars.deep` has no `rl` to override",
            "it has `lr`",
        ),
        (
            "stages.sff.with.lr=1",
            "`stages` has no `sff` to override",
            "did you mean `sft`?",
        ),
        (
            "stages.sft.with.steps.x=1",
            "`stages.sft.with.steps` is the text",
            "nothing below it",
        ),
        (
            "stages.sft.with.rl=1",
            "`train` has no `rl`",
            "did you mean `lr`?",
        ),
        (
            "stages.sft.wiht.lr=1",
            "a stage has no key `wiht`",
            "did you mean `with`?",
        ),
        (
            "stages.sft.matrix.subset.9=x",
            "`9` is not an index of this list of 2",
            "the first is 0",
        ),
        (
            "stages.sft.with.lr",
            "an override without `=`",
            "--set stages.sft.with.learning_rate=1e-4",
        ),
        ("vars..x=1", "an override with an empty name", "--set:1:1"),
        (
            "extends=other.yaml",
            "`extends` is read before anything is overridden",
            "write it in a spec",
        ),
        ("vars.steps=[1", "this is not YAML", "--set:1:"),
        (
            "vars.steps=many",
            "`steps` of `train` takes a whole number, not the text \"many\"",
            "--set:1:12",
        ),
    ];
    for (text, message, more) in cases {
        let found = refuse(text);
        assert!(
            found.contains(message) && found.contains(more),
            "{text}:\n{found}"
        );
        assert!(found.contains(&format!("1 | {text}")), "{text}:\n{found}");
    }
}

#[test]
fn execution_settings_are_read_and_are_no_params() {
    let loaded = load_stages(
        "",
        "  a:\n    uses: train\n    description: words\n    resources: {gpus: 1, threads: 2, time: 2h, memory: 16GiB}\n    timeout: 1.5h\n    retries: 2\n    with: {data: '${world}', steps: 1}\n  b: {uses: world, timeout: 90}\n",
    );
    let execution = &node(&loaded, "a").execution;
    assert_eq!((execution.timeout, execution.retries), (Some(5400.0), 2));
    assert_eq!(
        (execution.resources.gpus, execution.resources.threads),
        (1, Some(2))
    );
    assert_eq!(
        (execution.resources.time, execution.resources.memory),
        (Some(7200.0), Some(16 << 30))
    );
    assert_eq!(node(&loaded, "b").execution.timeout, Some(90.0));
    assert!(node(&loaded, "a").params.value().get("timeout").is_none());
}

#[test]
fn shards_are_a_number_or_auto_of_a_kind_that_can_be_cut() {
    let shards = |written: &str| {
        let text = format!(
            "  a: {{uses: train, with: {{data: '${{world}}', steps: 1}}}}\n  b:\n    uses: eval\n    shards: {written}\n    with: {{model: '${{a}}', data: '${{world}}'}}\n"
        );
        node(&load_stages("", &text), "b").execution.shards
    };
    assert_eq!(shards("3"), Shards::Count(3));
    assert_eq!(shards("1000"), Shards::Count(1000));
    assert_eq!(shards("auto"), Shards::Auto);
    let stage = |line: &str| {
        refusal(&format!(
            "dcsft: 1\nname: cut\nstages:\n  world: {{uses: world}}\n  a: {{uses: train, with: {{data: '${{world}}', steps: 1}}}}\n  b: {{uses: eval, with: {{model: '${{a}}', data: '${{world}}'}}, {line}}}\n"
        ))
    };
    for (line, found) in [
        ("shards: 0", "not the number 0"),
        ("shards: -2", "not the number -2"),
        ("shards: 1.5", "not the number 1.5"),
        ("shards: 1001", "not the number 1001"),
        ("shards: many", "not the text \"many\""),
        ("shards: [2]", "not a list"),
    ] {
        let message = stage(line);
        assert!(
            message.contains("`shards` takes a whole number from 1 to 1000, or `auto`")
                && message.contains(found),
            "{message}"
        );
    }
    let message = refusal("dcsft: 1\nname: cut\nstages:\n  world: {uses: world, shards: 2}\n");
    for part in [
        "a stage of kind `world` cannot be cut into shards",
        "those of `eval` can",
        "leave `shards` out",
        "4:32",
    ] {
        assert!(message.contains(part), "{part}:\n{message}");
    }
}

#[test]
fn fields_know_their_place_and_vars_theirs() {
    let loaded = load(SWEEP);
    let sft = node(&loaded, "sft[seed=0,subset=easy]");
    let at = |field: &str| {
        (
            sft.places[&FieldPath::from(field)].source,
            sft.places[&FieldPath::from(field)].line,
            sft.places[&FieldPath::from(field)].column,
        )
    };
    assert_eq!((sft.place.line, sft.place.column), (13, 3));
    assert_eq!(at("data"), (0, 16, 36));
    assert_eq!(at("steps"), (0, 5, 15));
    assert_eq!(at("lr"), (0, 5, 31));
}

#[test]
fn files_are_known_by_their_path_below_the_specs_folder() {
    let spec = "dcsft: 1\nname: files\nstages:\n  world: {uses: world, with: {path: data.json}}\n";
    let loaded = load_files(&[("spec.yaml", spec), ("data.json", "[]")], &[])
        .unwrap_or_else(|message| panic!("{message}"));
    let file = &loaded.study.nodes[0].files[0];
    assert!(file.files[0].1.is_absolute());
    assert!(file.files[0].1.ends_with("data.json"));
    assert_eq!(
        loaded.study.nodes[0].params.value()["path"],
        json!("data.json")
    );
}

#[test]
fn cells_count_pipelines_as_if_nothing_were_shared() {
    // 8 evaluations, each with its own world, base and sft, and the report on its own.
    assert_eq!(load(SWEEP).study.cells, 8 * 4 + 1);
    let one = load("dcsft: 1\nname: one\nstages: {world: {uses: world}}\n");
    assert_eq!(one.study.cells, 1);
}

#[test]
fn an_axis_that_no_stage_uses_is_a_warning() {
    let loaded =
        load("dcsft: 1\nname: test\nmatrix: {seed: [1]}\nstages: {world: {uses: world}}\n");
    let warnings = loaded.warnings.to_json();
    assert_eq!(warnings[0]["severity"], "warning");
    assert_eq!(warnings[0]["message"], "no stage uses the axis `seed`");
}

#[test]
fn mistakes_as_json_say_file_line_column_and_text() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("spec.yaml");
    std::fs::write(
        &path,
        "dcsft: 1\nname: é\nstages:\n  world: {uses: wörld, with: {size: 1}}\n",
    )
    .expect("a spec");
    let found = dcsft_engine::spec::load(&path, &[], &kinds::registry())
        .expect_err("no such kind")
        .to_json();
    assert_eq!(found[0]["message"], "there is no stage kind `wörld`");
    assert_eq!(found[0]["file"], json!(path.to_string_lossy()));
    assert_eq!(
        (&found[0]["line"], &found[0]["column"], &found[0]["length"]),
        (&json!(4), &json!(17), &json!(5))
    );
    assert_eq!(found[0]["text"], "wörld");
    assert_eq!(found[0]["help"], "did you mean `world`?");
}

#[test]
fn the_same_mistake_in_many_cells_is_reported_once() {
    let message = refusal(
        "dcsft: 1\nname: once\nmatrix: {seed: [0, 1, 2]}\nstages:\n  world: {uses: world, with: {seed: '${matrix.seed}', size: x}}\n  a: {uses: train, with: {data: '${world.esay}', steps: 1}}\n",
    );
    assert_eq!(message.matches("error:").count(), 1, "{message}");
}

#[test]
fn the_environment_stands_where_its_value_would() {
    // Cargo sets these for the tests it runs.
    let package = std::env::var("CARGO_PKG_NAME").expect("cargo runs this test");
    let minor: u64 = std::env::var("CARGO_PKG_VERSION_MINOR")
        .expect("cargo runs this test")
        .parse()
        .expect("a number");
    let loaded = load_stages(
        "vars: {name: '${env.CARGO_PKG_NAME}', unset: '${env.NOT_SET_ANYWHERE:-7}'}",
        "  a:\n    uses: train\n    with:\n      data: '${world.easy}'\n      steps: '${env.CARGO_PKG_VERSION_MINOR}'\n      \
         note: 'of ${vars.name}: ${vars.unset}, ${env.NOT_SET_ANYWHERE:-}, ${env.NOT_SET_ANYWHERE:-a b:c/d}'\n",
    );
    let params = node(&loaded, "a").params.value();
    assert_eq!(params["steps"], minor, "alone, a number is a number");
    assert_eq!(params["note"], format!("of {package}: 7, , a b:c/d"));
}
