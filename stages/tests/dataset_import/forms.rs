//! Records as other tools write them: each is read as its tool reads it, or dropped with its reason.
//!
//! A case names the public thread in which people met the form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use dcsft_stages::data::Speaker;

use crate::{Folder, text};

/// What has to come of a record.
enum Outcome {
    /// Prompt, answer and the image's width.
    Read(&'static str, &'static str, u32),
    /// The reason, and words of the detail.
    Dropped(&'static str, &'static [&'static str]),
}

use Outcome::{Dropped, Read};

struct Case {
    source: &'static str,
    record: Value,
    outcome: Outcome,
}

fn case(source: &'static str, record: Value, outcome: Outcome) -> Case {
    Case {
        source,
        record,
        outcome,
    }
}

fn check(folder: &Folder, cases: &[Case]) {
    for Case {
        source,
        record,
        outcome,
    } in cases
    {
        // A record that is read keeps the stage from failing where the case is dropped.
        let records = [
            record.clone(),
            json!({"problem": "?", "solution": "a", "image": "a.png"}),
        ];
        let import = folder.import(text(&records), json!({}));
        let data = import.data();
        match outcome {
            Read(prompt, answer, width) => {
                assert_eq!(data.len(), 2, "{source} {record}: {:?}", import.drops());
                let sample = &data.samples()[0];
                assert_eq!(
                    (sample.prompt.as_str(), sample.answer.as_str()),
                    (*prompt, *answer),
                    "{source} {record}"
                );
                assert_eq!(sample.images[0].width, *width, "{source} {record}");
            }
            Dropped(reason, words) => {
                assert_eq!(data.len(), 1, "{source} {record} was read");
                let (found, detail) = &import.drops()[&0];
                assert_eq!(found, reason, "{source} {record}: {detail}");
                for word in *words {
                    assert!(
                        detail.contains(word),
                        "{source} {record}: {detail:?} lacks {word:?}"
                    );
                }
                let left_out = &import.run.summary()["left_out"];
                assert_eq!(
                    (&left_out["count"], &left_out["of"]),
                    (&json!(1), &json!(2)),
                    "{source}"
                );
            }
        }
    }
}

/// The question and the answer of most cases.
fn asked(content: Value) -> Value {
    json!([{"role": "user", "content": content}, {"role": "assistant", "content": "cat"}])
}

const ASKED: Outcome = Read("<image>What is it?", "cat", 32);

#[test]
fn an_image_may_be_named_in_a_content_block() {
    let folder = Folder::new();
    let source = "QwenLM/Qwen3-VL#830 QwenLM/Qwen3-VL#1352";
    let question = json!({"type": "text", "text": "What is it?"});
    let block = |image: Value| json!({"messages": asked(json!([image, question]))});
    let mut cases: Vec<Case> = [
        json!({"type": "image", "image": "a.png"}),
        json!({"type": "image_url", "image_url": {"url": "a.png"}}),
        json!({"type": "image_url", "image_url": "a.png"}),
        json!({"type": "image", "path": "a.png"}),
        json!({"type": "image", "url": "a.png"}),
        json!({"type": "image", "image": "a.png", "text": null}),
        json!({"image": "a.png"}),
    ]
    .into_iter()
    .map(|image| case(source, block(image), ASKED))
    .collect();
    let with =
        |content: Value, images: Value| json!({"messages": asked(content), "images": images});
    cases.extend([
        case(
            source,
            with(json!([{"type": "image"}, question]), json!(["a.png"])),
            ASKED,
        ),
        case(
            source,
            with(
                json!([{"type": "image", "index": 0}, question]),
                json!(["a.png"]),
            ),
            ASKED,
        ),
        case(
            source,
            json!({"messages": asked(json!([{"image": "a.png"}, {"text": "What is it?"}]))}),
            ASKED,
        ),
        case(
            source,
            with(
                json!([{"type": "image", "image": "a.png"}, question]),
                json!(["b.jpg"]),
            ),
            Dropped("contradiction", &["content", "images", "a.png", "b.jpg"]),
        ),
        case(
            source,
            block(json!({"type": "image", "source": {"data": "x"}})),
            Dropped("layout", &["content block", "source"]),
        ),
        case(
            source,
            block(json!({"type": "video", "video": "a.mp4"})),
            Dropped("layout", &["content block", "\"video\""]),
        ),
    ]);
    check(&folder, &cases);
}

#[test]
fn an_image_may_be_written_in_many_ways() {
    let folder = Folder::new();
    let file = std::fs::read(folder.path("a.png")).unwrap();
    let base64 = STANDARD.encode(&file);
    std::fs::create_dir(folder.path("sub")).unwrap();
    std::fs::write(folder.path("sub/ü.png"), &file).unwrap();
    let link = |name: &str| format!("file://{}", folder.path(name).display());
    let named =
        |image: Value| json!({"messages": asked(json!("<image>What is it?")), "images": [image]});
    check(
        &folder,
        &[
            case("modelscope/ms-swift#3501", named(json!(base64)), ASKED),
            case(
                "modelscope/ms-swift#3501",
                named(json!(format!("data:image/png;base64,{base64}"))),
                ASKED,
            ),
            case(
                "modelscope/ms-swift#3501",
                named(json!({"bytes": base64, "path": null})),
                ASKED,
            ),
            case(
                "modelscope/ms-swift#3501",
                named(json!({"bytes": null, "path": "a.png"})),
                ASKED,
            ),
            case(
                "modelscope/ms-swift docs",
                named(json!({"bytes": "b'\\x89PNG'", "path": "x.png"})),
                Dropped("inline_image", &["base64"]),
            ),
            case(
                "found in use",
                named(json!(&base64[..44])),
                Dropped("broken_image", &[]),
            ),
            case("found in use", named(json!(link("a.png"))), ASKED),
            case("found in use", named(json!(link("sub/%C3%BC.png"))), ASKED),
            case("found in use", named(json!("sub/u\u{308}.png")), ASKED),
            case(
                "found in use",
                named(json!("file://host/a.png")),
                Dropped("remote_image", &["another machine"]),
            ),
            case(
                "found in use",
                named(json!("gs://bucket/a.png")),
                Dropped("remote_image", &["link"]),
            ),
            case(
                "found in use",
                named(json!("data:image/png,abc")),
                Dropped("remote_image", &["inline data"]),
            ),
            case(
                "AILab-CVC/YOLO-World#535",
                named(json!("C:\\data\\a.png")),
                Dropped("missing_image", &["Windows", "drive"]),
            ),
            case(
                "AILab-CVC/YOLO-World#535",
                named(json!("\\\\host\\a.png")),
                Dropped("missing_image", &["Windows"]),
            ),
            case("AILab-CVC/YOLO-World#535", named(json!(".\\a.png")), ASKED),
            case(
                "AILab-CVC/YOLO-World#535",
                named(json!("sub\\ü.png")),
                ASKED,
            ),
            case(
                "found in use",
                named(json!({"name": "a.png"})),
                Dropped("layout", &["name", "`path`"]),
            ),
            case(
                "found in use",
                named(json!({"path": "a.png", "url": "b.jpg"})),
                Dropped("contradiction", &["path", "url"]),
            ),
        ],
    );
}

#[test]
fn images_beside_the_text_have_to_agree() {
    let folder = Folder::new();
    let problem = |rest: Value| {
        let mut record = json!({"problem": "What is it?", "solution": "cat"});
        record
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        record
    };
    let tag = |content: &str| json!({"messages": asked(json!(content))});
    check(
        &folder,
        &[
            case(
                "found in use",
                problem(json!({"image": "a.png", "images": []})),
                ASKED,
            ),
            case(
                "found in use",
                problem(json!({"image": null, "images": ["a.png"]})),
                ASKED,
            ),
            case(
                "found in use",
                problem(json!({"image": "a.png", "images": ["a.png"]})),
                ASKED,
            ),
            case(
                "found in use",
                problem(json!({"image": "a.png", "images": ["b.jpg"]})),
                Dropped("contradiction", &["`images`", "`image`", "a.png", "b.jpg"]),
            ),
            case(
                "tulerfeng/Video-R1 data",
                problem(json!({"problem_id": 1, "path": "./a.png"})),
                Dropped("no_image", &["problem_id", "path"]),
            ),
            case(
                "hiyouga/LlamaFactory#8734",
                json!({"messages": asked(json!("<image>?")), "images": ["a.png", "b.jpg"]}),
                Read("<image><image>?", "cat", 32),
            ),
            case(
                "hiyouga/LlamaFactory#6135",
                json!({"messages": asked(json!("<image>? <image>")), "images": ["a.png"]}),
                Dropped("placeholder", &["2 <image>"]),
            ),
            case(
                "found in use",
                json!({"messages": asked(json!("What is it?")), "images": ["a.png"]}),
                ASKED,
            ),
            case("found in use", tag("<img>a.png</img>What is it?"), ASKED),
            case(
                "found in use",
                tag("Picture 1:<img>a.png</img>\nWhat is it?"),
                Read("Picture 1:<image>\nWhat is it?", "cat", 32),
            ),
            case(
                "found in use",
                json!({"query": "?", "response": "see <image>", "images": ["a.png"]}),
                Dropped("placeholder", &["the answer has <image>"]),
            ),
        ],
    );
}

#[test]
fn questions_and_answers_come_in_the_fields_of_many_tools() {
    let folder = Folder::new();
    let user = json!({"role": "user", "content": "<image>What is it?"});
    let assistant = json!({"role": "assistant", "content": "cat"});
    check(
        &folder,
        &[
            case(
                "modelscope/ms-swift docs",
                json!({"messages": [user], "images": ["a.png"], "solution": "cat"}),
                ASKED,
            ),
            case(
                "modelscope/ms-swift docs",
                json!({"messages": [user, assistant], "images": ["a.png"], "solution": "cat"}),
                ASKED,
            ),
            case(
                "modelscope/ms-swift docs",
                json!({"messages": [user, assistant], "images": ["a.png"], "solution": "dog"}),
                Dropped("contradiction", &["cat", "dog", "`solution`"]),
            ),
            case(
                "modelscope/ms-swift docs",
                json!({"messages": [user], "images": ["a.png"]}),
                Dropped("layout", &["no right answer", "`solution`"]),
            ),
            case(
                "hiyouga/LlamaFactory#6878 QwenLM/Qwen3#1314",
                json!({"conversations": [user, assistant], "image": "a.png"}),
                ASKED,
            ),
            case(
                "hiyouga/LlamaFactory#5503",
                json!({"prompt": [user], "completion": [assistant], "images": ["a.png"]}),
                ASKED,
            ),
            case(
                "hiyouga/LlamaFactory#5503",
                json!({"prompt": "What is it?", "completion": "cat", "image": "a.png"}),
                ASKED,
            ),
            case(
                "huggingface/trl docs",
                json!({"prompt": [user], "solution": "cat", "image": "a.png"}),
                ASKED,
            ),
            case(
                "found in use",
                json!({"question": "What is it?", "answer": "cat", "image": "a.png"}),
                ASKED,
            ),
            case(
                "found in use",
                json!({"messages": null, "problem": "What is it?", "solution": "cat", "image": "a.png"}),
                ASKED,
            ),
            case(
                "found in use",
                json!({"question": "What is it?", "answers": ["cat"], "image": "a.png"}),
                Dropped("layout", &["question, answers, image"]),
            ),
            case(
                "found in use",
                json!({"problem": "Which?", "solution": "B", "image": "a.png", "options": ["A) x", "B) y"]}),
                Dropped("layout", &["`options`", "A) x"]),
            ),
            case(
                "found in use",
                json!({"problem": "A) x or B) y?", "solution": "B", "image": "a.png", "options": ["A) x", "B) y"]}),
                Read("<image>A) x or B) y?", "B", 32),
            ),
            case(
                "found in use",
                json!({"problem": "?", "solution": "B", "image": "a.png", "videos": ["v.mp4"]}),
                Dropped("layout", &["`videos`"]),
            ),
        ],
    );
}

#[test]
fn earlier_turns_are_kept_in_every_layout() {
    let folder = Folder::new();
    let turn = |who: &str, role: &str, what: &str, text: &str| json!({who: role, what: text});
    let turns = |who: &str, user: &str, assistant: &str, what: &str| {
        json!([
            turn(who, user, what, "<image>What is in the picture?"),
            turn(who, assistant, what, "a car"),
            turn(who, user, what, "And its colour?"),
            turn(who, assistant, what, "red"),
        ])
    };
    let history = json!([["What is in the picture?", "a car"]]);
    let records = [
        json!({"messages": turns("role", "user", "assistant", "content"), "images": ["a.png"]}),
        json!({"conversations": turns("from", "human", "gpt", "value"), "image": "a.png"}),
        json!({"query": "And its colour?", "response": "red", "images": ["a.png"], "history": history}),
        json!({"instruction": "And its colour?", "output": "red", "images": ["a.png"], "history": history}),
        json!({"problem": "And its colour?", "solution": "red", "image": "a.png", "history": history}),
    ];
    for record in records {
        let import = folder.import(text(std::slice::from_ref(&record)), json!({}));
        let data = import.data();
        assert_eq!(data.len(), 1, "{record}: {:?}", import.drops());
        let sample = &data.samples()[0];
        let said: Vec<(Speaker, &str)> = sample
            .history
            .iter()
            .map(|said| (said.role, said.content.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                (Speaker::User, "<image>What is in the picture?"),
                (Speaker::Assistant, "a car")
            ],
            "{record}"
        );
        assert_eq!(
            (sample.prompt.as_str(), sample.answer.as_str()),
            ("And its colour?", "red"),
            "{record}"
        );
    }
    check(
        &folder,
        &[
            case(
                "found in use",
                json!({"query": "What is it?", "response": "cat", "images": ["a.png"], "history": []}),
                ASKED,
            ),
            case(
                "found in use",
                json!({"query": "?", "response": "cat", "images": ["a.png"], "history": "What is it? A cat."}),
                Dropped("layout", &["`history`", "pairs"]),
            ),
            case(
                "found in use",
                json!({"query": "?", "response": "cat", "images": ["a.png"], "history": [["?", "see <image>"]]}),
                Dropped("placeholder", &["the answer has <image>"]),
            ),
            case(
                "found in use",
                json!({"messages": [turn("role", "user", "content", "?"), turn("role", "user", "content", "??"),
                    turn("role", "assistant", "content", "cat")], "images": ["a.png"]}),
                Dropped("layout", &["`messages`", "in turn"]),
            ),
        ],
    );
}

#[test]
fn earlier_turns_make_another_sample() {
    let folder = Folder::new();
    let record = |history: Value| json!({"query": "<image>?", "response": "red", "images": ["a.png"], "history": history});
    let records = [
        record(json!([])),
        record(json!([["a", "b"]])),
        record(json!([["ab", ""]])),
        record(json!([["a", "b"], ["a", "b"]])),
    ];
    let import = folder.import(text(&records), json!({}));
    let data = import.data();
    let ids: std::collections::BTreeSet<&str> =
        data.samples().iter().map(|sample| &*sample.id).collect();
    assert_eq!(ids.len(), 4);
}

#[test]
fn each_image_has_its_place_in_the_conversation() {
    let folder = Folder::new();
    let user = |text: &str| json!({"role": "user", "content": text});
    let assistant = |text: &str| json!({"role": "assistant", "content": text});
    let records = [
        json!({"messages": [user("<image>One."), assistant("1"), user("<image>Two?"), assistant("2")],
            "images": ["a.png", "b.jpg"]}),
        // ms-swift: those without a place stand in front of the first question.
        json!({"messages": [user("One."), assistant("1"), user("<image>Two?"), assistant("2")],
            "images": ["a.png", "b.jpg"]}),
        json!({"messages": [
            {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "One."}]},
            assistant("1"),
            {"role": "user", "content": [{"type": "image", "image": "b.jpg"}, {"type": "text", "text": "Two?"}]},
            assistant("2")]}),
    ];
    let import = folder.import(text(&records), json!({}));
    let data = import.data();
    assert_eq!(data.len(), 3, "{:?}", import.drops());
    for sample in data.samples() {
        assert_eq!(sample.history[0].content, "<image>One.");
        assert_eq!(sample.prompt, "<image>Two?");
        assert_eq!(sample.images.len(), 2);
        assert_ne!(sample.images[0].offset, sample.images[1].offset);
        assert_eq!(sample.meta["images"], json!(["a.png", "b.jpg"]));
    }
}

