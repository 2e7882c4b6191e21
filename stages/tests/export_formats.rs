//! Exports of sets and sampled answers, read back.

mod support;

use std::fs::File;
use std::path::Path;

use dcsft_engine::stage::{ArtifactType, Input};
use dcsft_stages::data::{Dataset, Encoding, Generation, RolloutRecord, RolloutWriter, Split};
use dcsft_stages::export::{ExportError, Exported, Format, export};
use image::{Rgb, RgbImage};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use serde_json::json;
use support::{Bench, input, json_lines};

/// A set that came from three image files.
fn photos(bench: &mut Bench) -> Input {
    let folder = bench.folder();
    let picture = RgbImage::from_fn(20, 10, |x, y| Rgb([x as u8 * 9, y as u8 * 20, 7]));
    for name in ["a.png", "b.jpg", "c.webp"] {
        picture.save(folder.join(name)).unwrap();
    }
    let record = |image: &str| {
        json!({"messages": [{"role": "system", "content": "Be brief."},
                            {"role": "user", "content": "<image>What?"},
                            {"role": "assistant", "content": image}],
               "images": [image], "id": format!("rec-{image}"), "label": "pet"})
    };
    let list = json!([record("a.png"), record("b.jpg"), record("c.webp")]);
    std::fs::write(folder.join("list.json"), list.to_string()).unwrap();
    let run = bench.run("dataset", json!({"path": folder.join("list.json")}), &[]);
    run.summary();
    input("data", &run.output("data"))
}

fn ids(dir: &Path) -> Vec<String> {
    let data = Dataset::open(dir).unwrap();
    data.samples()
        .iter()
        .map(|sample| sample.id.clone())
        .collect()
}

#[test]
fn a_set_keeps_its_images_bytes_and_comes_back_as_the_same_samples() {
    let mut bench = Bench::new();
    let data = photos(&mut bench);
    let to = bench.folder().join("export");
    let written = export(ArtifactType::Dataset, &data.dir, &to, None, None).unwrap();
    let expected = Exported {
        format: Format::Jsonl,
        rows: Some(3),
    };
    assert_eq!(written, expected);
    let lines = json_lines(&to.join("data.jsonl"));
    assert_eq!(
        lines[1]["messages"][0],
        json!({"role": "system", "content": "Be brief."})
    );
    assert_eq!(
        lines[1]["messages"][1],
        json!({"role": "user", "content": "<image>What?"})
    );
    assert_eq!(
        lines[1]["messages"][2],
        json!({"role": "assistant", "content": "b.jpg"})
    );
    // ms-swift's GRPO drops the assistant's turn and reads `solution`.
    assert_eq!(lines[1]["solution"], "b.jpg");
    assert_eq!(
        [
            &lines[1]["id"],
            &lines[1]["record_label"],
            &lines[1]["record_image"]
        ],
        ["rec-b.jpg", "pet", "b.jpg"]
    );
    let set = Dataset::open(&data.dir).unwrap();
    for (line, sample) in lines.iter().zip(set.samples()) {
        assert_eq!(line["sample_id"], *sample.id);
        let path = to.join(line["images"][0].as_str().unwrap());
        assert_eq!(
            std::fs::read(&path).unwrap(),
            set.image_bytes(&sample.images[0]).unwrap()
        );
    }
    let run = bench.run("dataset", json!({"path": to.join("data.jsonl")}), &[]);
    run.summary();
    assert_eq!(ids(&run.output("data")), ids(&data.dir));
}

#[test]
fn drawn_images_become_png_files_with_the_same_pixels() {
    let mut bench = Bench::new();
    let data = bench.colours("train", 0, 4, |_, name| name.to_owned());
    let to = bench.folder().join("export");
    export(ArtifactType::Dataset, &data.dir, &to, None, None).unwrap();
    let run = bench.run("dataset", json!({"path": to.join("data.jsonl")}), &[]);
    run.summary();
    let (before, after) = (
        Dataset::open(&data.dir).unwrap(),
        Dataset::open(&run.output("data")).unwrap(),
    );
    for (old, new) in before.samples().iter().zip(after.samples()) {
        assert_eq!(new.images[0].format, Encoding::Png);
        assert_eq!(before.image(old).unwrap(), after.image(new).unwrap());
        assert_eq!((&old.prompt, &old.answer), (&new.prompt, &new.answer));
    }
}

