//! The paper's specs: their plans on the published lists, and the whole study in miniature.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Lab, lines};

const SPECS: [&str; 6] = [
    "imagenet_3b",
    "imagenet_7b",
    "imagenet_3b_short",
    "imagenet_3b_published",
    "imagenet_7b_published",
    "refcoco_3b",
];

fn spec(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/paper/{name}.yaml"));
    path.to_string_lossy().into_owned()
}

/// A folder of the shared data, or none where there is none on this machine.
fn shared(path: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("DCSFT_SHARED").map(|shared| Path::new(&shared).join(path));
    let found = folder.filter(|folder| folder.is_dir());
    if found.is_none() {
        eprintln!("skipped: DCSFT_SHARED names no folder with {path}");
    }
    found
}

/// The golden checkpoint, or none.
fn checkpoint() -> Option<PathBuf> {
    match std::env::var_os("DCSFT_GOLDEN") {
        Some(folder) => Some(Path::new(&folder).join("ckpt")).filter(|folder| folder.is_dir()),
        None => shared("golden/ckpt"),
    }
}

fn set(name: &str, value: impl std::fmt::Display) -> [String; 2] {
    ["--set".to_owned(), format!("{name}={value}")]
}

fn stages<'a>(plan: &'a [Value], kind: &str) -> Vec<&'a Value> {
    plan.iter().filter(|line| line["kind"] == kind).collect()
}

/// A folder with the first image of each published list: a plan wants a folder of images in which some are.
fn images(lab: &Lab, lists: &Path) -> PathBuf {
    for list in std::fs::read_dir(lists).expect("the lists") {
        let path = list.expect("an entry").path();
        let Some(records) = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| serde_json::from_str::<Vec<Value>>(&text).ok())
        else {
            continue;
        };
        let first = &records[0];
        let name = first["image"].as_str().or(first["images"][0].as_str());
        let name = name.expect("an image").replace("/data/dataset/", "images/");
        lab.write(&name, "");
    }
    lab.root().join("images")
}

#[test]
fn golden_the_plan_shows_the_whole_study_with_its_counts() {
    let (Some(checkpoint), Some(lists)) = (checkpoint(), shared("data/dcsft-imagenet")) else {
        return;
    };
    let count = |file: &str| {
        let text = std::fs::read_to_string(lists.join(file)).expect("a list");
        let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        list.len()
    };
    for name in &SPECS[..3] {
        let lab = Lab::new("");
        let spec = spec(name);
        let mut command = lab.command(&["plan", &spec, "--json"]);
        command.env("QWEN_CHECKPOINT", &checkpoint);
        command.env("DCSFT_LISTS", &lists);
        command.env("DCSFT_IMAGES", images(&lab, &lists));
        let done = crate::support::finish(&mut command);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let plan = lines(&done.stdout);
        let samples = |title: &str| {
            let found = plan.iter().find(|line| line["stage"] == title);
            let line = found.unwrap_or_else(|| panic!("no {title}"));
            (line["samples"].clone(), line["samples_basis"].clone())
        };
        for (title, file) in [
            ("cold_start_data", "imagenet_cold_sft.json"),
            ("train", "imagenet_left_grpo.json"),
            ("val", "imagenet_val_processed.json"),
            ("ood[set=imagenet-r]", "imagenet-r_val_processed.json"),
            ("ood[set=imagenet-a]", "imagenet-a_val_processed.json"),
        ] {
            assert_eq!(
                samples(title),
                (count(file).into(), "list".into()),
                "{title}"
            );
        }
        let all = count("imagenet_left_grpo.json");
        assert_eq!(samples("rollouts[seed=0]"), (all.into(), "list".into()));
        assert_eq!(
            samples("sft[seed=0,subset=hard]"),
            (all.into(), "bound".into())
        );
        // The cold start and five arms of SFT; 3 sets for each of 6 steps of 6 arms, and for the cold start.
        assert_eq!(stages(&plan, "sft").len(), 6);
        assert_eq!(stages(&plan, "grpo").len(), 1);
        assert_eq!(stages(&plan, "eval").len(), 3 * (6 * 6 + 1));
    }
}