#[test]
fn a_question_without_an_image_is_taken_where_the_spec_says_so() {
    let folder = Folder::new();
    let records = [
        json!({"query": "2 + 2?", "response": "4"}),
        json!({"query": "<image>?", "response": "4"}),
    ];
    let import = folder.import(text(&records), json!({"images": "optional"}));
    let data = import.data();
    assert_eq!(data.len(), 1, "{:?}", import.drops());
    assert!(data.samples()[0].images.is_empty());
    assert_eq!(import.drops()[&1].0, "placeholder");
}

#[test]
fn a_system_message_belongs_to_the_sample_in_every_layout() {
    let folder = Folder::new();
    let system = "You are a vet.";
    let told = json!({"role": "system", "content": system});
    let question = json!({"role": "user", "content": "<image>What is it?"});
    let answer = json!({"role": "assistant", "content": "cat"});
    let records = [
        json!({"messages": [question, answer], "images": ["a.png"]}),
        json!({"messages": [told, question, answer], "images": ["a.png"]}),
        json!({"messages": [question, answer], "images": ["a.png"], "system": system}),
        json!({"query": "<image>What is it?", "response": "cat", "images": ["a.png"], "system": system}),
        json!({"conversations": [{"from": "system", "value": system}, {"from": "human", "value": "<image>What is it?"},
                                 {"from": "gpt", "value": "cat"}], "image": "a.png"}),
        json!({"messages": [told, question, answer], "images": ["a.png"], "system": "You are a dog."}),
        json!({"messages": [{"role": "system", "content": ""}, question, answer], "images": ["a.png"]}),
    ];
    let mut ids = Vec::new();
    for (index, record) in records[..5].iter().enumerate() {
        let sample = folder
            .import(text(std::slice::from_ref(record)), json!({}))
            .data()
            .samples()[0]
            .clone();
        assert_eq!(
            sample.system.as_deref(),
            (index > 0).then_some(system),
            "{record}"
        );
        assert!(!sample.meta.contains_key("system"));
        ids.push(sample.id);
    }
    assert_ne!(
        ids[0], ids[1],
        "the system message is part of what a sample is"
    );
    assert!(ids[1..].iter().all(|id| *id == ids[1]), "{ids:?}");
    let drops = folder.import(text(&records), json!({})).drops();
    assert_eq!(drops[&5].0, "contradiction");
    assert!(drops[&6].1.contains("system message is empty"), "{drops:?}");
}

