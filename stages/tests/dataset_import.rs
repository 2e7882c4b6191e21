//! The stage `dataset`: what it takes, what it drops and why, and that totals balance.

mod common;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::kind::ResolvedParams;
use dcsft_stages::data::{Dataset, Encoding};
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageFormat, Luma, LumaA, Rgb, RgbImage};
use serde_json::{Value, json};
use support::{Bench, Run, json_lines, on_threads};

/// A folder with a good image of each format, and broken ones.
struct Folder {
    dir: tempfile::TempDir,
}

impl Folder {
    fn new() -> Self {
        let folder = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        for (name, format) in [
            ("a.png", ImageFormat::Png),
            ("b.jpg", ImageFormat::Jpeg),
            ("c.webp", ImageFormat::WebP),
        ] {
            picture()
                .save_with_format(folder.path(name), format)
                .unwrap();
        }
        let cut = |from: &str, to: &str, keep: usize| {
            let bytes = std::fs::read(folder.path(from)).unwrap();
            std::fs::write(folder.path(to), &bytes[..bytes.len() * keep / 100]).unwrap();
        };
        cut("a.png", "cut.png", 60);
        cut("b.jpg", "cut.jpg", 60);
        cut("c.webp", "cut.webp", 60);
        std::fs::write(folder.path("text.jpg"), "not an image").unwrap();
        std::fs::write(folder.path("empty.png"), "").unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn list(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_string_lossy().into_owned()
    }

    fn import(&self, text: impl AsRef<[u8]>, with: Value) -> Import {
        let mut params = json!({"path": self.list("list.json", text)});
        for (name, value) in with.as_object().unwrap() {
            params[name] = value.clone();
        }
        let mut bench = Bench::new();
        let run = bench.run("dataset", params, &[]);
        Import { _bench: bench, run }
    }
}

fn picture() -> DynamicImage {
    DynamicImage::ImageRgb8(RgbImage::from_fn(32, 24, |x, y| {
        Rgb([x as u8 * 8, y as u8 * 8, (x * y) as u8])
    }))
}

struct Import {
    _bench: Bench,
    run: Run,
}

impl Import {
    fn data(&self) -> Dataset {
        self.run.summary();
        Dataset::open(&self.run.output("data")).unwrap()
    }

    /// Reasons by index of the record.
    fn drops(&self) -> BTreeMap<u64, (String, String)> {
        let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
        json_lines(&self.run.output("data").join("dropped.jsonl"))
            .iter()
            .map(|line| {
                (
                    line["index"].as_u64().unwrap(),
                    (text(line, "reason"), text(line, "detail")),
                )
            })
            .collect()
    }
}

fn problem(solution: &str, image: &str) -> Value {
    json!({"problem": "What is it?", "solution": solution, "image": image})
}

fn text(records: &[Value]) -> String {
    serde_json::to_string_pretty(records).unwrap()
}

fn resolve(params: Value, root: &Path) -> Result<ResolvedParams, String> {
    let kinds = dcsft_stages::registry();
    kinds
        .get("dataset")
        .unwrap()
        .resolve(&params, root)
        .map_err(|problems| {
            problems
                .iter()
                .map(|problem| format!("{}: {}", problem.path.join("."), problem.message))
                .collect()
        })
}

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
        (
            ask("<image><image>?", json!(["a.png", "b.jpg"])),
            Some("several_images"),
        ),
        (ask("?", json!(["a.png"])), Some("placeholder")),
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
            Some("several_turns"),
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
    let by_reason: u64 = summary["dropped_by_reason"]
        .as_object()
        .unwrap()
        .values()
        .map(|n| n.as_u64().unwrap())
        .sum();
    assert_eq!(summary["read"], cases.len());
    assert_eq!(summary["kept"], 2);
    assert_eq!(summary["dropped"], by_reason);
    assert_eq!(by_reason, cases.len() as u64 - 2);
    let data = import.data();
    assert_eq!(data.len(), 2);
    assert_eq!(
        data.info().notes["dropped_by_reason"],
        summary["dropped_by_reason"]
    );
}

