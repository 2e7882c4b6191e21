//! `import`: rows of answers from elsewhere, joined with the samples that they answer.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use dcsft_engine::stage::{ArtifactType, Input};
use dcsft_stages::data::{DatasetWriter, Draft, DraftImage, Encoding, Rollouts, Split};
use dcsft_stages::export::{Format, export};
use serde_json::{Value, json};
use support::{Bench, Run, input, json_lines};

/// A set with four samples: `a.png` and `sub/b.png` are asked `What is it?`, `a.png` also `Which colour?`, and one has no
/// image.
fn set(bench: &mut Bench) -> (Input, Vec<String>) {
    let dir = bench.folder();
    let mut writer = DatasetWriter::create(&dir, "pets", Split::Ood).unwrap();
    let image = |shade: u8| DraftImage {
        bytes: Arc::from(vec![shade; 12]),
        format: Encoding::Rgb8,
        width: 2,
        height: 2,
    };
    for (prompt, answer, name, shade) in [
        ("<image>What is it?", "cat", "imgs/a.png", 1),
        ("<image>What is it?", "dog", "imgs/sub/b.png", 2),
        ("<image>Which colour?", "red", "imgs/a.png", 1),
    ] {
        let meta = BTreeMap::from([("image".to_owned(), json!(name))]);
        let draft = Draft::new(prompt.into(), answer.into(), vec![image(shade)], meta);
        writer.push(draft).unwrap();
    }
    let bare = Draft::new("2 + 2?".into(), "4".into(), Vec::new(), BTreeMap::new());
    writer.push(bare).unwrap();
    writer.finish(BTreeMap::new()).unwrap();
    let samples = json_lines(&dir.join("samples.jsonl"));
    let ids = samples
        .iter()
        .map(|sample| sample["id"].as_str().unwrap().to_owned());
    (input("data", &dir), ids.collect())
}

fn list(bench: &mut Bench, rows: &[Value]) -> PathBuf {
    let path = bench.folder().join("answers.jsonl");
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    std::fs::write(&path, lines).unwrap();
    path
}

fn import(bench: &mut Bench, data: &Input, rows: &[Value], with: Value) -> Run {
    let path = list(bench, rows);
    let mut with = with;
    with["path"] = json!(path);
    bench.run("import", with, &[("data", vec![data.clone()])])
}

/// Answers by sample, each with its reward.
fn answers(run: &Run) -> Vec<(String, Vec<(String, f32)>)> {
    run.summary();
    let rollouts = Rollouts::open(&run.output("rollouts")).unwrap();
    let records = rollouts.records.into_iter();
    let answers = records.map(|record| {
        let answers = record.generations.into_iter();
        (
            record.id,
            answers.map(|answer| (answer.text, answer.reward)).collect(),
        )
    });
    answers.collect()
}

#[test]
fn rows_join_by_id_and_by_question_and_image() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let rows = [
        json!({"id": ids[3], "text": "4"}),
        json!({"prompt": "What is it?", "image": "/elsewhere/imgs/sub/b.png", "text": "Dog."}),
        json!({"prompt": "Which  colour?<image>", "images": ["a.png"], "text": "blue", "logprobs": [-0.5, -1]}),
        json!({"prompt": "What is it?", "image": {"bytes": "AQEBAQEBAQEBAQEB"}, "text": "a cat", "finish_reason": "length"}),
    ];
    let run = import(&mut bench, &data, &rows, json!({"reward": "exact"}));
    let expected: Vec<(String, Vec<(String, f32)>)> =
        [("a cat", 0.0), ("Dog.", 1.0), ("blue", 0.0), ("4", 1.0)]
            .into_iter()
            .zip(&ids)
            .map(|((text, reward), id)| (id.clone(), vec![(text.to_owned(), reward)]))
            .collect();
    assert_eq!(answers(&run), expected);
    let rollouts = Rollouts::open(&run.output("rollouts")).unwrap();
    assert_eq!(
        (rollouts.info.set.as_str(), rollouts.info.split),
        ("pets", Split::Ood)
    );
    let [cat, _, blue, _] = &rollouts.records[..] else {
        panic!()
    };
    assert!(!cat.generations[0].finished && blue.generations[0].finished);
    assert_eq!(blue.generations[0].logprobs, [-0.5, -1.0]);
    assert_eq!(run.summary()["pass_rate"], 0.5);
    assert_eq!(run.summary()["left_out"]["count"], 0);
}