#[test]
fn golden_the_published_bins_are_planned_with_their_sizes() {
    let (Some(checkpoint), Some(lists)) = (checkpoint(), shared("data/dcsft-imagenet")) else {
        return;
    };
    let lab = Lab::new("");
    let more = [
        set("vars.checkpoint", checkpoint.display()),
        set("vars.lists", lists.display()),
        set("vars.image_root", images(&lab, &lists).display()),
    ]
    .concat();
    // No list of the 7B model's bins is published.
    let bins = [
        ("cold_start[seed=0]", 400),
        ("sft[seed=0,subset=all]", 9600),
        ("sft[seed=0,subset=easy]", 4163),
        ("sft[seed=0,subset=medium]", 4017),
        ("sft[seed=0,subset=hard]", 1420),
    ];
    for (name, expected) in [
        ("imagenet_3b_published", &bins[..]),
        ("imagenet_7b_published", &bins[..2]),
    ] {
        let spec = spec(name);
        let args = ["plan", &spec, "--json"].into_iter();
        let all: Vec<&str> = args.chain(more.iter().map(String::as_str)).collect();
        let plan = lines(&lab.ok(&all));
        let arms: Vec<(String, u64)> = stages(&plan, "sft")
            .iter()
            .map(|line| {
                let stage = line["stage"].as_str().unwrap_or_default().to_owned();
                (stage, line["samples"].as_u64().unwrap_or_default())
            })
            .collect();
        let expected: Vec<(String, u64)> = expected
            .iter()
            .map(|(stage, count)| ((*stage).to_owned(), *count))
            .collect();
        assert_eq!(arms, expected, "{name}");
        assert_eq!(stages(&plan, "grpo").len(), 1, "{name}");
        assert!(stages(&plan, "rollout").is_empty(), "{name}");
    }
}

#[test]
fn a_limit_bounds_the_count() {
    let lab = Lab::new(
        "dcsft: 1\nname: list\nstages:\n  train: {uses: dataset, with: {path: list.jsonl, limit: 2}}\n",
    );
    let record =
        |n: usize| format!("{{\"problem\": \"?\", \"solution\": \"a\", \"image\": \"{n}.png\"}}\n");
    lab.write("list.jsonl", &(0..5).map(record).collect::<String>());
    lab.write("0.png", "");
    let samples = |more: &[&str]| {
        let args: Vec<&str> = ["plan", "spec.yaml", "--json"]
            .iter()
            .chain(more)
            .copied()
            .collect();
        lines(&lab.ok(&args)).remove(0)["samples"].clone()
    };
    assert_eq!(samples(&[]), 2);
    assert_eq!(samples(&["--set", "stages.train.with.limit=9"]), 5);
}

#[test]
fn paths_that_are_not_given_are_looked_for_beside_the_spec() {
    for name in SPECS {
        let lab = Lab::new("");
        let spec = spec(name);
        let mut command = lab.command(&["plan", &spec]);
        for variable in ["QWEN_CHECKPOINT", "DCSFT_LISTS", "DCSFT_IMAGES"] {
            command.env_remove(variable);
        }
        let done = crate::support::finish(&mut command);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains("-Instruct"), "{}", done.stderr);
        assert!(done.stderr.contains("lists/"), "{}", done.stderr);
        for variable in ["QWEN_CHECKPOINT", "DCSFT_LISTS"] {
            let named = format!("the environment variable `{variable}` is not set");
            assert!(done.stderr.contains(&named), "{}", done.stderr);
        }
    }
}

