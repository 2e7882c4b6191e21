//! Properties of axes: what a matrix makes, whatever it looks like.

#[path = "spec/kinds.rs"]
mod kinds;

use std::collections::BTreeSet;

use dcsft_engine::spec::Loaded;
use kinds::{load_text, titles};
use proptest::prelude::*;
use serde_json::{Value, json};

fn load(spec: &Value) -> Loaded {
    load_text(&spec.to_string()).unwrap_or_else(|message| panic!("{message}\n{spec:#}"))
}

fn sorted(loaded: &Loaded) -> Vec<String> {
    let mut titles = titles(loaded);
    titles.sort();
    titles
}

/// A stage that uses these axes.
fn user(axes: &[String]) -> Value {
    let note: Vec<String> = axes
        .iter()
        .map(|axis| format!("${{matrix.{axis}}}"))
        .collect();
    json!({"uses": "train", "with": {"data": "${world}", "steps": 1, "note": format!("values {}", note.join(" "))}})
}

/// Axes `a0`, `a1`, ... of these lengths.
fn matrix(lengths: &[usize]) -> (Vec<String>, Value) {
    let names: Vec<String> = (0..lengths.len())
        .map(|index| format!("a{index}"))
        .collect();
    let axes = names
        .iter()
        .zip(lengths)
        .map(|(name, length)| (name.clone(), json!((0..*length).collect::<Vec<_>>())));
    (names.clone(), Value::Object(axes.collect()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stage_has_the_product_of_its_axes_less_what_is_excluded(
        lengths in prop::collection::vec(1_usize..4, 1..4),
        picks in prop::collection::vec(prop::collection::vec(prop::option::of(0_usize..4), 3), 0..3),
        at_top in any::<bool>(),
    ) {
        let (names, mut axes) = matrix(&lengths);
        let rules: Vec<Vec<(usize, usize)>> = picks
            .iter()
            .map(|pick| {
                let named = pick.iter().take(lengths.len()).enumerate();
                named.filter_map(|(axis, value)| Some((axis, (*value)? % lengths[axis]))).collect()
            })
            .filter(|rule: &Vec<(usize, usize)>| !rule.is_empty())
            .collect();
        let excluded = |row: &[usize]| rules.iter().any(|rule| rule.iter().all(|&(axis, value)| row[axis] == value));
        let mut rows = vec![Vec::new()];
        for length in &lengths {
            rows = rows.iter().flat_map(|row: &Vec<usize>| (0..*length).map(move |value| [row.as_slice(), &[value]].concat())).collect();
        }
        let expected = rows.iter().filter(|row| !excluded(row)).count();
        let exclude: Vec<Value> = rules
            .iter()
            .map(|rule| Value::Object(rule.iter().map(|&(axis, value)| (names[axis].clone(), json!(value))).collect()))
            .collect();
        axes["exclude"] = exclude.into();
        let mut stage = user(&names);
        let mut spec = json!({"dcsft": 1, "name": "p", "stages": {"world": {"uses": "world"}}});
        if at_top {
            spec["matrix"] = axes;
        } else {
            stage["matrix"] = axes;
        }
        spec["stages"]["a"] = stage;
        match load_text(&spec.to_string()) {
            Ok(loaded) => {
                prop_assert_eq!(loaded.study.nodes.len(), 1 + expected);
                let distinct: BTreeSet<String> = titles(&loaded).into_iter().collect();
                prop_assert_eq!(distinct.len(), 1 + expected);
            }
            Err(message) => {
                prop_assert_eq!(expected, 0, "{}", message);
                prop_assert!(message.contains("no combination of axis values is left for the stage `a`"), "{}", message);
            }
        }
    }

    #[test]
    fn what_an_axis_does_not_touch_exists_once(
        lengths in prop::collection::vec(2_usize..4, 2..4),
        uses in prop::collection::vec(any::<bool>(), 3),
    ) {
        let (names, axes) = matrix(&lengths);
        let used: Vec<String> = names.iter().zip(&uses).filter(|(_, used)| **used).map(|(name, _)| name.clone()).collect();
        let product: usize = lengths.iter().zip(&uses).filter(|(_, used)| **used).map(|(length, _)| *length).product();
        let spec = json!({"dcsft": 1, "name": "p", "matrix": axes, "stages": {
            "world": {"uses": "world"},
            "a": user(&used),
            "b": {"uses": "eval", "with": {"model": "${a}", "data": "${world}"}},
            "all": {"uses": "report", "with": {"evals": "${b[*]}"}},
        }});
        let loaded = load(&spec);
        let count = |stage: &str| loaded.study.nodes.iter().filter(|node| node.stage == stage).count();
        prop_assert_eq!((count("world"), count("a"), count("b"), count("all")), (1, product, product, 1));
        let report = loaded.study.nodes.iter().find(|node| node.stage == "all").expect("a report");
        prop_assert_eq!(report.inputs[0].1.len(), product);
    }

    #[test]
    fn the_order_of_stages_and_axes_changes_no_node(
        order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
        swap in any::<bool>(),
    ) {
        let axes = [("x", json!([1, 2])), ("y", json!([3, 4, 5]))];
        let stages = [
            ("world", json!({"uses": "world"})),
            ("a", user(&["x".into()])),
            ("b", user(&["y".into()])),
            ("c", json!({"uses": "train", "matrix": {"z": [6, 7]}, "with": {"model": "${a}", "data": "${world}", "steps": "${matrix.z}"}})),
            ("d", json!({"uses": "report", "with": {"logs": ["${b[y=*].log}", "${c.log}"]}})),
        ];
        let build = |order: &[usize], swap: bool| {
            let stages = order.iter().map(|&index| (stages[index].0.to_owned(), stages[index].1.clone())).collect();
            let mut axes: Vec<(String, Value)> = axes.iter().map(|(name, values)| ((*name).to_owned(), values.clone())).collect();
            if swap {
                axes.reverse();
            }
            load(&json!({
                "dcsft": 1, "name": "p", "matrix": Value::Object(axes.into_iter().collect()), "stages": Value::Object(stages),
            }))
        };
        let (plain, permuted) = (build(&[0, 1, 2, 3, 4], false), build(&order, swap));
        prop_assert_eq!(sorted(&plain), sorted(&permuted));
        prop_assert_eq!(plain.study.cells, permuted.study.cells);
        for node in &plain.study.nodes {
            let twin = permuted.study.nodes.iter().find(|twin| twin.title() == node.title()).expect("its twin");
            prop_assert_eq!((&node.params, &node.arm), (&twin.params, &twin.arm));
            let reads = |loaded: &Loaded, node: &dcsft_engine::study::Node| -> Vec<Vec<String>> {
                let title = |id: dcsft_engine::study::NodeId| loaded.study.nodes[id.0].title();
                node.inputs.iter().map(|(_, references)| references.iter().map(|reference| title(reference.node)).collect()).collect()
            };
            prop_assert_eq!(reads(&plain, node), reads(&permuted, twin));
        }
    }

    #[test]
    fn no_text_makes_loading_panic(text in "[a-z:{}\\[\\]$&*!|>'\"#\\-., \\n]{0,80}") {
        let _ = load_text(&text);
        let _ = load_text(&format!("dcsft: 1\nname: x\nvars: {{a: 1}}\nstages:\n  world: {{uses: world}}\n  a:\n    uses: train\n    with: {{data: \"${{{}}}\", steps: 1}}\n", text.replace(['"', '\\', '\n'], "")));
    }
}