#[test]
fn what_matches_nothing_is_left_out_counted_and_listed() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let rows = [
        json!({"id": ids[0], "text": "cat"}),
        json!({"id": "00", "text": "cat"}),
        json!({"prompt": "Who?", "text": "me"}),
        json!({"prompt": "What is it?", "text": "cat"}),
        json!({"prompt": "What is it?", "image": "c.png", "text": "cat"}),
        json!({"prompt": "What is it?", "image": "xa.png", "text": "cat"}),
        json!({"id": ids[0]}),
        json!({"id": ids[0], "text": 3}),
        json!({"id": ids[0], "text": "x", "tokens": [1], "logprobs": [-1, -2]}),
        json!({"id": ids[0], "text": "x", "logprobs": [0.5]}),
        json!(["cat"]),
    ];
    let run = import(&mut bench, &data, &rows, json!({"reward": "exact"}));
    assert_eq!(
        answers(&run),
        [(ids[0].clone(), vec![("cat".to_owned(), 1.0)])]
    );
    let reasons = json!({"ambiguous": 1, "layout": 5, "unknown_sample": 4});
    assert_eq!(run.summary()["left_out"]["reasons"], reasons);
    let lines = json_lines(&run.output("rollouts").join("dropped.jsonl"));
    assert_eq!(lines.len(), 10);
    assert_eq!(
        lines[0],
        json!({"index": 1, "reason": "unknown_sample", "detail": "no sample has the ID 00"})
    );
    assert_eq!(
        lines[2]["detail"],
        "2 samples ask \"What is it?\" alike; name the image too, or the `id`"
    );
    let said = format!("{:?}", run.events);
    assert!(
        said.contains("10 of 11 rows left out: ambiguous 1, layout 5, unknown_sample 4"),
        "{said}"
    );
    assert!(
        said.contains("3 of 4 samples of the set have no answers here"),
        "{said}"
    );
    let run = import(
        &mut bench,
        &data,
        &rows,
        json!({"reward": "exact", "on_error": "fail"}),
    );
    assert!(
        run.failure().contains("row 2: no sample has the ID 00"),
        "{}",
        run.failure()
    );
    let run = import(
        &mut bench,
        &data,
        &rows,
        json!({"reward": "exact", "max_dropped": 0.5}),
    );
    assert!(
        run.failure().contains("`max_dropped: 0.5` allows 5"),
        "{}",
        run.failure()
    );
    let run = import(&mut bench, &data, &rows[1..2], json!({"reward": "exact"}));
    assert!(run.failure().contains(
        "none of the 1 rows is an answer to a sample of `data`; row 1: no sample has the ID 00"
    ));
}

#[test]
fn rewards_come_from_the_row_or_the_stage() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let rows = [
        json!({"id": ids[0], "text": "cat", "reward": 0.25}),
        json!({"id": ids[1], "text": "cat", "reward": true}),
        json!({"id": ids[3], "text": "4"}),
    ];
    let run = import(&mut bench, &data, &rows, json!({}));
    let rewards: Vec<f32> = answers(&run)
        .into_iter()
        .map(|(_, answers)| answers[0].1)
        .collect();
    assert_eq!(rewards, [0.25, 1.0]);
    assert_eq!(
        run.summary()["left_out"]["reasons"],
        json!({"no_reward": 1})
    );
    let run = import(&mut bench, &data, &rows, json!({"reward": "exact"}));
    let rewards: Vec<f32> = answers(&run)
        .into_iter()
        .map(|(_, answers)| answers[0].1)
        .collect();
    assert_eq!(rewards, [1.0, 0.0, 1.0]);
    let said = format!("{:?}", run.events);
    assert!(
        said.contains("the reward of 2 rows says something else"),
        "{said}"
    );
}

#[test]
fn samples_have_as_many_answers_as_is_said() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let answer = |sample: usize, text: &str, generation: Option<u64>| json!({"who": ids[sample], "response": text, "reward": 1, "generation": generation});
    let rows = [
        answer(0, "c", None),
        answer(1, "x", None),
        answer(0, "b", Some(1)),
        answer(0, "a", Some(0)),
        answer(1, "y", None),
    ];
    let fields = json!({"fields": {"id": "who", "text": "response"}});
    let run = import(&mut bench, &data, &rows, fields.clone());
    assert!(
        run.failure()
            .contains("samples have 2 to 3 answers: say `n: 3`"),
        "{}",
        run.failure()
    );
    let texts = |run: &Run| -> Vec<Vec<String>> {
        let all = answers(run).into_iter();
        all.map(|(_, answers)| answers.into_iter().map(|(text, _)| text).collect())
            .collect()
    };
    let mut with = fields.clone();
    with["n"] = json!(2);
    let run = import(&mut bench, &data, &rows, with.clone());
    assert_eq!(texts(&run), [["a", "b"], ["x", "y"]]);
    assert_eq!(run.summary()["left_out"]["reasons"], json!({"surplus": 1}));
    with["n"] = json!(3);
    let run = import(&mut bench, &data, &rows, with.clone());
    assert_eq!(texts(&run), [["a", "b", "c"]]);
    assert_eq!(run.summary()["left_out"]["reasons"], json!({"too_few": 2}));
    with["n"] = json!(4);
    let run = import(&mut bench, &data, &rows, with);
    assert!(
        run.failure()
            .contains("no sample has 4 answers: the most are 3"),
        "{}",
        run.failure()
    );
}