#[test]
fn places_of_grounding_lists_are_filled_in() {
    let folder = Folder::new();
    let source = "modelscope/ms-swift docs";
    let record = |prompt: &str, answer: &str, objects: Value| {
        json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}],
               "images": ["a.png"], "objects": objects})
    };
    let dog = json!({"ref": ["dog"], "bbox": [[1, 2, 14, 5.5]]});
    check(
        &folder,
        &[
            case(
                source,
                record("<image>Find <ref-object>", "<bbox>", dog.clone()),
                Read("<image>Find dog", "[1, 2, 14, 5.5]", 32),
            ),
            case(
                source,
                record(
                    "<image>Describe",
                    "<ref-object><bbox> on grass",
                    json!(dog.to_string()),
                ),
                Read("<image>Describe", "dog[1, 2, 14, 5.5] on grass", 32),
            ),
            case(
                source,
                record("<image>Find it", "<bbox>", json!(null)),
                Dropped("layout", &["`objects`"]),
            ),
            case(
                source,
                record("<image>Find <ref-object>", "<bbox><bbox>", dog.clone()),
                Dropped("layout", &["2 <bbox>", "1 entries"]),
            ),
            case(
                source,
                record("<image>Find it", "<bbox>", dog.clone()),
                Dropped("layout", &["0 <ref-object>"]),
            ),
            case(
                source,
                record("<image>Point", "<bbox>", json!({"bbox": [[1, 2]]})),
                Dropped("layout", &["four numbers"]),
            ),
            case(
                source,
                record(
                    "<image>Find",
                    "<bbox>",
                    json!({"bbox": [[1, 2, 3, 4]], "bbox_type": "norm1000"}),
                ),
                Dropped("layout", &["bbox_type", "norm1"]),
            ),
            case(
                source,
                record("<image>Find", "<bbox>", json!({"bbox": [[1, 2, 300, 4]]})),
                Dropped("box", &["[1, 2, 300, 4]", "32 x 24 pixels"]),
            ),
            // Without places it is a field like others.
            case(source, record("<image>What is it?", "cat", dog), ASKED),
        ],
    );
}

