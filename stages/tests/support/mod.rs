//! Stages run in this process, on a tiny world: small images of one colour each, which the model has to name.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod conversations;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use dcsft_cache::Digest;
use dcsft_engine::stage::{
    ContextParts, Evaluated, Event, Input, Label, Relative, Shard, StageContext, StageError,
};
use dcsft_stages::data::{DatasetWriter, Draft, DraftImage, Encoding, Split};
use dcsft_tensor::rng::StreamKey;
use serde_json::{Value, json};

/// Names of the colours with red, green and blue.
pub const COLOURS: [(&str, [u8; 3]); 4] = [
    ("red", [230, 40, 40]),
    ("green", [40, 200, 40]),
    ("blue", [40, 60, 230]),
    ("white", [240, 240, 240]),
];

/// A scratch folder in which stages run and leave their artifacts.
pub struct Bench {
    root: tempfile::TempDir,
    runs: usize,
}

/// One run of a stage.
pub struct Run {
    /// How it ended; with the summary if well.
    pub result: Result<Value, StageError>,
    /// What it reported.
    pub events: Vec<Event>,
    /// Seconds that relatives have spared it.
    pub saved_seconds: f64,
    outputs: PathBuf,
}

impl Run {
    /// The folder of an output.
    pub fn output(&self, name: &str) -> PathBuf {
        self.outputs.join(name)
    }

    /// The summary.
    pub fn summary(&self) -> &Value {
        self.result
            .as_ref()
            .unwrap_or_else(|error| panic!("the stage failed: {error}"))
    }

    /// Why it failed.
    pub fn failure(&self) -> String {
        self.result
            .as_ref()
            .expect_err("the stage should have failed")
            .to_string()
    }

    /// All output files with their bytes, by path below the outputs.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        collect(&self.outputs, &self.outputs, &mut files);
        files
    }
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            files.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            );
        }
    }
}

