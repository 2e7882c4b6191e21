//! What the params choose of a list.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Folder, problem, resolve, text};

#[test]
fn params_that_contradict_each_other_are_refused() {
    let refusal = |mut with: Value| {
        with["path"] = json!("missing.json");
        resolve(with, Path::new("/")).unwrap_err()
    };
    assert!(refusal(json!({"prompt": "object?"})).starts_with("prompt: \"object?\" has 0 <image>"));
    assert!(refusal(json!({"prompt": "<image>{prompt}"})).starts_with("prompt: "));
    assert!(refusal(json!({"limit": 3, "sample": 4})).starts_with("sample: "));
    assert!(refusal(json!({"limit": 0})).starts_with("limit: "));
    assert!(refusal(json!({"layout": "csv"})).contains("messages"));
}

#[test]
fn a_prompt_template_replaces_or_wraps_the_records_prompt() {
    let folder = Folder::new();
    let records = text(&[problem("cat", "a.png")]);
    let prompt = |template: &str| {
        folder
            .import(&records, json!({"prompt": template}))
            .data()
            .samples()[0]
            .prompt
            .clone()
    };
    assert_eq!(prompt("<image>object?"), "<image>object?");
    assert_eq!(prompt("{prompt} One word."), "<image>What is it? One word.");
}

#[test]
fn paths_of_another_machine_can_be_cut_down_to_a_folder_here() {
    let folder = Folder::new();
    let records = text(&[problem("cat", "/data/dataset/a.png")]);
    let root = folder.dir.path().to_string_lossy().into_owned();
    let import = folder.import(
        records,
        json!({"strip_prefix": "/data/dataset", "image_root": root}),
    );
    assert_eq!(
        import.data().samples()[0].meta["image"],
        "/data/dataset/a.png"
    );
}

#[test]
fn limit_takes_the_first_records_and_sample_draws_by_seed() {
    let folder = Folder::new();
    let records: Vec<Value> = (0..40)
        .map(|index| problem(&format!("cat{index}"), "a.png"))
        .collect();
    let answers = |with: Value| -> Vec<String> {
        folder
            .import(text(&records), with)
            .data()
            .samples()
            .iter()
            .map(|sample| sample.answer.clone())
            .collect()
    };
    assert_eq!(answers(json!({"limit": 3})), ["cat0", "cat1", "cat2"]);
    let place = |answer: &String| answer[3..].parse::<usize>().unwrap();
    let drawn = answers(json!({"sample": 10, "seed": 1}));
    assert_eq!(drawn.len(), 10);
    assert!(
        drawn.iter().map(place).is_sorted(),
        "the order is the list's"
    );
    assert_eq!(drawn, answers(json!({"sample": 10, "seed": 1})));
    assert_ne!(drawn, answers(json!({"sample": 10, "seed": 2})));
    let more = answers(json!({"sample": 20, "seed": 1}));
    assert!(
        drawn.iter().all(|answer| more.contains(answer)),
        "a larger sample keeps a smaller one"
    );
    assert_eq!(answers(json!({"sample": 99})).len(), 40);
}