#[test]
fn numbers_keep_their_digits_and_what_is_no_number_is_refused_by_its_word() {
    let folder = Folder::new();
    let list = r#"[{"problem": "q", "solution": 12345678901234567890123, "image": "a.png", "n": 98765432109876543210},
        {"problem": "q", "solution": 18446744073709551616, "image": "a.png", "score": NaN},
        {"problem": "q", "solution": 9007199254740993, "image": "a.png", "score": -Infinity},
        {"problem": "q", "solution": 2.50, "image": "a.png", "score": 1e-3},
        {"problem": "q", "solution": NaN, "image": "a.png"},
        {"problem": "q", "solution": [1, 2, Infinity, 4], "image": "a.png"},
        {"problem": "first", "problem": "q", "solution": "last of a name", "image": "a.png"}]"#;
    let import = folder.import(list, json!({}));
    let data = import.data();
    let answers: Vec<&str> = data
        .samples()
        .iter()
        .map(|sample| sample.answer.as_str())
        .collect();
    assert_eq!(
        answers,
        [
            "12345678901234567890123",
            "18446744073709551616",
            "9007199254740993",
            "2.5",
            "last of a name"
        ]
    );
    assert!(
        data.samples()
            .iter()
            .all(|sample| sample.prompt == "<image>q")
    );
    let meta = |row: usize, field: &str| data.samples()[row].meta[field].clone();
    assert_eq!(meta(0, "n"), json!("98765432109876543210"));
    assert_eq!(meta(1, "score"), Value::Null);
    assert_eq!(meta(3, "score"), json!(0.001));
    let drops = import.drops();
    assert!(drops[&4].1.contains("`solution` is NaN"), "{drops:?}");
    assert!(
        drops[&5].1.contains("`solution` is a list with Infinity"),
        "{drops:?}"
    );
}