#[test]
fn a_file_that_breaks_off_is_broken_wherever_it_does() {
    let folder = Folder::new();
    let noisy = RgbImage::from_fn(96, 96, |x, y| {
        Rgb([(x * 37 + y * 91) as u8, (x * y) as u8, (x ^ y) as u8])
    });
    for (name, format) in [
        ("n.png", ImageFormat::Png),
        ("n.jpg", ImageFormat::Jpeg),
        ("n.webp", ImageFormat::WebP),
    ] {
        DynamicImage::ImageRgb8(noisy.clone())
            .save_with_format(folder.path(name), format)
            .unwrap();
        let bytes = std::fs::read(folder.path(name)).unwrap();
        for keep in [30, 60, 90, 98] {
            std::fs::write(folder.path(name), &bytes[..bytes.len() * keep / 100]).unwrap();
            let import = folder.import(
                text(&[problem("cat", name), problem("cat", "a.png")]),
                json!({}),
            );
            assert_eq!(import.drops()[&0].0, "broken_image", "{keep}% of {name}");
        }
    }
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
    assert!(
        refusal(b"{\n \"problem\": 1\n}")
            .contains("neither a JSON list of records nor JSON lines (line 1:")
    );
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
fn params_that_contradict_each_other_are_refused() {
    let refusal = |mut with: Value| {
        with["path"] = json!("missing.json");
        resolve(with, Path::new("/")).unwrap_err()
    };
    assert!(refusal(json!({"prompt": "object?"})).starts_with("prompt: \"object?\" has 0 <image>"));
    assert!(refusal(json!({"prompt": "<image>{prompt}"})).starts_with("prompt: "));
    assert!(refusal(json!({"limit": 3, "sample": 4})).starts_with("sample: "));
    assert!(refusal(json!({"limit": 0})).starts_with("limit: "));
    assert!(refusal(json!({"layout": "csv"})).contains("messages"));
}

#[test]
fn the_files_of_the_key_are_the_list_and_each_image_by_its_name() {
    let folder = Folder::new();
    let records = [
        problem("cat", "a.png"),
        problem("dog", "gone.png"),
        problem("cow", "a.png"),
        problem("x", "http://y"),
    ];
    std::fs::create_dir(folder.path("lists")).unwrap();
    folder.list("lists/l.json", text(&records));
    let resolved = resolve(
        json!({"path": "lists/l.json", "image_root": "."}),
        folder.dir.path(),
    )
    .unwrap();
    assert_eq!(resolved.files.len(), 2);
    assert_eq!(
        (resolved.files[0].field.as_str(), resolved.files[0].required),
        ("path", true)
    );
    let images = &resolved.files[1];
    assert_eq!(
        (images.field.as_str(), images.required),
        ("image_root", false)
    );
    let names: Vec<&str> = images.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a.png", "gone.png"]);
    assert_eq!(
        std::fs::read(&images.files[0].1).unwrap(),
        std::fs::read(folder.path("a.png")).unwrap()
    );
    let limited = resolve(
        json!({"path": "lists/l.json", "limit": 1}),
        folder.dir.path(),
    )
    .unwrap();
    assert_eq!(
        limited.files[1].files,
        [("a.png".to_owned(), folder.path("lists/a.png"))]
    );
}

#[test]
fn a_prompt_template_replaces_or_wraps_the_records_prompt() {
    let folder = Folder::new();
    let records = text(&[problem("cat", "a.png")]);
    let prompt = |template: &str| {
        folder
            .import(&records, json!({"prompt": template}))
            .data()
            .samples()[0]
            .prompt
            .clone()
    };
    assert_eq!(prompt("<image>object?"), "<image>object?");
    assert_eq!(prompt("{prompt} One word."), "<image>What is it? One word.");
}

#[test]
fn paths_of_another_machine_can_be_cut_down_to_a_folder_here() {
    let folder = Folder::new();
    let records = text(&[problem("cat", "/data/dataset/a.png")]);
    let root = folder.dir.path().to_string_lossy().into_owned();
    let import = folder.import(
        records,
        json!({"strip_prefix": "/data/dataset", "image_root": root}),
    );
    assert_eq!(
        import.data().samples()[0].meta["image"],
        "/data/dataset/a.png"
    );
}

#[test]
fn limit_takes_the_first_records_and_sample_draws_by_seed() {
    let folder = Folder::new();
    let records: Vec<Value> = (0..40)
        .map(|index| problem(&format!("cat{index}"), "a.png"))
        .collect();
    let answers = |with: Value| -> Vec<String> {
        folder
            .import(text(&records), with)
            .data()
            .samples()
            .iter()
            .map(|sample| sample.answer.clone())
            .collect()
    };
    assert_eq!(answers(json!({"limit": 3})), ["cat0", "cat1", "cat2"]);
    let place = |answer: &String| answer[3..].parse::<usize>().unwrap();
    let drawn = answers(json!({"sample": 10, "seed": 1}));
    assert_eq!(drawn.len(), 10);
    assert!(
        drawn.iter().map(place).is_sorted(),
        "the order is the list's"
    );
    assert_eq!(drawn, answers(json!({"sample": 10, "seed": 1})));
    assert_ne!(drawn, answers(json!({"sample": 10, "seed": 2})));
    let more = answers(json!({"sample": 20, "seed": 1}));
    assert!(
        drawn.iter().all(|answer| more.contains(answer)),
        "a larger sample keeps a smaller one"
    );
    assert_eq!(answers(json!({"sample": 99})).len(), 40);
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
fn repeated_records_have_ids_of_their_own_and_content_alone_decides() {
    let folder = Folder::new();
    let twice = folder
        .import(
            text(&[problem("cat", "a.png"), problem("cat", "a.png")]),
            json!({}),
        )
        .data();
    assert_ne!(twice.samples()[0].id, twice.samples()[1].id);
    std::fs::copy(folder.path("a.png"), folder.path("copy.png")).unwrap();
    let moved = folder
        .import(text(&[problem("cat", "copy.png")]), json!({}))
        .data();
    assert_eq!(moved.samples()[0].id, twice.samples()[0].id);
    let other = folder
        .import(text(&[problem("dog", "a.png")]), json!({}))
        .data();
    assert_ne!(other.samples()[0].id, twice.samples()[0].id);
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
fn grey_and_transparent_images_become_colours_on_white() {
    let folder = Folder::new();
    DynamicImage::ImageLuma8(GrayImage::from_pixel(3, 2, Luma([77])))
        .save(folder.path("grey.png"))
        .unwrap();
    let clear = GrayAlphaImage::from_fn(3, 2, |x, _| LumaA([10, if x == 0 { 0 } else { 255 }]));
    DynamicImage::ImageLumaA8(clear)
        .save(folder.path("clear.png"))
        .unwrap();
    let data = folder
        .import(
            text(&[problem("a", "grey.png"), problem("b", "clear.png")]),
            json!({}),
        )
        .data();
    let pixels = |index: usize| data.image(&data.samples()[index]).unwrap().pixels.to_vec();
    assert_eq!(pixels(0), [77; 18]);
    assert_eq!(pixels(1)[..6], [255, 255, 255, 10, 10, 10]);
}

#[test]
fn the_same_bytes_come_out_on_one_thread_and_on_two() {
    let folder = Folder::new();
    let names = ["a.png", "b.jpg", "gone.png", "c.webp", "cut.jpg"];
    let records: Vec<Value> = (0..1200)
        .map(|index| problem("cat", names[index % names.len()]))
        .collect();
    let import = |threads| {
        on_threads(threads, || {
            folder.import(text(&records), json!({})).run.files()
        })
    };
    assert!(import(1) == import(2), "the files differ");
}

#[test]
fn photographs_in_the_official_layout_are_taken_whole() {
    let Some(folder) = common::shared("data/photos") else {
        return;
    };
    for name in ["cold_start", "ood_sketch"] {
        let path = folder.join(format!("{name}.json"));
        let records = common::read_json(&path).as_array().unwrap().len();
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
    let Some(folder) = common::shared("data/dcsft-imagenet") else {
        return;
    };
    let mut lists = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let records = common::read_json(&path).as_array().unwrap().len();
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
