//! Lists in their layouts, and files that are none.

use std::path::Path;

use dcsft_stages::data::{Dataset, Encoding};
use serde_json::json;

use crate::support::Bench;
use crate::{Folder, picture, problem, resolve, text};

#[test]
fn the_official_lists_keep_order_prompt_answer_and_image_bytes() {
    let folder = Folder::new();
    let records = [
        problem("cat", "a.png"),
        problem("dog", "b.jpg"),
        problem("cow", "c.webp"),
    ];
    let import = folder.import(text(&records), json!({"set": "pets", "split": "ood"}));
    let data = import.data();
    assert_eq!(data.info().set, "pets");
    let answers: Vec<&str> = data
        .samples()
        .iter()
        .map(|sample| sample.answer.as_str())
        .collect();
    assert_eq!(answers, ["cat", "dog", "cow"]);
    for (sample, (name, format)) in data.samples().iter().zip([
        ("a.png", Encoding::Png),
        ("b.jpg", Encoding::Jpeg),
        ("c.webp", Encoding::Webp),
    ]) {
        assert_eq!(sample.prompt, "<image>What is it?");
        assert_eq!(sample.images[0].format, format);
        assert_eq!(
            data.image_bytes(&sample.images[0]).unwrap(),
            std::fs::read(folder.path(name)).unwrap()
        );
        let image = data.image(sample).unwrap();
        assert_eq!((image.width, image.height), (32, 24));
        if format != Encoding::Jpeg {
            assert_eq!(
                image.pixels[..],
                picture().into_rgb8().into_raw()[..],
                "{name}"
            );
        }
    }
}

