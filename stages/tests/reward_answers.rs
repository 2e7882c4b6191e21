//! Rewards as specs write them, and what they accept.

use dcsft_stages::reward::{Reward, RewardError, Tolerance};
use serde_json::{Value, json};

fn reward(spec: Value) -> Reward {
    serde_json::from_value(spec).unwrap_or_else(|error| panic!("{error}"))
}

fn refusal(spec: Value) -> String {
    serde_json::from_value::<Reward>(spec)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_reward_is_a_name_or_a_name_with_settings() {
    assert_eq!(reward(json!("exact")), Reward::Exact);
    assert_eq!(
        reward(json!("iou")),
        reward(json!({"iou": {"threshold": 0.5}}))
    );
    assert_eq!(
        reward(json!("numeric")),
        Reward::Numeric(Tolerance::default())
    );
    assert_eq!(
        reward(json!({"regex": {"pattern": "a(b)"}})).name(),
        "regex"
    );
}

#[test]
fn a_reward_reads_back_what_it_writes() {
    for spec in [
        json!("exact"),
        json!("choice"),
        json!({"iou": {"threshold": 0.7}}),
        json!({"regex": {"pattern": "<answer>(.*?)</answer>"}}),
        json!({"numeric": {"tolerance": 0.5, "relative": 0.0}}),
    ] {
        assert_eq!(serde_json::to_value(reward(spec.clone())).unwrap(), spec);
    }
}

#[test]
fn a_reward_that_cannot_be_is_refused_with_what_can() {
    assert!(
        refusal(json!("exakt"))
            .contains("expected one of `exact`, `iou`, `regex`, `choice`, `numeric`")
    );
    assert!(refusal(json!("regex")).contains("needs a pattern"));
    assert!(refusal(json!({"regex": {"pattern": "("}})).contains("not a regular expression"));
    assert!(refusal(json!({"iou": {"treshold": 0.5}})).contains("treshold"));
    let problems = reward(json!({"iou": {"threshold": 1.5}})).problems();
    assert_eq!(problems[0].0, "iou.threshold");
    assert_eq!(
        reward(json!({"numeric": {"tolerance": -1}})).problems()[0].0,
        "numeric.tolerance"
    );
}

#[test]
fn a_spec_is_told_what_its_reward_comes_nearest_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spec.yaml");
    for (written, message, help) in [
        (
            "exakt",
            "`reward` of `eval` is one of `exact`, `iou`, `choice`, `numeric`, not the text \"exakt\"",
            "did you mean `exact`?",
        ),
        (
            "{iuo: {threshold: 0.5}}",
            "`reward` of `eval` has no `iuo`",
            "did you mean `iou`?",
        ),
        (
            "{iou: {treshold: 0.5}}",
            "`reward.iou` of `eval` has no `treshold`",
            "did you mean `threshold`?",
        ),
        (
            "{numeric: {tolerance: many}}",
            "`reward.numeric.tolerance` of `eval` takes a number, not the text \"many\"",
            "",
        ),
    ] {
        let spec = format!(
            "dcsft: 1\nname: x\nstages:\n  world: {{uses: shapes, with: {{}}}}\n  m: {{uses: model, with: {{kind: micro}}}}\n  \
             e: {{uses: eval, with: {{model: \"${{m}}\", data: \"${{world.val}}\", reward: {written}}}}}\n"
        );
        std::fs::write(&path, spec).unwrap();
        let found = dcsft_engine::spec::load(&path, &[], &dcsft_stages::registry())
            .unwrap_err()
            .to_json();
        assert_eq!(found[0]["message"], message);
        assert_eq!(found[0]["help"].as_str().unwrap_or_default(), help);
        assert!(found.as_array().unwrap().len() == 1, "{found}");
    }
}

#[test]
fn the_threshold_of_boxes_counts_as_reached_when_met() {
    let half = ("[10, 20, 60, 220]", "[10, 20, 110, 220]");
    assert_eq!(
        reward(json!({"iou": {"threshold": 0.5}})).score(half.0, half.1),
        1.0
    );
    assert_eq!(
        reward(json!({"iou": {"threshold": 0.51}})).score(half.0, half.1),
        0.0
    );
}

#[test]
fn a_pattern_takes_its_first_group_or_the_whole_match() {
    let tagged = reward(json!({"regex": {"pattern": "<answer>(.*?)</answer>"}}));
    assert_eq!(tagged.score("so <answer> Cat. </answer>", "cat"), 1.0);
    assert_eq!(tagged.score("cat", "cat"), 0.0);
    assert_eq!(
        tagged.score("<answer>dog</answer> <answer>cat</answer>", "cat"),
        0.0
    );
    let digits = reward(json!({"regex": {"pattern": "[0-9]+"}}));
    assert_eq!(digits.score("it is 42", "42"), 1.0);
}

#[test]
fn choices_are_right_by_letter_or_by_text() {
    let choice = reward(json!("choice"));
    for right in [
        "B",
        "b",
        "(B)",
        "B.",
        "B. a dog",
        "B) a dog",
        "The answer is B.",
        "Answer: (B)",
        "a dog",
        " A Dog. ",
    ] {
        assert_eq!(choice.score(right, "B. a dog"), 1.0, "{right}");
    }
    for wrong in [
        "A",
        "C. a dog",
        "The answer is A, not B",
        "dog",
        "",
        "a cat",
        "Both",
    ] {
        assert_eq!(choice.score(wrong, "B. a dog"), 0.0, "{wrong}");
    }
    assert_eq!(choice.score("B. whatever", "B"), 1.0);
    assert_eq!(choice.score("", "B"), 0.0);
}

#[test]
fn the_last_number_counts_and_tolerances_are_met_at_their_bound() {
    let exact = reward(json!("numeric"));
    for right in [
        "12",
        "The sum is 12.",
        "7 + 5 = 12",
        "12.0",
        "1.2e1",
        "$12",
        "3-12",
    ] {
        assert_eq!(exact.score(right, "12"), 1.0, "{right}");
    }
    for wrong in ["-12", "12 or 13", "", "twelve", "120"] {
        assert_eq!(exact.score(wrong, "12"), 0.0, "{wrong}");
    }
    assert_eq!(exact.score("1,234,567", "1234567"), 1.0);
    assert_eq!(
        reward(json!({"numeric": {"tolerance": 0.5}})).score("12.5", "12"),
        1.0
    );
    assert_eq!(
        reward(json!({"numeric": {"tolerance": 0.5}})).score("12.75", "12"),
        0.0
    );
    assert_eq!(
        reward(json!({"numeric": {"relative": 0.25}})).score("-15", "-12"),
        1.0
    );
    assert_eq!(
        reward(json!({"numeric": {"relative": 0.25}})).score("15.5", "12"),
        0.0
    );
}

#[test]
fn an_answer_that_can_never_be_right_is_found_before_it_is_used() {
    assert_eq!(
        reward(json!("exact")).check("  "),
        Err(RewardError::NoAnswer)
    );
    assert_eq!(
        reward(json!("iou")).check("left"),
        Err(RewardError::NoBox("left".into()))
    );
    assert_eq!(
        reward(json!("numeric")).check("many"),
        Err(RewardError::NoNumber("many".into()))
    );
    assert_eq!(
        reward(json!("choice")).check(" . "),
        Err(RewardError::NoOption(" . ".into()))
    );
    assert_eq!(reward(json!("iou")).check("[1, 2, 3, 4]"), Ok(()));
}
