//! What a model is shown of a sample: its system message, and boxes in the frame that the model sees.

mod common;
mod support;

use std::path::{Path, PathBuf};

use common::golden;
use dcsft_engine::stage::{Event, Input};
use dcsft_stages::data::{DatasetWriter, Split};
use serde_json::{Value, json};
use support::{Bench, Run, input, json_lines, small_model};

/// Images of 16 x 16 pixels, of which the micro model sees 8 x 8.
struct Lists {
    dir: tempfile::TempDir,
}

impl Lists {
    fn new() -> Self {
        let lists = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let colour = |x: u32, y: u32| image::Rgb([x as u8 * 15, y as u8 * 15, 80]);
        let plain = image::RgbImage::from_fn(16, 16, colour);
        plain.save(lists.path("plain.png")).unwrap();
        let mirrored = image::RgbImage::from_fn(16, 16, |x, y| colour(15 - x, y));
        mirrored.save(lists.path("mirrored.png")).unwrap();
        lists
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A set of one record.
    fn set(&self, bench: &mut Bench, record: Value, with: Value) -> Input {
        let list = bench.folder().join("list.json");
        std::fs::write(&list, Value::from(vec![record]).to_string()).unwrap();
        let mut params = json!({"path": list, "image_root": self.dir.path()});
        params
            .as_object_mut()
            .unwrap()
            .extend(with.as_object().unwrap().clone());
        let run = bench.run("dataset", params, &[]);
        run.summary();
        input("data", &run.output("data"))
    }
}

fn boxed(answer: &str, image: &str) -> Value {
    json!({"problem": "color?", "solution": answer, "image": image})
}

/// A micro model with these words.
fn model(bench: &mut Bench, words: &[&str]) -> Input {
    let mut params = small_model(0);
    params["words"] = json!(words);
    let run = bench.run("model", params, &[]);
    run.summary();
    input("model", &run.output("model"))
}

fn inputs(model: &Input, data: &Input) -> [(&'static str, Vec<Input>); 2] {
    [("model", vec![model.clone()]), ("data", vec![data.clone()])]
}

fn warnings(run: &Run) -> Vec<&str> {
    let warning = run.events.iter().filter_map(|event| match event {
        Event::Warning { message } => Some(message.as_str()),
        _ => None,
    });
    warning.collect()
}

/// Steps that change nothing: what is logged is the loss of what was shown.
fn still(steps: usize) -> Value {
    json!({"steps": steps, "batch_size": 1, "learning_rate": 1e-12})
}

fn losses(run: &Run) -> Vec<f64> {
    run.summary();
    let lines = json_lines(&run.output("log").join("loss.jsonl"));
    lines
        .iter()
        .map(|line| line["loss"].as_f64().unwrap())
        .collect()
}

#[test]
fn a_right_box_is_kept_in_the_frame_that_the_model_sees() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let model = model(&mut bench, &["color?"]);
    let mut expected = |answer: &str, with: Value| {
        let data = lists.set(&mut bench, boxed(answer, "plain.png"), with);
        let run = bench.run(
            "eval",
            json!({"reward": "iou", "max_new_tokens": 2}),
            &inputs(&model, &data),
        );
        let answers = json_lines(&run.output("evaluation").join("answers.jsonl"));
        let warned = warnings(&run).len();
        (answers[0]["expected"].as_str().unwrap().to_owned(), warned)
    };
    for (frame, answer) in [
        ("original", "[2, 4, 8, 12]"),
        ("unit", "[0.125, 0.25, 0.5, 0.75]"),
        ("thousandths", "[125, 250, 500, 750]"),
        ("resized", "[1, 2, 4, 6]"),
    ] {
        let found = expected(answer, json!({"boxes": {"frame": frame}}));
        assert_eq!(found, ("[1, 2, 4, 6]".to_owned(), 0), "{frame}");
    }
    let (text, warned) = expected("[2, 4, 8, 12]", json!({}));
    assert_eq!((text.as_str(), warned), ("[2, 4, 8, 12]", 1));
}

#[test]
fn loose_boxes_are_warned_of_where_the_image_is_resized_and_never_moved_by_chance() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let word = "[2, 4, 8, 12]";
    let model = model(&mut bench, &["color?", word]);
    let data = lists.set(&mut bench, boxed(word, "plain.png"), json!({}));
    let run = bench.run("sft", still(1), &inputs(&model, &data));
    let found = warnings(&run);
    assert!(
        found[0].contains("1 of 1 right answers are boxes on images that are resized")
            && found[0].contains("16 x 16 is shown as 8 x 8"),
        "{found:?}"
    );
    assert_eq!(run.summary()["warnings"][0], found[0]);
    let with = |augment: Value| {
        let mut with = still(1);
        with["augment"] = augment;
        with
    };
    let failure = bench
        .run("sft", with(json!({"flip": true})), &inputs(&model, &data))
        .failure();
    assert!(
        failure.contains("augment.flip: 1 of 1 right answers are boxes"),
        "{failure}"
    );
    let failure = bench
        .run("sft", with(json!({"shift": 1})), &inputs(&model, &data))
        .failure();
    assert!(failure.contains("augment.shift"), "{failure}");
}

