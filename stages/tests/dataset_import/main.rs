//! The stage `dataset`: what it takes, what it drops and why, and that totals balance.

#[path = "../common/mod.rs"]
mod common;
mod drops;
mod files;
mod forms;
mod identity;
mod images;
mod lists;
mod params;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::ResolvedParams;
use dcsft_stages::data::Dataset;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use support::{Bench, Run, json_lines};

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