/// How a stage is run.
#[derive(Default)]
pub struct How {
    /// Set the interrupted flag once this many progress events were seen.
    pub interrupt_after: Option<usize>,
    /// Scratch folder to share between tries; none gives a fresh one.
    pub state: Option<PathBuf>,
    /// Finished results of its family.
    pub relatives: Vec<Relative>,
    /// The part of its samples that it computes.
    pub shard: Option<Shard>,
    /// State folders of other attempts at the same result.
    pub parts: Vec<PathBuf>,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            runs: 0,
        }
    }

    /// A fresh sub-folder.
    pub fn folder(&mut self) -> PathBuf {
        self.runs += 1;
        let dir = self.root.path().join(self.runs.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// Runs the stage `kind` with `with` and artifacts by input name.
    pub fn run(&mut self, kind: &str, with: Value, inputs: &[(&str, Vec<Input>)]) -> Run {
        self.run_as(kind, with, inputs, How::default())
    }

    /// As [`Bench::run`], with an interrupt or a state from before.
    pub fn run_as(
        &mut self,
        kind: &str,
        with: Value,
        inputs: &[(&str, Vec<Input>)],
        how: How,
    ) -> Run {
        let registry = dcsft_stages::registry();
        let kind = registry
            .get(kind)
            .unwrap_or_else(|| panic!("no kind {kind:?}"));
        let params = kind
            .resolve(&with, self.root.path())
            .unwrap_or_else(|problems| panic!("{problems:?}"));
        let outputs = self.folder();
        let state = how.state.unwrap_or_else(|| self.folder());
        let events = Arc::new(Mutex::new(Vec::new()));
        let interrupted = Arc::new(AtomicBool::new(false));
        let emit = {
            let (events, interrupted) = (events.clone(), interrupted.clone());
            let mut seen = 0;
            Box::new(move |event: Event| {
                seen += usize::from(matches!(event, Event::Progress(_)));
                if how.interrupt_after.is_some_and(|after| seen >= after) {
                    interrupted.store(true, Ordering::Relaxed);
                }
                events.lock().unwrap().push(event);
            })
        };
        let mut context = StageContext::new(ContextParts {
            accelerators: Vec::new(),
            inputs: inputs
                .iter()
                .map(|(name, inputs)| ((*name).to_owned(), inputs.clone()))
                .collect(),
            outputs: outputs.clone(),
            state,
            device: "cpu".to_owned(),
            threads: 2,
            interrupted,
            emit,
            relatives: how.relatives,
            shard: how.shard,
            parts: how.parts,
        });
        let ended = kind.run(&params.params.value(), &mut context);
        let saved_seconds = context.saved().seconds;
        let result = ended.map(|()| context.into_summary().to_value());
        if result.is_ok() && how.shard.is_none() {
            for output in &params.outputs {
                assert!(
                    outputs.join(&output.name).is_dir(),
                    "the stage left out its output {}",
                    output.name
                );
            }
        }
        let events = std::mem::take(&mut *events.lock().unwrap());
        Run {
            result,
            events,
            saved_seconds,
            outputs,
        }
    }

    /// A model artifact, small enough to learn in seconds.
    pub fn model(&mut self, seed: u64) -> Input {
        let run = self.run("model", small_model(seed), &[]);
        run.summary();
        input("model", &run.output("model"))
    }

    /// A dataset artifact of `count` images; the colours take turns. `answer` may change the right answers.
    pub fn colours(
        &mut self,
        set: &str,
        seed: u64,
        count: usize,
        answer: impl Fn(usize, &str) -> String,
    ) -> Input {
        let dir = self.folder();
        let mut writer = DatasetWriter::create(&dir, set, Split::Id).unwrap();
        for index in 0..count {
            let (name, rgb) = COLOURS[index % COLOURS.len()];
            let mut stream = StreamKey::new("colours", seed)
                .text(set)
                .number(index as u64)
                .stream();
            let pixels: Vec<u8> = (0..64)
                .flat_map(|_| rgb)
                .map(|value| value.saturating_add_signed(stream.range(-30.0, 30.0) as i8))
                .collect();
            let image = DraftImage {
                bytes: pixels.into(),
                format: Encoding::Rgb8,
                width: 8,
                height: 8,
            };
            let meta = BTreeMap::from([("class".to_owned(), json!(name))]);
            writer
                .push(Draft::new(
                    "<image>color?".to_owned(),
                    answer(index, name),
                    vec![image],
                    meta,
                ))
                .unwrap();
        }
        writer.finish(BTreeMap::new()).unwrap();
        input("data", &dir)
    }
}

/// `with:` of a model for 8x8 images that can write the colours' names.
pub fn small_model(seed: u64) -> Value {
    let blocks = json!({"width": 16, "layers": 1, "heads": 2});
    json!({"seed": seed, "image_size": 8, "patch_size": 4, "vision": blocks, "decoder": blocks,
           "max_text_tokens": 8, "words": ["color?"]})
}

/// The artifact in `dir` as an input.
pub fn input(stage: &str, dir: &Path) -> Input {
    labelled(stage, stage, &[], dir)
}

/// The artifact in `dir` as an input that counts to `arm`, of the cell `axes`.
pub fn labelled(stage: &str, arm: &str, axes: &[(&str, Value)], dir: &Path) -> Input {
    let axes: BTreeMap<String, Value> = axes
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect();
    let step = axes.get("step").and_then(Value::as_u64);
    let label = Label {
        stage: stage.to_owned(),
        output: stage.to_owned(),
        axes,
        arm: arm.to_owned(),
        evaluated: step.map(|step| Evaluated {
            step: Some(step),
            ..Evaluated::default()
        }),
    };
    Input {
        label,
        digest: Digest::of_bytes(dir.to_string_lossy().as_bytes()),
        dir: dir.to_owned(),
    }
}

/// Lines of a JSONL file.
pub fn json_lines(path: &Path) -> Vec<Value> {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Runs `work` on a pool of `threads` threads.
pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .unwrap()
        .install(work)
}