#[test]
fn an_export_comes_back_as_it_was_and_is_binned() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let mut rows = Vec::new();
    for (sample, id) in ids.iter().enumerate() {
        for generation in 0..2 {
            rows.push(json!({
                "id": id, "text": format!("{sample}{generation}"), "reward": u8::from(sample > generation),
                "tokens": [1, 2], "logprobs": [-0.25, -1.5], "finished": generation == 0, "generation": generation,
            }));
        }
    }
    let first = import(&mut bench, &data, &rows, json!({}));
    first.summary();
    for format in [Format::Jsonl, Format::Parquet] {
        let dir = bench.folder().join("out");
        let from = first.output("rollouts");
        export(ArtifactType::Rollouts, &from, &dir, Some(format), None).unwrap();
        let from = input("from", &dir);
        let run = bench.run(
            "import",
            json!({}),
            &[("data", vec![data.clone()]), ("from", vec![from])],
        );
        run.summary();
        assert_eq!(run.files(), first.files(), "{format:?}");
    }
    let rollouts = input("rollouts", &first.output("rollouts"));
    let inputs = [("data", vec![data]), ("rollouts", vec![rollouts])];
    let binned = bench.run("difficulty", json!({}), &inputs);
    let sizes: Vec<usize> = ["easy", "medium", "hard"]
        .map(|bin| json_lines(&binned.output(bin).join("samples.jsonl")).len())
        .into();
    assert_eq!(sizes, [2, 1, 1]);
}

#[test]
fn a_list_has_to_be_named_once() {
    let mut bench = Bench::new();
    let (data, _) = set(&mut bench);
    let inputs = |from: Option<Input>| {
        let mut inputs = vec![("data", vec![data.clone()])];
        inputs.extend(from.map(|from| ("from", vec![from])));
        inputs
    };
    let dir = bench.folder();
    std::fs::write(dir.join("a.jsonl"), "").unwrap();
    std::fs::write(dir.join("b.jsonl"), "").unwrap();
    let from = || Some(input("from", &dir));
    let run = bench.run("import", json!({}), &inputs(None));
    assert!(run.failure().contains("there is no list"));
    let run = bench.run("import", json!({}), &inputs(from()));
    assert!(
        run.failure()
            .contains("name the list with `file`, one of a.jsonl, b.jsonl")
    );
    let run = bench.run("import", json!({"file": "c.jsonl"}), &inputs(from()));
    assert!(
        run.failure()
            .contains("holds no file `c.jsonl`; it holds a.jsonl, b.jsonl")
    );
    let run = bench.run(
        "import",
        json!({"path": dir.join("a.jsonl")}),
        &inputs(from()),
    );
    assert!(run.failure().contains("one of them is enough"));
}

#[test]
fn mistakes_in_the_params_are_found() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("import").unwrap();
    let problem = |with: Value| {
        let found = kind.resolve(&with, std::path::Path::new("/")).unwrap_err();
        format!("{}: {}", found[0].path, found[0].message)
    };
    assert_eq!(problem(json!({"n": 0})), "n: must be at least 1, not 0");
    assert!(
        problem(json!({"fields": {"txt": "a"}}))
            .starts_with("fields.txt: rows have no `txt`; they have id, prompt,")
    );
    assert!(
        problem(json!({"max_dropped": 1.5})).contains("neither a number of samples nor a share")
    );
}

#[test]
fn what_was_skipped_before_is_skipped_here() {
    let mut bench = Bench::new();
    let (data, ids) = set(&mut bench);
    let gone = bench.folder();
    std::fs::write(gone.join("skipped.json"), r#"{"because": "no samples"}"#).unwrap();
    let gone = input("gone", &gone);
    let path = list(
        &mut bench,
        &[json!({"id": ids[0], "text": "cat", "reward": 1})],
    );
    let run = bench.run(
        "import",
        json!({"path": path}),
        &[("data", vec![gone.clone()])],
    );
    assert_eq!(run.summary(), &json!({"skipped": "no samples"}));
    let inputs = [("data", vec![data]), ("from", vec![gone])];
    let run = bench.run("import", json!({}), &inputs);
    assert_eq!(run.summary(), &json!({"skipped": "no samples"}));
}
