//! Lists in several files, packed ones, tables, and files that are something else.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use dcsft_stages::data::Dataset;
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::json;

use crate::support::Bench;
use crate::{Folder, problem, resolve, text};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::best());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_list_packed_with_gzip_is_read_and_a_bomb_is_not() {
    let folder = Folder::new();
    let records = text(&[problem("cat", "a.png")]);
    assert_eq!(
        folder
            .import(packed(records.as_bytes()), json!({}))
            .data()
            .len(),
        1
    );
    let refusal = |bytes: &[u8]| {
        let path = folder.list("list.json.gz", bytes);
        resolve(json!({"path": path}), Path::new("/")).unwrap_err()
    };
    let spaces = vec![b' '; 100 << 20];
    assert!(refusal(&packed(&spaces)).contains("unpacks from"));
    let whole = packed(records.as_bytes());
    assert!(refusal(&whole[..whole.len() / 2]).contains("no whole gzip file"));
    assert!(refusal(b"\x28\xb5\x2f\xfd....").contains("zstd"));
    assert!(refusal(b"PK\x03\x04....").contains("zip"));
    assert!(refusal(b"ARROW1....").contains("Arrow"));
    assert!(refusal(b"\xff\xfe[\0]\0").contains("UTF-16"));
}

#[test]
fn commas_that_do_not_belong_are_told() {
    let folder = Folder::new();
    let refusal = |bytes: String| {
        resolve(
            json!({"path": folder.list("list.json", bytes)}),
            Path::new("/"),
        )
        .unwrap_err()
    };
    let record = problem("cat", "a.png").to_string();
    // lil-lab/nlvr#1
    let list = refusal(format!("[{record},\n]"));
    assert!(list.contains("trailing comma at line 2"), "{list}");
    let lines = refusal(format!("{record},\n{record},\n{record}"));
    assert!(lines.contains("line 1 ends in a comma"), "{lines}");
}

#[test]
#[cfg(unix)]
fn what_is_no_regular_file_is_neither_a_list_nor_an_image() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("/dev/zero", folder.path("zero.png")).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all.png", folder.path("nowhere.png")).unwrap();
    std::fs::create_dir(folder.path("folder.png")).unwrap();
    let pipe = std::process::Command::new("mkfifo")
        .arg(folder.path("pipe.png"))
        .status();
    let names = ["zero.png", "pipe.png", "folder.png", "nowhere.png", "a.png"];
    let records = names.map(|name| problem("cat", name));
    let path = folder.list("list.json", text(&records));
    let resolved = resolve(json!({"path": path}), Path::new("/")).unwrap();
    let known: Vec<&str> = resolved.files[1]
        .files
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        known,
        ["a.png"],
        "what cannot be digested is not part of the key"
    );
    let import = folder.import(text(&records), json!({}));
    let drops = import.drops();
    assert!(drops[&0].1.contains("no regular file"), "{drops:?}");
    assert!(
        pipe.is_err() || drops[&1].1.contains("no regular file"),
        "{drops:?}"
    );
    assert!(drops[&2].1.contains("a folder"), "{drops:?}");
    assert_eq!(drops[&3].0, "missing_image");
    for list in ["zero.png", "pipe.png"] {
        let refusal = resolve(json!({"path": folder.path(list)}), Path::new("/")).unwrap_err();
        assert!(refusal.contains("regular file"), "{refusal}");
    }
}

#[test]
fn several_lists_make_one_set_in_their_order() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("other")).unwrap();
    std::fs::copy(folder.path("b.jpg"), folder.path("other/a.png")).unwrap();
    folder.list(
        "easy.json",
        text(&[problem("easy", "a.png"), problem("gone", "gone.png")]),
    );
    folder.list(
        "other/medium.json",
        text(&[problem("medium", "a.png"), problem("", "a.png")]),
    );
    let lists = |names: &[&str]| {
        let paths: Vec<String> = names
            .iter()
            .map(|name| folder.path(name).display().to_string())
            .collect();
        json!({ "path": paths })
    };
    let both = ["easy.json", "other/medium.json"];
    let mut bench = Bench::new();
    let run = bench.run("dataset", lists(&both), &[]);
    let data = Dataset::open(&run.output("data")).unwrap();
    let answers: Vec<&str> = data
        .samples()
        .iter()
        .map(|sample| sample.answer.as_str())
        .collect();
    assert_eq!(answers, ["easy", "medium"]);
    let first = data.image_bytes(&data.samples()[1].images[0]).unwrap();
    assert_eq!(
        first,
        std::fs::read(folder.path("b.jpg")).unwrap(),
        "names are relative to their own list"
    );
    let dropped = crate::support::json_lines(&run.output("data").join("dropped.jsonl"));
    let places: Vec<_> = dropped
        .iter()
        .map(|line| (line["list"].clone(), line["index"].clone()))
        .collect();
    assert_eq!(
        places,
        [
            (json!("easy.json"), json!(1)),
            (json!("medium.json"), json!(1))
        ]
    );
    let files = |names: &[&str]| resolve(lists(names), Path::new("/")).unwrap().files;
    let names = |at: usize| {
        files(&both)[at]
            .files
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(0),
        ["000000", "000001"],
        "the order of the lists is part of the key, their paths are not"
    );
    assert_eq!(names(1), ["a.png", "gone.png", "000001/a.png"]);
    let twice = resolve(lists(&["easy.json", "easy.json"]), Path::new("/")).unwrap_err();
    assert!(twice.contains("twice"), "{twice}");
    assert!(
        resolve(json!({"path": []}), Path::new("/"))
            .unwrap_err()
            .contains("is empty")
    );
}

