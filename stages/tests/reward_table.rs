//! What each reward takes for right, as a table: `data/rewards.json`, with where each row was met in public.

use dcsft_stages::reward::{Form, Reward};
use serde_json::Value;

/// What a reward says of an answer, in the words of the table.
fn verdict(reward: &Reward, answer: &str, gold: &str) -> Value {
    if reward.check(gold).is_err() {
        return "refuse-gold".into();
    }
    let score = reward.grade(answer, gold);
    if score >= 1.0 {
        return 1.into();
    }
    if Form::new(reward, [gold].into_iter()).fits(answer) {
        0.into()
    } else {
        "malformed".into()
    }
}

/// `{"choice": {}}` in the table is `choice` in a spec.
fn reward(row: &Value) -> Reward {
    let (name, settings) = row["reward"].as_object().unwrap().iter().next().unwrap();
    let bare = settings.as_object().unwrap().is_empty();
    let spec = if bare {
        Value::String(name.clone())
    } else {
        row["reward"].clone()
    };
    serde_json::from_value(spec).unwrap()
}

fn rows() -> Vec<Value> {
    serde_json::from_str(include_str!("data/rewards.json")).unwrap()
}

#[test]
fn every_row_of_the_table_holds() {
    let mut wrong = Vec::new();
    for row in rows() {
        let found = verdict(
            &reward(&row),
            row["answer"].as_str().unwrap(),
            row["gold"].as_str().unwrap(),
        );
        let accepted = match &row["expect"] {
            Value::Array(several) => several.clone(),
            one => vec![one.clone()],
        };
        // Where an answer is only not to be right, being out of form is as good.
        let malformed = found == "malformed" && accepted.contains(&0.into());
        if !accepted.contains(&found) && !malformed {
            wrong.push(format!("{found} for {row}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_right_answer_that_is_accepted_is_right_itself() {
    for row in rows() {
        let (reward, gold) = (reward(&row), row["gold"].as_str().unwrap());
        let extracts = row["reward"].get("regex").is_some();
        if reward.check(gold).is_ok() && !extracts {
            assert_eq!(reward.grade(gold, gold), 1.0, "{row}");
        }
    }
}