/// A wrong folder of images, given on the command line, is an error of the plan: with the path that was looked for and
/// whoever gave it.
#[test]
fn images_that_are_not_there_are_an_error_of_the_plan() {
    let lab = Lab::new(
        "dcsft: 1\nname: list\nvars: {images: null}\nstages:\n  train: {uses: dataset, with: {path: list.jsonl, image_root: \"${vars.images}\"}}\n",
    );
    lab.write(
        "list.jsonl",
        "{\"problem\": \"?\", \"solution\": \"a\", \"image\": \"a.png\"}\n{\"problem\": \"?\", \"solution\": \"a\", \"image\": \"b.png\"}\n",
    );
    lab.write("photos/b.png", "");
    lab.ok(&["plan", "spec.yaml", "--set", "vars.images=photos"]);
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "vars.images=pictures"]);
    assert_eq!(done.code, 2);
    let folder = lab.root().canonicalize().expect("the folder");
    for part in [
        format!("there is no folder {}", folder.join("pictures").display()),
        "`pictures` comes with `--set`, relative to the current folder".to_owned(),
    ] {
        assert!(
            done.stderr.contains(&part),
            "no {part:?} in\n{}",
            done.stderr
        );
    }
    // A list can be planned before its images have come; that they have not is said.
    lab.write("empty/other.png", "");
    let done = lab.dcsft(&["plan", "spec.yaml", "--set", "vars.images=empty"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for part in [
        "none of the 2 images that".to_owned(),
        format!(
            "\"a.png\" is looked for at {}",
            folder.join("empty/a.png").display()
        ),
    ] {
        assert!(
            done.stderr.contains(&part),
            "no {part:?} in\n{}",
            done.stderr
        );
    }
}

/// `--set vars.steps` alone changes what is trained and what is evaluated, in every study that has `vars.steps`; the
/// last step is always among those evaluated.
#[test]
fn evaluations_follow_the_steps_of_training() {
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let mut count = 0;
    for entry in std::fs::read_dir(experiments).expect("the experiments") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        // photos.yaml wants a folder of the reader's, and so does what extends it.
        let wants_folder = ["uses: dataset", "extends: photos.yaml"];
        let wants_folder = wants_folder.iter().any(|words| text.contains(words));
        // One whose stages are all programs of others has no steps of ours.
        let trains = ["uses: sft", "extends: "]
            .iter()
            .any(|words| text.contains(words));
        if path.extension().is_none_or(|end| end != "yaml") || wants_folder || !trains {
            continue;
        }
        for steps in [200, 300, 600] {
            let lab = Lab::new("");
            let spec = path.to_string_lossy();
            let [flag, value] = set("vars.steps", steps);
            let plan = lines(&lab.ok(&["plan", &spec, "--json", "--all", &flag, &value]));
            let titles: Vec<&str> = plan
                .iter()
                .filter(|line| line["kind"] == "eval")
                .filter_map(|line| line["stage"].as_str())
                .filter(|title| title.contains("step="))
                .collect();
            let last = format!("step={steps}");
            assert!(
                titles.iter().any(|title| title.contains(&last)),
                "{spec}: {titles:?}"
            );
            for title in titles {
                let step = title.split("step=").nth(1).unwrap_or_default();
                let digits = step
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(step.len());
                let step: u32 = step[..digits].parse().expect("a number");
                assert!(step <= steps, "{spec}: {title}");
            }
            count += 1;
        }
    }
    assert!(count >= 12, "only {count} plans");
}

#[test]
fn golden_the_study_runs_in_miniature_with_overrides_alone() {
    let (Some(checkpoint), Some(photos)) = (checkpoint(), shared("data/photos")) else {
        return;
    };
    let lab = Lab::new("");
    let spec = spec("imagenet_3b");
    let overrides: Vec<String> = [
        set("vars.checkpoint", checkpoint.display()),
        set("vars.lists", photos.display()),
        set("vars.image_root", photos.display()),
        set(
            "vars.files",
            "{cold_start: cold_start.json, train: train.json, val: val.json, sketch: ood_sketch.json}",
        ),
        set("stages.ood.matrix.set", "[sketch]"),
        set("stages.cold_start_data.with.limit", 8),
        set("stages.train.with.limit", 8),
        set("stages.val.with.limit", 4),
        set("stages.ood.with.limit", 4),
        set("vars.precision", "f32"),
        set("stages.cold_start.with.steps", 1),
        set("stages.rollouts.with.max_new_tokens", 4),
        set("stages.difficulty.with.quantiles", "{edges: [0.3, 0.7], names: [easy, medium, hard]}"),
        set("vars.steps", 2),
        set("vars.save_steps", 1),
        set("stages.grpo.with.prompts_per_step", 2),
        set("stages.grpo.with.max_new_tokens", 4),
        set("stages.eval_sft_id.matrix.step", "[2]"),
        set("stages.eval_sft_ood.matrix.step", "[2]"),
        set("stages.eval_grpo_id.matrix.step", "[2]"),
        set("stages.eval_grpo_ood.matrix.step", "[2]"),
    ]
    .concat();
    let with = |command: &[&str]| {
        let args: Vec<&str> = command
            .iter()
            .copied()
            .chain(overrides.iter().map(String::as_str))
            .collect();
        lab.ok(&args)
    };
    let events = lines(&with(&["run", &spec, "--json"]));
    let last = events.last().expect("an event");
    assert_eq!(last["failed"], 0, "{last}");
    let rows = lines(&with(&["results", &spec, "--json", "--all-steps"]));
    let accuracy = |arm: &str, set: &str| {
        let mut found = rows
            .iter()
            .filter(|row| row["arm"] == arm && row["set"] == set && row["metric"] == "accuracy");
        found.next().map(|row| row["n"].clone())
    };
    for arm in [
        "cold_start",
        "sft/all",
        "sft/easy",
        "sft/medium",
        "sft/hard",
        "sft/easy+medium",
        "grpo",
    ] {
        for set in ["val", "sketch"] {
            assert_eq!(accuracy(arm, set), Some(4.into()), "{arm} on {set}");
        }
    }
    let again = lines(&with(&["run", &spec, "--json"]));
    assert_eq!(again.last().expect("an event")["executed"], 0);

    // Each limit of an image's area is in the keys of the stages that it is for, and of no others.
    for (limit, first) in [
        ("vars.max_pixels", &["sft"][..]),
        ("vars.max_pixels_grpo", &["grpo"]),
        ("vars.max_pixels_scoring", &["eval", "rollout"]),
    ] {
        let [flag, value] = set(limit, 40_000);
        let plan = lines(&with(&["plan", &spec, "--json", &flag, &value]));
        let mut kinds: Vec<&str> = plan
            .iter()
            .filter(|line| line["state"] == "to run")
            .filter_map(|line| line["kind"].as_str())
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds, first, "{limit}");
    }
}