/// Answers whose lists have zero, one and more items.
fn answers(bench: &mut Bench) -> (Input, Vec<RolloutRecord>) {
    let generation = |text: &str, tokens: Vec<u32>, reward: f32| Generation {
        text: text.to_owned(),
        logprobs: tokens.iter().map(|token| -0.1 * *token as f32).collect(),
        tokens,
        reward,
        finished: reward > 0.0,
    };
    let records = vec![
        RolloutRecord {
            id: "a".repeat(32),
            generations: vec![
                generation("cät", vec![5, 0, u32::MAX], 1.0),
                generation("", vec![], 0.0),
            ],
        },
        RolloutRecord {
            id: "b".repeat(32),
            generations: vec![
                generation("dog", vec![7], 0.0),
                generation("a \"dog\"\n", vec![1, 2], 1.0),
            ],
        },
    ];
    let dir = bench.folder();
    let mut writer = RolloutWriter::create(&dir, "train", Split::Id, 2).unwrap();
    for record in &records {
        writer.push(record).unwrap();
    }
    writer.finish().unwrap();
    (input("rollouts", &dir), records)
}

#[test]
fn sampled_answers_are_one_json_line_each() {
    let mut bench = Bench::new();
    let (rollouts, records) = answers(&mut bench);
    let to = bench.folder().join("export");
    let written = export(ArtifactType::Rollouts, &rollouts.dir, &to, None, None).unwrap();
    assert_eq!(written.rows, Some(4));
    let lines = json_lines(&to.join("rollouts.jsonl"));
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[3]["id"], records[1].id);
    assert_eq!(lines[3]["generation"], 1);
    let read: Generation = serde_json::from_value(lines[3].clone()).unwrap();
    assert_eq!(read, records[1].generations[1]);
}

#[test]
fn a_parquet_table_holds_every_answer() {
    let mut bench = Bench::new();
    let (rollouts, records) = answers(&mut bench);
    let to = bench.folder().join("export");
    export(
        ArtifactType::Rollouts,
        &rollouts.dir,
        &to,
        Some(Format::Parquet),
        None,
    )
    .unwrap();
    let file = File::open(to.join("rollouts.parquet")).unwrap();
    let reader = SerializedFileReader::new(file).unwrap();
    let mut rows = reader.get_row_iter(None).unwrap();
    for record in &records {
        for (index, generation) in record.generations.iter().enumerate() {
            let row = rows.next().unwrap().unwrap();
            let fields: Vec<(&String, &Field)> = row.get_column_iter().collect();
            let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
            let expected = [
                "id",
                "generation",
                "text",
                "reward",
                "finished",
                "tokens",
                "logprobs",
            ];
            assert_eq!(names, expected);
            let list = |at: usize| match fields[at].1 {
                Field::ListInternal(list) => list.elements().to_vec(),
                other => panic!("{other:?} is no list"),
            };
            assert_eq!(*fields[0].1, Field::Str(record.id.clone()));
            assert_eq!(*fields[1].1, Field::Int(index as i32));
            assert_eq!(*fields[2].1, Field::Str(generation.text.clone()));
            assert_eq!(*fields[3].1, Field::Float(generation.reward));
            assert_eq!(*fields[4].1, Field::Bool(generation.finished));
            let tokens: Vec<Field> = generation
                .tokens
                .iter()
                .map(|token| Field::UInt(*token))
                .collect();
            assert_eq!(list(5), tokens);
            let logprobs: Vec<Field> = generation
                .logprobs
                .iter()
                .map(|value| Field::Float(*value))
                .collect();
            assert_eq!(list(6), logprobs);
        }
    }
    assert!(rows.next().is_none());
}

#[test]
fn what_is_there_is_not_overwritten_and_formats_have_to_fit() {
    let mut bench = Bench::new();
    let (rollouts, _) = answers(&mut bench);
    let full = bench.folder();
    std::fs::write(full.join("mine.txt"), "mine").unwrap();
    let error = export(ArtifactType::Rollouts, &rollouts.dir, &full, None, None).unwrap_err();
    assert!(matches!(error, ExportError::NotEmpty(_)), "{error}");
    let names: Vec<_> = std::fs::read_dir(&full).unwrap().collect();
    assert_eq!(names.len(), 1);
    let empty = bench.folder();
    export(ArtifactType::Rollouts, &rollouts.dir, &empty, None, None).unwrap();
    assert!(
        empty.join("rollouts.jsonl").exists(),
        "an empty folder is filled"
    );
    let to = bench.folder().join("export");
    let error = export(
        ArtifactType::Rollouts,
        &rollouts.dir,
        &to,
        Some(Format::Merged),
        None,
    )
    .unwrap_err();
    assert!(error.to_string().contains("`jsonl`, `parquet`"), "{error}");
}
