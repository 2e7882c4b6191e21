//! Rewards and the partition rule against the reference values of the paper's public code.

mod common;

use common::{golden, read_json};
use dcsft_stages::difficulty::published::{Answers, Partition, PublishedRun, partition, sft_list};
use dcsft_stages::reward::{Iou, Reward, RewardError, iou};
use serde_json::Value;

fn rows<'a>(cases: &'a Value, list: &str) -> &'a [Value] {
    let rows = cases[list]
        .as_array()
        .unwrap_or_else(|| panic!("no list `{list}`"));
    assert!(!rows.is_empty(), "`{list}` is empty");
    rows
}

fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field]
        .as_str()
        .unwrap_or_else(|| panic!("{row} has no text `{field}`"))
}

#[test]
fn golden_exact_rewards_are_those_of_the_reference() {
    let Some(path) = golden("scoring/exact.json") else {
        return;
    };
    for row in rows(&read_json(&path), "rows") {
        let reward = Reward::Exact.score(text(row, "output"), text(row, "solution"));
        assert_eq!(f64::from(reward), row["reward"].as_f64().unwrap(), "{row}");
    }
}

/// What the reference raises, by the name of its exception.
fn exception(error: &RewardError) -> &'static str {
    match error {
        RewardError::EmptyUnion(..) => "ZeroDivisionError",
        RewardError::NoBox(_) => "AttributeError",
        other => panic!("{other}"),
    }
}

#[test]
fn golden_box_overlaps_are_those_of_the_reference() {
    let Some(path) = golden("scoring/iou.json") else {
        return;
    };
    for row in rows(&read_json(&path), "rows") {
        let found = iou(text(row, "output"), text(row, "solution"));
        match (&found, row["iou"].as_f64()) {
            (Ok(found), Some(expected)) => assert_eq!(*found, expected, "{row}"),
            (Err(error), None) => assert_eq!(row["iou"]["error"], exception(error), "{row}"),
            _ => panic!("{row}: got {found:?}"),
        }
    }
}

#[test]
fn golden_box_rewards_are_those_of_the_reference_and_zero_where_it_raises() {
    let Some(path) = golden("scoring/iou.json") else {
        return;
    };
    let reward = Reward::Iou(Iou::default());
    for row in rows(&read_json(&path), "rows") {
        let found = f64::from(reward.score(text(row, "output"), text(row, "solution")));
        assert_eq!(
            found,
            row["correct_test_dp"].as_f64().unwrap_or(0.0),
            "{row}"
        );
    }
}

#[test]
fn golden_boxes_given_as_lists_of_numbers_score_like_their_text() {
    let Some(path) = golden("scoring/iou.json") else {
        return;
    };
    for row in rows(&read_json(&path), "ground_truth_as_list") {
        let found = iou(text(row, "output"), &row["solution_list"].to_string());
        assert_eq!(found, Ok(row["iou"].as_f64().unwrap()), "{row}");
    }
}

/// A folder of the published partition: its runs, how answers are written, and what was expected.
fn published(folder: &str) -> Option<(Vec<PublishedRun>, Answers, Value, std::path::PathBuf)> {
    let dir = golden(&format!("scoring/{folder}"))?;
    let expected = read_json(&dir.join("expected.json"));
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with("rollout_")
        })
        .collect();
    files.sort();
    let runs = files
        .iter()
        .map(|path| serde_json::from_value(read_json(path)).unwrap())
        .collect();
    // The script tells the tasks apart by the name of its input.
    let boxes = text(&expected, "file_pre").contains("ref");
    Some((
        runs,
        if boxes {
            Answers::WholeBoxes
        } else {
            Answers::Text
        },
        expected,
        dir,
    ))
}

fn check_partition(folder: &str) {
    let Some((runs, answers, expected, dir)) = published(folder) else {
        return;
    };
    let Partition { easy, medium, hard } = partition(&runs).unwrap();
    for (name, found) in [("easy", easy), ("middle", medium), ("hard", hard)] {
        let indices: Vec<usize> =
            serde_json::from_value(expected["partition"][name]["indices"].clone()).unwrap();
        assert_eq!(found, indices, "{name}");
        let bytes = std::fs::read_to_string(dir.join(format!("{name}_sft.json"))).unwrap();
        assert_eq!(
            sft_list(&runs[0], &found, answers).unwrap(),
            bytes,
            "{name}"
        );
    }
}

#[test]
fn golden_partition_of_the_classification_task_is_the_published_one() {
    check_partition("partition_cls");
}

#[test]
fn golden_partition_of_the_grounding_task_is_the_published_one() {
    check_partition("partition_ref");
}
