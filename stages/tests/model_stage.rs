//! `model` as a stage.

mod support;

use std::path::Path;

use serde_json::json;
use support::{Bench, small_model};

#[test]
fn weights_are_a_function_of_sizes_and_seed() {
    let mut bench = Bench::new();
    let mut files = |seed| {
        let run = bench.run("model", small_model(seed), &[]);
        assert!(run.summary()["parameters"].as_u64().unwrap() > 1000);
        run.files()
    };
    assert_eq!(files(1), files(1));
    assert_ne!(files(1), files(2));
}

#[test]
fn the_default_is_the_micro_worlds_model() {
    let mut bench = Bench::new();
    let run = bench.run("model", json!({"kind": "micro"}), &[]);
    // With the 784 of the auxiliary head, which pre-training adds, these are the 86,688 of the world's recipe.
    assert_eq!(run.summary()["parameters"], 86_688 - (48 * 16 + 16));
}

#[test]
fn sizes_that_do_not_fit_together_are_refused_with_the_reason() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("model").unwrap();
    let problem = |with| {
        kind.resolve(&with, Path::new(""))
            .unwrap_err()
            .remove(0)
            .message
    };
    assert!(
        problem(json!({"image_size": 10, "patch_size": 4}))
            .contains("patch_size must divide image_size")
    );
    assert!(problem(json!({"image_siz": 16})).contains("image_siz"));
    assert!(problem(json!({"kind": "huge"})).contains("huge"));
}