#[test]
fn llavas_line_breaks_stay_and_answers_may_be_of_other_types() {
    let folder = Folder::new();
    let llava = |question: &str| json!({"id": "1", "image": "a.png", "conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": "cat"}]});
    let solved =
        |solution: Value| json!({"problem": "What is it?", "solution": solution, "image": "a.png"});
    check(
        &folder,
        &[
            case(
                "haotian-liu/LLaVA docs",
                llava("<image>\nWhat is it?"),
                Read("<image>\nWhat is it?", "cat", 32),
            ),
            case(
                "haotian-liu/LLaVA docs",
                llava("What is it?\n<image>"),
                Read("What is it?\n<image>", "cat", 32),
            ),
            case(
                "hiyouga/LlamaFactory#412",
                json!({"problem": {"0": "a"}, "solution": {"0": "x"}, "image": {"0": "a.png"}}),
                Dropped("layout", &["`problem` is an object"]),
            ),
            case(
                "found in use",
                solved(json!(7)),
                Read("<image>What is it?", "7", 32),
            ),
            case(
                "found in use",
                solved(json!([29.12, 56.09, 270.74, 473.53])),
                Read("<image>What is it?", "[29.12, 56.09, 270.74, 473.53]", 32),
            ),
            case(
                "found in use",
                solved(json!(null)),
                Dropped("layout", &["`solution` is null"]),
            ),
            case(
                "found in use",
                solved(json!(true)),
                Dropped("layout", &["true or false"]),
            ),
            case(
                "found in use",
                solved(json!([[1, 2, 3, 4]])),
                Dropped("layout", &["a list with a list"]),
            ),
        ],
    );
}

#[test]
fn layouts_may_be_mixed_in_one_list() {
    let folder = Folder::new();
    let records = [
        json!({"messages": asked(json!("<image>What is it?")), "images": ["a.png"]}),
        json!({"problem": "What is it?", "solution": "cat", "image": "a.png"}),
        json!({"query": "<image>What is it?", "response": "cat", "images": ["a.png"]}),
        json!({"text": "What is it?", "image": "a.png"}),
    ];
    let import = folder.import(text(&records), json!({}));
    assert_eq!(import.run.summary()["layout"], "messages+problem+query");
    assert_eq!(import.data().len(), 3);
    assert!(
        import.drops()[&3]
            .1
            .contains("the record has the fields text, image")
    );
}