#[test]
fn golden_the_grounding_study_runs_in_miniature() {
    let (Some(checkpoint), Some(photos)) = (checkpoint(), shared("data/photos")) else {
        return;
    };
    let lab = Lab::new("");
    let text = std::fs::read_to_string(photos.join("train.json")).expect("a list");
    let mut records: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    records.truncate(6);
    for record in &mut records {
        record["problem"] = "Where is it? Answer as [x1, y1, x2, y2].".into();
        record["solution"] = "[1, 2, 20, 30]".into();
    }
    for name in [
        "refcoco_cold_sft",
        "refcoco_left_grpo",
        "refcoco_val_processed",
        "refcoco_plus_val_processed",
        "refcocog_val_processed",
        "lisa_test_processed",
        "refgta_test_processed",
    ] {
        let list = Value::from(records.clone()).to_string();
        lab.write(&format!("lists/{name}.json"), &list);
    }
    let lists = lab.root().join("lists");
    let spec = spec("refcoco_3b");
    let args: Vec<String> = [
        set("vars.checkpoint", checkpoint.display()),
        set("vars.lists", lists.display()),
        set("vars.image_root", photos.display()),
        set("vars.precision", "f32"),
        set("stages.cold_start.with.steps", 1),
        set("stages.rollouts.with.max_new_tokens", 4),
        set("stages.sft.matrix.subset", "[all]"),
        set("vars.steps", 1),
        set("vars.save_steps", 1),
        set("stages.grpo.with.prompts_per_step", 1),
        set("stages.grpo.with.max_new_tokens", 4),
        set("stages.eval_sft_id.matrix.step", "[1]"),
        set("stages.eval_sft_ood.matrix.step", "[1]"),
        set("stages.eval_grpo_id.matrix.step", "[1]"),
        set("stages.eval_grpo_ood.matrix.step", "[1]"),
    ]
    .concat();
    let with = |command: &[&str]| {
        let args = args.iter().map(String::as_str);
        let all: Vec<&str> = command.iter().copied().chain(args).collect();
        lines(&lab.ok(&all))
    };
    assert_eq!(
        with(&["run", &spec, "--json"]).last().expect("an event")["failed"],
        0
    );
    let rows = with(&["results", &spec, "--json"]);
    let sets = |split: &str| -> std::collections::BTreeSet<&str> {
        let of_split = rows.iter().filter(|row| row["split"] == split);
        of_split.filter_map(|row| row["set"].as_str()).collect()
    };
    assert_eq!(sets("id"), ["refcoco", "refcoco-plus", "refcocog"].into());
    assert_eq!(sets("ood"), ["lisa", "refgta"].into());
}
