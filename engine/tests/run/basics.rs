//! Running, caching, sharing.

use serde_json::json;

use crate::support::Bench;

#[test]
fn a_study_runs_once_and_is_cached_after() {
    let bench = Bench::new();
    let study = bench
        .study()
        .stage("a", "concat", json!({"text": "one,", "tag": "a"}), &[])
        .stage("b", "concat", json!({"text": "two", "tag": "b"}), &["a"])
        .build();
    let first = bench.run(&study);
    assert_eq!((first.executed, first.cached, first.failed.len()), (2, 0, 0), "{:?}", first.failed);
    assert_eq!(bench.text(&study, &first, "b"), "one,two");

    let plan = bench.plan(&study);
    assert!(plan.is_complete());
    let second = bench.run(&study);
    assert_eq!((second.executed, second.cached), (0, 2));
    assert_eq!((bench.runs_of("a"), bench.runs_of("b")), (1, 1));
}
