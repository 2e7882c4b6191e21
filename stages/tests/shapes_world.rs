//! The micro world through its stage: what it writes, and that what it shows has the promised statistics.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use dcsft_stages::data::{Dataset, Sample, Split};
use dcsft_stages::shapes::{OBJECTS, SCENES, Set, ShapesParams, picture};
use serde_json::{Value, json};
use support::{Bench, Run, on_threads};

/// A world of a few thousand images, drawn in well under a second.
fn world(with: Value) -> (Bench, Run) {
    let mut bench = Bench::new();
    let mut params = json!({"counts": {"pretrain": 4000, "cold_start": 40, "train": 4000, "val": 50,
                                       "rendition": 3000, "adversarial": 1000}});
    for (name, value) in with.as_object().unwrap() {
        params[name] = value.clone();
    }
    let run = bench.run("shapes", params, &[]);
    run.summary();
    (bench, run)
}

fn open(run: &Run, set: &str) -> Dataset {
    Dataset::open(&run.output(set)).unwrap_or_else(|error| panic!("{error}"))
}

fn meta<'a>(sample: &'a Sample, field: &str) -> &'a str {
    sample.meta[field].as_str().unwrap()
}

/// Whether a share of `n` draws is within five standard errors of `expected`.
fn close(hits: usize, n: usize, expected: f64) -> bool {
    let error = (expected * (1.0 - expected) / n as f64).sqrt();
    (hits as f64 / n as f64 - expected).abs() <= 5.0 * error
}

fn own_scene(sample: &Sample) -> bool {
    let place = |words: &[&str], word: &str| words.iter().position(|known| *known == word).unwrap();
    place(&OBJECTS, meta(sample, "class")) == place(&SCENES, meta(sample, "scene"))
}

#[test]
fn every_set_has_its_size_name_split_and_images() {
    let (_bench, run) = world(json!({}));
    let expected = [
        ("train", 4000, Split::Id),
        ("cold_start", 40, Split::Id),
        ("val", 50, Split::Id),
        ("pretrain", 4000, Split::Id),
        ("rendition", 3000, Split::Ood),
        ("adversarial", 1000, Split::Ood),
    ];
    for (set, count, split) in expected {
        let data = open(&run, set);
        assert_eq!(
            (data.info().set.as_str(), data.len(), data.info().split),
            (set, count, split)
        );
        for sample in &data.samples()[..10] {
            let image = data.image(sample).unwrap();
            assert_eq!(
                (image.width, image.height, image.pixels.len()),
                (16, 16, 768)
            );
        }
    }
}

#[test]
fn the_same_bytes_come_out_on_one_thread_and_on_two() {
    let small = json!({"seed": 5, "counts": {"pretrain": 9000, "cold_start": 7, "train": 300, "val": 0,
                                             "rendition": 20, "adversarial": 20}});
    let draw = |threads| {
        on_threads(threads, || {
            Bench::new().run("shapes", small.clone(), &[]).files()
        })
    };
    let one = draw(1);
    assert_eq!(one.len(), 18);
    assert!(one == draw(2), "the files differ");
}

/// A change of any byte has to be meant: raise the kind's version with it.
#[test]
fn the_world_of_version_1_keeps_its_bytes() {
    let params = ShapesParams {
        seed: 11,
        ..ShapesParams::default()
    };
    let mut hasher = blake3::Hasher::new();
    for set in Set::ALL {
        for index in 0..64 {
            hasher.update(&picture(&params, set, index).pixels);
        }
    }
    let found = hasher.finalize().to_hex();
    assert_eq!(
        found.as_str(),
        "edee52f60a383998f80281f2b7a309b9144de9a65e2e63a13701de6b097ebf81"
    );
}

#[test]
fn a_set_does_not_change_when_another_grows_and_grows_by_appending() {
    let (_a, small) = world(json!({"counts": {"train": 100, "pretrain": 10, "val": 5}}));
    let (_b, large) = world(json!({"counts": {"train": 200, "pretrain": 20, "val": 5}}));
    let (few, many) = (open(&small, "train"), open(&large, "train"));
    assert_eq!(few.samples(), &many.samples()[..100]);
    assert_eq!(open(&small, "val").samples(), open(&large, "val").samples());
}