#[test]
fn a_flip_mirrors_the_box_with_the_image() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let words = ["color?", "[1, 2, 4, 6]", "[4, 2, 7, 6]"];
    let model = model(&mut bench, &words);
    let boxes = json!({"boxes": {"frame": "original"}});
    let plain = lists.set(
        &mut bench,
        boxed("[2, 4, 8, 12]", "plain.png"),
        boxes.clone(),
    );
    let mirrored = lists.set(&mut bench, boxed("[8, 4, 14, 12]", "mirrored.png"), boxes);
    let mut loss =
        |data: &Input, with: Value| losses(&bench.run("sft", with, &inputs(&model, data)));
    let mut flip = still(20);
    flip["augment"] = json!({"flip": true});
    let shown = loss(&plain, flip);
    let either = [loss(&plain, still(1))[0], loss(&mirrored, still(1))[0]];
    assert!(
        (either[0] - either[1]).abs() > 1e-4,
        "{either:?} cannot be told apart"
    );
    let is = |loss: f64, wanted: f64| (loss - wanted).abs() < 1e-5;
    assert!(
        shown
            .iter()
            .all(|loss| is(*loss, either[0]) || is(*loss, either[1])),
        "{shown:?} {either:?}"
    );
    for wanted in either {
        assert!(
            shown.iter().any(|loss| is(*loss, wanted)),
            "{shown:?} {either:?}"
        );
    }
}

#[test]
fn sides_that_a_flip_turns_round_are_warned_of() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let model = model(&mut bench, &["color?"]);
    let data = lists.set(&mut bench, boxed("left", "plain.png"), json!({}));
    let mut flip = still(1);
    flip["augment"] = json!({"flip": true});
    let run = bench.run("sft", flip, &inputs(&model, &data));
    assert!(warnings(&run)[0].contains("1 of 1 questions or answers say left or right"));
}

#[test]
fn the_micro_model_refuses_a_system_message() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let model = model(&mut bench, &["color?"]);
    let mut record = boxed("red", "plain.png");
    record["system"] = json!("you are a vet");
    let data = lists.set(&mut bench, record, json!({}));
    let run = bench.run("sft", still(1), &inputs(&model, &data));
    assert!(
        run.failure()
            .contains("none of the 1 samples fits the model"),
        "{}",
        run.failure()
    );
    let failed = bench
        .run("eval", json!({"max_new_tokens": 2}), &inputs(&model, &data))
        .failure();
    assert!(failed.contains("no place for a system message"), "{failed}");
}