#[test]
fn a_prefix_ends_where_a_folder_does_and_a_missing_image_is_told_with_its_path() {
    let folder = Folder::new();
    for name in ["root", "root/2", "root/s"] {
        std::fs::create_dir(folder.path(name)).unwrap();
        std::fs::copy(folder.path("a.png"), folder.path(name).join("a.png")).unwrap();
    }
    let records = [
        "/data/dataset2/a.png",
        "/data/dataset/a.png",
        "/data/datasets/a.png",
    ]
    .map(|name| problem("cat", name));
    let with = |extra| {
        let mut with = json!({"strip_prefix": "/data/dataset", "image_root": folder.path("root")});
        with["on_error"] = json!(extra);
        with
    };
    let import = folder.import(text(&records), with("drop"));
    assert_eq!(import.drops().keys().copied().collect::<Vec<_>>(), [0, 2]);
    let list = [problem("cat", "/data/dataset/b.png")];
    let failure = folder.import(text(&list), with("fail")).run.failure();
    let place = folder.path("root/b.png").display().to_string();
    assert!(
        failure.contains(&format!("looked for at {place}")),
        "{failure}"
    );
    let again = folder.import(text(&records), with("drop"));
    let kept = std::fs::read_to_string(again.run.output("data").join("dropped.jsonl")).unwrap();
    assert!(
        !kept.contains(&folder.dir.path().display().to_string()),
        "an artifact names no path of this machine: {kept}"
    );
}

/// The columns that datasets writes for {image: Image(), problem, solution}.
fn table(path: &Path, rows: &[(&[u8], &str)]) {
    let schema = "message schema {
        optional group image { optional binary bytes; optional binary path (STRING); }
        optional binary problem (STRING);
        optional binary solution (STRING);
    }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let mut writer =
        SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    type Cell<'a> = dyn Fn(&(&[u8], &str)) -> Option<Vec<u8>> + 'a;
    let of = |text: &Cell<'_>, level: i16| {
        let cells: Vec<Option<Vec<u8>>> = rows.iter().map(text).collect();
        let levels: Vec<i16> = cells
            .iter()
            .map(|cell| if cell.is_some() { level } else { level - 1 })
            .collect();
        let values: Vec<ByteArray> = cells.into_iter().flatten().map(ByteArray::from).collect();
        (values, levels)
    };
    let columns = [
        of(&|row| Some(row.0.to_vec()), 2),
        of(&|_| None, 2),
        of(&|_| Some(b"What is it?".to_vec()), 1),
        of(&|row| Some(row.1.as_bytes().to_vec()), 1),
    ];
    for (values, levels) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&levels), None)
            .unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn a_parquet_file_brings_its_images_along() {
    let folder = Folder::new();
    let image = std::fs::read(folder.path("a.png")).unwrap();
    table(
        &folder.path("train.parquet"),
        &[(&image, "cat"), (b"no image", "dog")],
    );
    let mut bench = Bench::new();
    let run = bench.run(
        "dataset",
        json!({"path": folder.path("train.parquet")}),
        &[],
    );
    let data = Dataset::open(&run.output("data")).unwrap();
    assert_eq!(data.samples()[0].prompt, "<image>What is it?");
    assert_eq!(data.samples()[0].answer, "cat");
    assert_eq!(
        data.image_bytes(&data.samples()[0].images[0]).unwrap(),
        image
    );
    assert_eq!(
        run.summary()["left_out"]["reasons"],
        json!({"unsupported_image": 1})
    );
    std::fs::write(
        folder.path("cut.parquet"),
        &std::fs::read(folder.path("train.parquet")).unwrap()[..60],
    )
    .unwrap();
    let refusal = resolve(json!({"path": folder.path("cut.parquet")}), Path::new("/")).unwrap_err();
    assert!(refusal.contains("Parquet"), "{refusal}");
}

#[test]
fn more_left_out_than_allowed_fails_the_stage() {
    let folder = Folder::new();
    let records: Vec<_> = (0..10)
        .map(|index| problem("cat", if index < 3 { "gone.png" } else { "a.png" }))
        .collect();
    let run = |most| {
        folder
            .import(text(&records), json!({ "max_dropped": most }))
            .run
    };
    for fits in [json!(3), json!(0.3), json!(10)] {
        assert_eq!(run(fits).summary()["left_out"]["count"], 3);
    }
    for (most, allowed) in [
        (json!(2), "allows 2"),
        (json!(0.29), "allows 2"),
        (json!(0), "allows 0"),
    ] {
        let failure = run(most).failure();
        assert!(
            failure.starts_with("3 of 10 records left out: missing_image 3"),
            "{failure}"
        );
        assert!(failure.contains(allowed), "{failure}");
    }
    for nonsense in [json!(-1), json!(2.5)] {
        let refusal = resolve(
            json!({"path": "x.json", "max_dropped": nonsense}),
            Path::new("/"),
        )
        .unwrap_err();
        assert!(refusal.starts_with("max_dropped: "), "{refusal}");
    }
}
