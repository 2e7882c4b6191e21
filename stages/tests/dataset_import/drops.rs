//! Records that cannot be used: their reasons, and that totals balance.

use dcsft_engine::stage::Event;
use serde_json::{Value, json};

use crate::{Folder, problem, text};

#[test]
fn each_broken_record_is_dropped_with_its_reason_and_totals_balance() {
    let folder = Folder::new();
    let ask = |content: &str, images: Value| {
        json!({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "cat"}],
               "images": images})
    };
    let cases = [
        (ask("<image>?", json!(["a.png"])), None),
        (ask("<image>?", json!(["gone.png"])), Some("missing_image")),
        (ask("<image>?", json!(["cut.png"])), Some("broken_image")),
        (ask("<image>?", json!(["cut.jpg"])), Some("broken_image")),
        (ask("<image>?", json!(["cut.webp"])), Some("broken_image")),
        (
            ask("<image>?", json!(["text.jpg"])),
            Some("unsupported_image"),
        ),
        (
            ask("<image>?", json!(["empty.png"])),
            Some("unsupported_image"),
        ),
        (
            ask("<image>?", json!(["https://example.org/a.png"])),
            Some("remote_image"),
        ),
        (ask("<image>?", json!([])), Some("no_image")),
        (ask("<image>?", json!([""])), Some("no_image")),
        (ask("<image><image>?", json!(["a.png", "b.jpg"])), None),
        (ask("?", json!(["a.png"])), None),
        (
            ask("<image>?<image>", json!(["a.png"])),
            Some("placeholder"),
        ),
        (
            json!({"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": " \n"}],
                "images": ["a.png"]}),
            Some("empty_answer"),
        ),
        (
            json!({"messages": [{"role": "user", "content": "<image>?"}, {"role": "assistant", "content": "a"},
                             {"role": "user", "content": "?"}, {"role": "assistant", "content": "b"}],
                "images": ["a.png"]}),
            None,
        ),
        (
            json!({"messages": [{"role": "assistant", "content": "a"}], "images": ["a.png"]}),
            Some("layout"),
        ),
        (
            json!({"messages": "hello", "images": ["a.png"]}),
            Some("layout"),
        ),
        (json!({"images": ["a.png"]}), Some("layout")),
        (ask("<image>?", json!([7])), Some("layout")),
        (json!("a.png"), Some("layout")),
        (ask("<image>?", json!(["b.jpg"])), None),
    ];
    let records: Vec<Value> = cases.iter().map(|(record, _)| record.clone()).collect();
    let import = folder.import(text(&records), json!({}));
    let drops = import.drops();
    for (index, (record, reason)) in cases.iter().enumerate() {
        let found = drops
            .get(&(index as u64))
            .map(|(reason, _)| reason.as_str());
        assert_eq!(found, *reason, "{record}: {drops:?}");
    }
    let summary = import.run.summary();
    let left_out = &summary["left_out"];
    let by_reason: u64 = left_out["reasons"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(summary["read"], cases.len());
    assert_eq!(summary["kept"], 5);
    assert_eq!(left_out["count"], by_reason);
    assert_eq!(left_out["of"], cases.len());
    assert_eq!(left_out["list"], "data/dropped.jsonl");
    assert_eq!(by_reason, cases.len() as u64 - 5);
    let data = import.data();
    assert_eq!(data.len(), 5);
    assert_eq!(data.info().notes["left_out"], *left_out);
    let said = |event: &Event| match event {
        Event::Warning { message } => message.starts_with("16 of 21 records left out: "),
        _ => false,
    };
    assert!(
        import.run.events.iter().any(said),
        "{:?}",
        import.run.events
    );
}

#[test]
fn on_error_fail_fails_at_a_single_bad_record_and_names_it() {
    let folder = Folder::new();
    let records = [problem("cat", "a.png"), problem("dog", "gone.png")];
    let failure = folder
        .import(text(&records), json!({"on_error": "fail"}))
        .run
        .failure();
    assert!(
        failure.contains("list.json: 1 of 2 records cannot be used"),
        "{failure}"
    );
    assert!(
        failure.contains("missing_image (1), first record 1: \"gone.png\" does not exist"),
        "{failure}"
    );
    assert_eq!(
        folder
            .import(text(&records[..1]), json!({"on_error": "fail"}))
            .data()
            .len(),
        1
    );
}

#[test]
fn a_list_without_a_single_usable_record_fails() {
    let folder = Folder::new();
    let failure = folder
        .import(
            text(&[problem("", "a.png"), problem("dog", "gone.png")]),
            json!({}),
        )
        .run
        .failure();
    assert!(
        failure.contains("2 of 2 records cannot be used"),
        "{failure}"
    );
    assert!(
        failure.contains("empty_answer (1)") && failure.contains("missing_image (1)"),
        "{failure}"
    );
}