#[test]
fn an_empty_set_fails_or_skips_the_stage_and_all_that_read_it() {
    let mut bench = Bench::new();
    let model = model(&mut bench, &["color?"]);
    let dir = bench.folder();
    DatasetWriter::create(&dir, "hard", Split::Id)
        .unwrap()
        .finish(Default::default())
        .unwrap();
    let empty = input("bins", &dir);
    let failure = bench
        .run("sft", still(1), &inputs(&model, &empty))
        .failure();
    assert!(failure.contains("no samples"), "{failure}");
    let mut skip = still(1);
    skip["on_empty"] = json!("skip");
    let run = bench.run("sft", skip, &inputs(&model, &empty));
    assert_eq!(
        *run.summary(),
        json!({"skipped": "`bins.bins` has no samples"})
    );
    assert_eq!(warnings(&run), ["skipped: `bins.bins` has no samples"]);
    let skipped = input("sft", &run.output("model"));
    let full = bench.colours("val", 0, 4, |_, name| name.to_owned());
    let evaluated = bench.run("eval", json!({}), &inputs(&skipped, &full));
    assert_eq!(evaluated.summary()["skipped"], "`bins.bins` has no samples");
    let evals = vec![input("eval", &evaluated.output("evaluation"))];
    let report = bench.run("report", json!({}), &[("evals", evals)]);
    assert_eq!(report.summary()["rows"], 0);
    let said = report.summary()["warnings"][0].as_str().unwrap();
    assert!(said.contains("the arm eval was skipped"), "{said}");
}

/// The golden checkpoint, which sees images in multiples of 28 pixels.
fn qwen(bench: &mut Bench, checkpoint: &Path) -> Input {
    let run = bench.run(
        "model",
        json!({"kind": "qwen2_5_vl", "path": checkpoint}),
        &[],
    );
    run.summary();
    input("model", &run.output("model"))
}

#[test]
fn golden_qwen_is_told_the_system_message() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let model = qwen(&mut bench, &checkpoint);
    let mut loss = |system: Value| {
        let mut record = json!({"problem": "What is it?", "solution": "cat", "image": "plain.png"});
        record["system"] = system;
        let data = lists.set(&mut bench, record, json!({}));
        losses(&bench.run("sft", still(1), &inputs(&model, &data)))[0]
    };
    let default = loss(json!(null));
    // What the template writes by itself.
    assert!((loss(json!("You are a helpful assistant.")) - default).abs() < 1e-6);
    assert!((loss(json!("You are a vet. Answer in French.")) - default).abs() > 1e-3);
}

/// QwenLM/Qwen3-VL#1161, modelscope/ms-swift#3407, om-ai-lab/VLM-R1#198
#[test]
fn golden_qwen_learns_boxes_in_the_pixels_that_it_sees() {
    let (mut bench, lists) = (Bench::new(), Lists::new());
    let Some(checkpoint) = golden("ckpt") else {
        return;
    };
    let model = qwen(&mut bench, &checkpoint);
    let large = image::RgbImage::from_pixel(1120, 840, image::Rgb([200, 60, 60]));
    large.save(lists.path("large.png")).unwrap();
    let mut set = |answer: &str, with: Value| {
        lists.set(
            &mut bench,
            json!({"problem": "Where?", "solution": answer, "image": "large.png"}),
            with,
        )
    };
    let moved = set(
        "[560, 420, 1120, 840]",
        json!({"boxes": {"frame": "original"}}),
    );
    let written = set(
        "[126, 84, 252, 168]",
        json!({"boxes": {"frame": "resized"}}),
    );
    let mut loss = |data: &Input| losses(&bench.run("sft", still(1), &inputs(&model, data)))[0];
    assert_eq!(loss(&moved), loss(&written));
    let run = bench.run(
        "eval",
        json!({"reward": "iou", "max_new_tokens": 1}),
        &inputs(&model, &moved),
    );
    let answers = json_lines(&run.output("evaluation").join("answers.jsonl"));
    assert_eq!(answers[0]["expected"], "[126, 84, 252, 168]");
}
