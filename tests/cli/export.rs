//! `export`.

use std::path::Path;

use crate::support::{FINISHED, Lab, lines};

/// A new folder's path, as an argument.
fn folder(dir: &tempfile::TempDir, name: &str) -> String {
    dir.path().join(name).to_string_lossy().into_owned()
}

fn names(dir: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .expect("the export")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_bin_is_exported_with_its_images() {
    let (lab, _) = &*FINISHED;
    let dir = tempfile::tempdir().expect("a folder");
    let to = folder(&dir, "bin");
    let text = lab.ok(&["export", "spec.yaml", "difficulty[seed=0].hard", &to]);
    let list = std::fs::read_to_string(Path::new(&to).join("data.jsonl")).expect("the list");
    let records = lines(&list);
    assert_eq!(
        text.trim(),
        format!(
            "wrote difficulty[seed=0].hard (jsonl, {} rows) to {to}",
            records.len()
        )
    );
    for record in &records {
        assert_eq!(record["messages"][0]["role"], "user");
        let image = record["images"][0].as_str().expect("an image");
        assert!(Path::new(&to).join(image).is_file(), "{image}");
    }
}

#[test]
fn a_cell_is_named_by_as_many_axes_as_it_takes() {
    let (lab, _) = &*FINISHED;
    let dir = tempfile::tempdir().expect("a folder");
    let to = folder(&dir, "model");
    let done = lab.dcsft(&["export", "spec.yaml", "sft[subset=hard].step-2", &to]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("several stages")
            && done
                .stderr
                .contains("sft[seed=0,subset=hard], sft[seed=1,subset=hard]"),
        "{}",
        done.stderr
    );
    let line = lab.ok(&[
        "export",
        "spec.yaml",
        "sft[subset=hard,seed=1].step-2",
        &to,
        "--json",
    ]);
    let written = lines(&line).remove(0);
    assert_eq!(written["stage"], "sft[seed=1,subset=hard]");
    assert_eq!(written["output"], "step-2");
    assert_eq!(written["artifact"], "model");
    let expected = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ];
    assert_eq!(names(&to), expected, "a micro model's folder as it is");
}

#[test]
fn rollouts_are_exported_in_the_format_that_is_asked_for() {
    let (lab, _) = &*FINISHED;
    let dir = tempfile::tempdir().expect("a folder");
    for (format, file) in [("jsonl", "rollouts.jsonl"), ("parquet", "rollouts.parquet")] {
        let to = folder(&dir, format);
        lab.ok(&[
            "export",
            "spec.yaml",
            "rollouts[seed=0]",
            &to,
            "--format",
            format,
        ]);
        assert_eq!(names(&to), [file]);
    }
    let to = folder(&dir, "merged");
    let done = lab.dcsft(&[
        "export",
        "spec.yaml",
        "rollouts[seed=0]",
        &to,
        "--format",
        "merged",
    ]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("no format `merged`"),
        "{}",
        done.stderr
    );
}

#[test]
fn what_never_ran_is_not_exported() {
    let (lab, _) = &*FINISHED;
    let dir = tempfile::tempdir().expect("a folder");
    let to = folder(&dir, "model");
    let done = lab.dcsft(&[
        "export",
        "spec.yaml",
        "cold_start[seed=0]",
        &to,
        "--set",
        "stages.cold_start.with.steps=99",
    ]);
    assert_eq!(done.code, 1);
    assert!(
        done.stderr
            .contains("cold_start[seed=0] is not in the cache")
            && done
                .stderr
                .contains("dcsft run spec.yaml --set 'stages.cold_start.with.steps=99'"),
        "{}",
        done.stderr
    );
    assert!(!Path::new(&to).exists());
}

#[test]
fn unknown_stages_and_outputs_are_named_with_those_there_are() {
    let lab = Lab::new(crate::support::DATA);
    let refusal = |stage: &str| {
        let done = lab.dcsft(&["export", "spec.yaml", stage, "out"]);
        assert_eq!(done.code, 2, "{}", done.stderr);
        done.stderr
    };
    assert!(refusal("wrold").contains("untrained, world"));
    assert!(refusal("world[seed=7]").contains("the spec has no stage `world[seed=7]`"));
    assert!(refusal("world[seed=0].tarin").contains("train"));
    assert!(refusal("world[seed").contains("STAGE[AXIS=VALUE].OUTPUT"));
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let (lab, _) = &*FINISHED;
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("mine.txt"), "mine").expect("a file");
    let to = dir.path().to_string_lossy().into_owned();
    let done = lab.dcsft(&["export", "spec.yaml", "rollouts[seed=0]", &to]);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("is not empty"), "{}", done.stderr);
    assert_eq!(names(&to), ["mine.txt"]);
}