#[test]
fn seeds_and_sets_share_no_image() {
    let (_a, first) = world(json!({"seed": 1}));
    let (_b, second) = world(json!({"seed": 2}));
    let mut ids = HashSet::new();
    let mut count = 0;
    for run in [&first, &second] {
        for set in ["train", "cold_start", "val"] {
            for sample in open(run, set).samples() {
                ids.insert(sample.id.clone());
                count += 1;
            }
        }
    }
    assert_eq!(ids.len(), count);
}

#[test]
fn in_distribution_the_own_scene_comes_with_probability_rho() {
    for rho in [0.9, 0.5, 0.0625] {
        let (_bench, run) = world(json!({"rho": rho}));
        let train = open(&run, "train");
        let own = train
            .samples()
            .iter()
            .filter(|sample| own_scene(sample))
            .count();
        assert!(
            close(own, train.len(), rho),
            "{own} of {} at rho {rho}",
            train.len()
        );
    }
}

#[test]
fn adversarial_images_never_have_the_own_scene() {
    let (_bench, run) = world(json!({}));
    assert!(!open(&run, "adversarial").samples().iter().any(own_scene));
}

#[test]
fn scenes_say_nothing_about_the_object_in_pretraining_and_renditions() {
    let (_bench, run) = world(json!({}));
    for set in ["pretrain", "rendition"] {
        let data = open(&run, set);
        let own = data
            .samples()
            .iter()
            .filter(|sample| own_scene(sample))
            .count();
        assert!(
            close(own, data.len(), 1.0 / 16.0),
            "{own} of {} in {set}",
            data.len()
        );
    }
}

#[test]
fn objects_are_uniform_and_styles_have_their_shares() {
    let (_bench, run) = world(json!({}));
    let shares = [
        ("train", vec![("photo", 1.0)]),
        ("adversarial", vec![("photo", 1.0)]),
        (
            "pretrain",
            vec![
                ("photo", 0.4),
                ("sketch", 0.2),
                ("negative", 0.2),
                ("paint", 0.2),
            ],
        ),
        (
            "rendition",
            vec![
                ("sketch", 1.0 / 3.0),
                ("negative", 1.0 / 3.0),
                ("paint", 1.0 / 3.0),
            ],
        ),
    ];
    for (set, styles) in shares {
        let data = open(&run, set);
        let count = |field: &str, word: &str| {
            data.samples()
                .iter()
                .filter(|s| meta(s, field) == word)
                .count()
        };
        for object in OBJECTS {
            assert!(
                close(count("class", object), data.len(), 1.0 / 16.0),
                "{object} in {set}"
            );
        }
        for (style, share) in styles {
            assert!(
                close(count("style", style), data.len(), share),
                "{style} in {set}"
            );
        }
    }
}

#[test]
fn only_in_distribution_are_objects_hidden() {
    let (_bench, run) = world(json!({"p_hide": 0.3}));
    let hidden = |set: &str| {
        open(&run, set)
            .samples()
            .iter()
            .filter(|s| s.meta["hidden"] == true)
            .count()
    };
    assert!(close(hidden("train"), 4000, 0.3));
    assert_eq!(
        [
            hidden("pretrain"),
            hidden("rendition"),
            hidden("adversarial")
        ],
        [0; 3]
    );
}

#[test]
fn pretraining_never_answers_as_the_task_does() {
    let (_bench, run) = world(json!({}));
    let data = open(&run, "pretrain");
    let mut prompts: BTreeMap<&str, usize> = BTreeMap::new();
    for sample in data.samples() {
        *prompts.entry(&sample.prompt).or_default() += 1;
        let (class, scene) = (meta(sample, "class"), meta(sample, "scene"));
        let caption = format!("{class} on {scene}");
        assert_eq!(
            sample.answer,
            if sample.prompt == "<image>scene?" {
                scene
            } else {
                &caption
            }
        );
    }
    assert!(
        close(prompts["<image>object?"], data.len(), 0.375),
        "{prompts:?}"
    );
    assert!(
        close(prompts["<image>caption"], data.len(), 0.375),
        "{prompts:?}"
    );
    assert!(
        close(prompts["<image>scene?"], data.len(), 0.25),
        "{prompts:?}"
    );
    assert_eq!(prompts.len(), 3);
    for set in ["train", "cold_start", "val", "rendition", "adversarial"] {
        for sample in open(&run, set).samples() {
            assert_eq!(
                (sample.prompt.as_str(), sample.answer.as_str()),
                ("<image>object?", meta(sample, "class"))
            );
        }
    }
}