#[test]
fn every_layout_gives_the_same_sample() {
    let folder = Folder::new();
    let layouts = [
        (
            "problem",
            json!({"problem": "What is it?", "solution": "cat", "image": "a.png"}),
        ),
        (
            "problem",
            json!({"problem": "<image>What is it?", "solution": "cat", "images": ["a.png"]}),
        ),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": "<image>What is it?"},
                                {"role": "assistant", "content": "cat"}], "images": ["a.png"]}),
        ),
        (
            "messages",
            json!({"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
                                {"role": "assistant", "content": [{"type": "text", "text": "cat"}]}],
                   "images": [{"path": "a.png"}]}),
        ),
        (
            "query",
            json!({"query": "<image>What is it?", "response": "cat", "images": ["a.png"]}),
        ),
        (
            "sharegpt",
            json!({"conversations": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "cat"}],
                   "image": "a.png"}),
        ),
        (
            "alpaca",
            json!({"instruction": "<image>What is it?", "input": "", "output": "cat", "images": ["a.png"]}),
        ),
    ];
    let mut ids = Vec::new();
    for (layout, record) in layouts {
        let import = folder.import(text(std::slice::from_ref(&record)), json!({}));
        assert_eq!(import.run.summary()["layout"], layout, "{record}");
        let given = folder.import(text(&[record]), json!({"layout": layout}));
        assert_eq!(import.data().samples(), given.data().samples());
        ids.push(import.data().samples()[0].id.clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[test]
fn json_lines_are_read_like_a_list_and_a_bad_line_is_one_drop() {
    let folder = Folder::new();
    let good = problem("cat", "a.png").to_string();
    let mut bytes = format!("\u{feff}{good}\r\n\n{{\"problem\": \n{good}\n").into_bytes();
    bytes.extend(b"{\"problem\": \"\xff\"}\n");
    let import = folder.import(bytes, json!({}));
    assert_eq!(import.data().len(), 2);
    let drops = import.drops();
    assert_eq!(drops[&1].0, "syntax");
    assert!(drops[&1].1.starts_with("line 3: "), "{}", drops[&1].1);
    assert_eq!(drops[&3], ("not_utf8".into(), "line 5 is not UTF-8".into()));
}

#[test]
fn a_file_that_is_no_list_is_a_mistake_of_the_spec_with_the_place_in_the_file() {
    let folder = Folder::new();
    let refusal = |bytes: &[u8]| {
        resolve(
            json!({"path": folder.list("bad.json", bytes)}),
            Path::new("/"),
        )
        .unwrap_err()
    };
    assert!(refusal(b"").ends_with("the file is empty"));
    assert!(refusal(b" \n").ends_with("the file is empty"));
    assert!(refusal(b"[]").ends_with("the list has no records"));
    assert!(refusal(b"[\n {\"problem\": \"x\"},\n oops\n]").contains("line 3 column 2"));
    assert!(refusal(b"[\n\"\xff\"]").contains("line 2 is not UTF-8"));
    assert!(refusal(b"id,answer\n1,cat").contains("neither a JSON list of records nor JSON lines"));
    for spread in [
        "{\n \"problem\": 1\n}",
        "{\n \"data\": [\n  {\n   \"images\": [\n    \"a.png\"\n   ]\n  }\n ]\n}",
    ] {
        let found = refusal(spread.as_bytes());
        assert!(
            found.contains("neither a JSON list of records nor JSON lines (line 1:"),
            "{found}"
        );
    }
    let unknown = refusal(b"[{\"text\": \"x\", \"label\": 3}]");
    assert!(
        unknown.contains("the first record has the fields text, label"),
        "{unknown}"
    );
    assert!(unknown.contains("problem, solution, image"), "{unknown}");
    let folder_given = resolve(json!({"path": folder.dir.path()}), Path::new("/")).unwrap_err();
    assert!(folder_given.contains("is a folder"), "{folder_given}");
}

#[test]
fn numbers_and_boxes_are_answers_too() {
    let folder = Folder::new();
    let mut records = [problem("", "a.png"), problem("", "a.png")];
    records[0]["solution"] = json!([10, 20.5, 30, 40]);
    records[1]["solution"] = json!(12);
    let data = folder.import(text(&records), json!({})).data();
    assert_eq!(data.samples()[0].answer, "[10, 20.5, 30, 40]");
    assert_eq!(data.samples()[1].answer, "12");
}

#[test]
fn other_fields_are_kept_and_do_not_change_the_id() {
    let folder = Folder::new();
    let mut record = problem("cat", "a.png");
    let plain = folder
        .import(text(std::slice::from_ref(&record)), json!({}))
        .data()
        .samples()[0]
        .clone();
    record["source"] = json!({"split": 3});
    let rich = folder.import(text(&[record]), json!({})).data().samples()[0].clone();
    assert_eq!(rich.meta["source"], json!({"split": 3}));
    assert_eq!(rich.id, plain.id);
}

#[test]
fn photographs_in_the_official_layout_are_taken_whole() {
    let Some(folder) = crate::common::shared("data/photos") else {
        return;
    };
    for name in ["cold_start", "ood_sketch"] {
        let path = folder.join(format!("{name}.json"));
        let records = crate::common::read_json(&path).as_array().unwrap().len();
        let mut bench = Bench::new();
        let run = bench.run("dataset", json!({"path": path, "set": name}), &[]);
        assert_eq!(run.summary()["kept"], records, "{name}: {}", run.summary());
        let data = Dataset::open(&run.output("data")).unwrap();
        let image = data.image(&data.samples()[0]).unwrap();
        assert_eq!((image.width, image.height), (32, 32));
    }
}

#[test]
fn the_published_lists_parse_and_miss_nothing_but_their_images() {
    let Some(folder) = crate::common::shared("data/dcsft-imagenet") else {
        return;
    };
    let mut lists = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let records = crate::common::read_json(&path).as_array().unwrap().len();
        let failure = Bench::new()
            .run("dataset", json!({"path": path}), &[])
            .failure();
        assert!(
            failure.contains(&format!("{records} of {records} records cannot be used")),
            "{failure}"
        );
        assert!(
            failure.contains(&format!("missing_image ({records})")),
            "{failure}"
        );
        lists += 1;
    }
    assert!(lists > 0, "the folder has no lists");
}

#[test]
fn a_first_line_that_is_no_json_is_one_drop_too() {
    let folder = Folder::new();
    let lines = format!("oops\n{}\n", problem("cat", "a.png"));
    let import = folder.import(lines, json!({}));
    assert_eq!(import.data().len(), 1);
    let (reason, detail) = &import.drops()[&0];
    assert_eq!(reason, "syntax");
    assert!(detail.starts_with("line 1: "), "{detail}");
}
