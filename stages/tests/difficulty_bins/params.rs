//! Params: the outputs they name, and those that are refused.

use std::path::Path;

use serde_json::{Value, json};

fn refusal(with: Value) -> String {
    let kinds = dcsft_stages::registry();
    let problems = kinds
        .get("difficulty")
        .unwrap()
        .resolve(&with, Path::new("."))
        .unwrap_err();
    problems
        .iter()
        .map(|problem| format!("{}: {}\n", problem.path.join("."), problem.message))
        .collect()
}

#[test]
fn outputs_are_known_from_the_params_alone() {
    let kinds = dcsft_stages::registry();
    let with = json!({"bins": {"b": "[0.5, 1]", "a": "[0, 0.5)"}, "unions": [["b", "a"]], "controls": true});
    let resolved = kinds
        .get("difficulty")
        .unwrap()
        .resolve(&with, Path::new("."))
        .unwrap();
    let names: Vec<&str> = resolved
        .outputs
        .iter()
        .map(|output| output.name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "scores",
            "all",
            "b",
            "a",
            "b+a",
            "random-b",
            "random-a",
            "random-b+a"
        ]
    );
    let again = kinds
        .get("difficulty")
        .unwrap()
        .resolve(&resolved.params.value(), Path::new("."))
        .unwrap();
    assert_eq!(
        again.params, resolved.params,
        "resolved params resolve to themselves"
    );
    assert_eq!(again.outputs, resolved.outputs);
}

#[test]
fn bins_and_unions_that_cannot_be_are_refused() {
    assert!(
        refusal(json!({"bins": {"a": "2"}})).contains("\"2\" is not an interval of pass rates")
    );
    assert!(refusal(json!({"bins": {"a": {"interval": "1", "kep": 1}}})).contains("kep"));
    assert!(refusal(json!({"bins": {"all": "1"}})).contains("\"all\" cannot name a bin"));
    assert!(refusal(json!({"bins": {"a+b": "1"}})).contains("cannot name a bin"));
    assert!(refusal(json!({"bins": {}})).contains("there are no bins"));
    assert!(
        refusal(json!({"bins": {"a": {"interval": "1", "keep": 2}}}))
            .starts_with("bins.a.keep: 2 is not a share")
    );
    assert!(
        refusal(json!({"unions": [["easy", "medum"]]}))
            .contains("no bin \"medum\"; bins are easy, hard, medium")
    );
    assert!(refusal(json!({"unions": [["easy"]]})).contains("name two or more different bins"));
    assert!(
        refusal(json!({"quantiles": {"edges": [0.5, 0.5], "names": ["a", "b", "c"]}}))
            .contains("do not rise")
    );
    assert!(
        refusal(json!({"quantiles": {"edges": [0.5], "names": ["a"]}}))
            .contains("1 names for 1 edges")
    );
    assert!(refusal(json!({"scores": "x.jsonl"})).contains("quantiles"));
}