/// A world without noise, occluders and turning: what is drawn is the object alone.
fn clear() -> ShapesParams {
    let look = json!({"noise": [0, 0], "occlusion": 0, "rotation": 0, "scale": [0.9, 0.9], "visibility": [1, 1]});
    let with = json!({"p_hide": 0, "looks": {"id": look, "pretrain": look, "rendition": look, "adversarial": look}});
    serde_json::from_value(with).unwrap()
}

/// Red, green and blue of a pixel, from 0 to 1.
fn pixel(pixels: &[u8], size: usize, x: usize, y: usize) -> [f64; 3] {
    std::array::from_fn(|channel| f64::from(pixels[(y * size + x) * 3 + channel]) / 255.0)
}

#[test]
fn the_colour_of_an_object_says_nothing_about_its_class() {
    // The middle of a disk, a box and a gem is the object's own colour.
    let params = clear();
    let mut means: BTreeMap<usize, (f64, f64, usize)> = BTreeMap::new();
    for index in 0..6000 {
        let drawn = picture(&params, Set::Train, index);
        if [0, 1, 6].contains(&drawn.object) {
            let [r, g, b] = pixel(&drawn.pixels, 16, 8, 8);
            let mean = means.entry(drawn.object).or_default();
            *mean = (mean.0 + r - b, mean.1 + g - b, mean.2 + 1);
        }
    }
    for (object, (red, green, n)) in means {
        // Colour differences have a standard deviation below 0.5.
        let limit = 5.0 * 0.5 / (n as f64).sqrt();
        assert!(
            n > 200 && (red / n as f64).abs() < limit && (green / n as f64).abs() < limit,
            "class {object}"
        );
    }
}

#[test]
fn a_scene_has_its_hue_and_its_direction_of_stripes() {
    let params = clear();
    for index in 0..400 {
        let drawn = picture(&params, Set::Adversarial, index);
        // The frame of the picture is scene alone.
        let corner = |x, y| pixel(&drawn.pixels, 16, x, y);
        let along = if drawn.scene < 8 {
            [corner(0, 0), corner(15, 0)]
        } else {
            [corner(0, 0), corner(0, 15)]
        };
        assert_eq!(
            along[0], along[1],
            "scene {} of picture {index} is not striped that way",
            drawn.scene
        );
        let hue = hue(corner(0, 0)) * 8.0;
        let away = (hue - (drawn.scene % 8) as f64 + 12.0) % 8.0 - 4.0;
        assert!(away.abs() < 0.3, "scene {} has hue {hue}", drawn.scene);
    }
}

/// Hue in turns.
fn hue([r, g, b]: [f64; 3]) -> f64 {
    let (most, least) = (r.max(g).max(b), r.min(g).min(b));
    let sector = if most == r {
        (g - b) / (most - least)
    } else if most == g {
        2.0 + (b - r) / (most - least)
    } else {
        4.0 + (r - g) / (most - least)
    };
    (sector / 6.0).rem_euclid(1.0)
}

#[test]
fn negatives_fill_the_shape_and_nothing_else() {
    let params = clear();
    let mut areas: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for index in 0..3000 {
        let drawn = picture(&params, Set::Rendition, index);
        if drawn.style.name() == "negative" {
            let area = drawn
                .pixels
                .chunks(3)
                .filter(|pixel| pixel[0] > 128)
                .count();
            areas.entry(drawn.object).or_default().push(area);
        }
    }
    let mean =
        |object: usize| areas[&object].iter().sum::<usize>() as f64 / areas[&object].len() as f64;
    assert_eq!(areas.len(), 16);
    // Radius 0.9 x 8 pixels: a disk of 0.85 radii, a box of half side 0.75, a ring between 0.45 and 0.85.
    let unit = 7.2_f64.powi(2);
    let pi = std::f64::consts::PI;
    for (object, expected) in [
        (0, pi * 0.85_f64.powi(2)),
        (1, 1.5_f64.powi(2)),
        (5, pi * (0.85_f64.powi(2) - 0.45_f64.powi(2))),
        (6, 2.0),
    ] {
        let (found, expected) = (mean(object), expected * unit);
        assert!(
            (found / expected - 1.0).abs() < 0.08,
            "{}: {found} pixels, not {expected}",
            OBJECTS[object]
        );
    }
}

