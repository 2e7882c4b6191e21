//! Parts of results that earlier runs have.

use serde_json::Value;

use crate::support::{Lab, TINY, lines};

/// What the cache says of the rollouts of seed 0, the one that was computed last.
fn rollouts(lab: &Lab) -> Value {
    let records = lines(&lab.ok(&["cache", "ls", "--json"]));
    let rollouts = records
        .into_iter()
        .filter(|record| record["label"] == "rollouts[seed=0]");
    rollouts
        .max_by_key(|record| record["summary"]["n"].as_u64())
        .expect("rollouts")
}

#[test]
fn more_answers_cost_the_new_ones_and_come_out_as_if_all_were_drawn() {
    let lab = Lab::new(TINY);
    lab.ok(&["run", "spec.yaml"]);
    let spared = |record: &Value| {
        let [cost, seconds] = ["cost_seconds", "seconds"].map(|field| record[field].as_f64());
        cost.expect("a number") - seconds.expect("a number")
    };
    let two = rollouts(&lab);
    assert_eq!(spared(&two), 0.0);
    let four = ["--set", "stages.rollouts.with.n=4"];
    lab.ok(&[&["run", "spec.yaml"][..], &four].concat());
    let more = rollouts(&lab);
    assert_eq!(more["summary"]["n"], 4);
    let all = two["cost_seconds"].as_f64().expect("a number");
    assert!((spared(&more) - all).abs() < 1e-6, "{more}");

    let fresh = Lab::new(TINY);
    fresh.ok(&[&["run", "spec.yaml"][..], &four].concat());
    let lock = |lab: &Lab| lab.ok(&[&["lock", "spec.yaml", "--print"][..], &four].concat());
    assert_eq!(lock(&lab), lock(&fresh));
}