#[test]
fn a_larger_world_shows_the_same_pictures_in_more_detail() {
    let params = ShapesParams {
        image_size: 64,
        ..clear()
    };
    for index in 0..60 {
        let (small, large) = (
            picture(&clear(), Set::Val, index),
            picture(&params, Set::Val, index),
        );
        assert_eq!(
            (small.object, small.scene, small.style),
            (large.object, large.scene, large.style)
        );
        assert_eq!(large.pixels.len(), 64 * 64 * 3);
        // The mean colour does not depend on the resolution.
        for channel in 0..3 {
            let mean = |pixels: &[u8]| {
                pixels
                    .iter()
                    .skip(channel)
                    .step_by(3)
                    .map(|v| f64::from(*v))
                    .sum::<f64>()
                    / (pixels.len() / 3) as f64
            };
            assert!(
                (mean(&small.pixels) - mean(&large.pixels)).abs() < 6.0,
                "picture {index}"
            );
        }
    }
}

#[test]
fn a_partial_look_keeps_the_rest_of_its_recipe() {
    let given: ShapesParams =
        serde_json::from_value(json!({"looks": {"rendition": {"noise": [0, 0.3]}}})).unwrap();
    let recipe = ShapesParams::default();
    assert_eq!(given.looks.rendition.noise, [0.0, 0.3]);
    assert_eq!(given.looks.rendition.scale, recipe.looks.rendition.scale);
    assert_eq!(given.looks.id, recipe.looks.id);
}

#[test]
fn params_that_cannot_be_drawn_are_refused_with_their_path() {
    let kinds = dcsft_stages::registry();
    let problem = |with: Value| {
        let problems = kinds
            .get("shapes")
            .unwrap()
            .resolve(&with, Path::new("."))
            .unwrap_err();
        let path = problems[0].path.join(".");
        format!("{path}: {}", problems[0].message)
    };
    assert!(problem(json!({"image_size": 4})).starts_with("image_size: 4 is not a size"));
    assert!(problem(json!({"rho": 1.5})).starts_with("rho: 1.5 is out of range"));
    assert!(
        problem(json!({"looks": {"id": {"scale": [0.9, 0.5]}}}))
            .starts_with("looks.id.scale: [0.9, 0.5]")
    );
    assert!(problem(json!({"counts": {"trian": 3}})).contains("trian"));
}

#[test]
fn label_noise_changes_that_share_of_the_training_answers_and_nothing_else() {
    let (_a, clean) = world(json!({}));
    let (_b, some) = world(json!({"label_noise": 0.2}));
    let (_c, more) = world(json!({"label_noise": 0.4}));
    for set in ["val", "cold_start", "pretrain", "rendition", "adversarial"] {
        let ids = |run: &Run| -> Vec<String> {
            let data = open(run, set);
            data.samples()
                .iter()
                .map(|sample| sample.id.clone())
                .collect()
        };
        assert_eq!(ids(&clean), ids(&more), "{set}");
    }
    let (clean, some, more) = (
        open(&clean, "train"),
        open(&some, "train"),
        open(&more, "train"),
    );
    let (mut few, mut many) = (0, 0);
    for ((right, some), more) in clean
        .samples()
        .iter()
        .zip(some.samples())
        .zip(more.samples())
    {
        assert_eq!(right.answer, meta(right, "class"));
        for noisy in [some, more] {
            assert_eq!(meta(noisy, "class"), right.answer);
            assert_eq!(
                noisy.meta.contains_key("relabelled"),
                noisy.answer != right.answer
            );
            assert!(OBJECTS.contains(&noisy.answer.as_str()));
        }
        few += usize::from(some.answer != right.answer);
        many += usize::from(more.answer != right.answer);
        // What is wrong at one fifth is wrong in the same way at two fifths.
        assert!(some.answer == right.answer || some.answer == more.answer);
    }
    assert!(
        close(few, 4000, 0.2) && close(many, 4000, 0.4),
        "{few} {many}"
    );
}

#[test]
fn clean_labels_are_no_part_of_the_params() {
    let written = serde_json::to_value(ShapesParams::default()).unwrap();
    assert!(written.get("label_noise").is_none());
    let noisy = ShapesParams {
        label_noise: 0.1,
        ..ShapesParams::default()
    };
    assert_eq!(serde_json::to_value(noisy).unwrap()["label_noise"], 0.1);
}
