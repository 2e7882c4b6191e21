//! The stage `dataset`: users' JSON and JSONL lists with image files, validated record by record.
//!
//! A record that cannot be used is dropped with its reason (`dropped.jsonl`, counted in `dataset.json`), or
//! fails the stage with `on_error: fail`. Always: records read = kept + dropped.

mod drops;
mod layout;
mod params;
mod source;
mod validate;

pub use crate::misfit::OnError;
pub use drops::{DropReason, Dropped};
pub use layout::{Layout, RawRecord};
pub use params::DatasetParams;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::context::StageContext;
use dcsft_engine::forecast::{Forecast, Prospect};
use dcsft_engine::kind::{
    ArtifactType, FileParam, InputDecl, OutputDecl, ParamProblem, Stage, StageError,
};
use dcsft_engine::protocol::Progress;
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::data::DatasetWriter;
use crate::memory::{DataFacts, Spread};
use drops::DropLog;
use source::Source;

/// Records validated between two progress events; their images wait in memory for the writer.
const CHUNK: usize = 512;

/// The output's name.
const OUTPUT: &str = "data";

/// The stage kind `dataset`.
pub struct ImportDataset;

impl Stage for ImportDataset {
    type Params = DatasetParams;
    const NAME: &'static str = "dataset";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "Reads a JSON or JSONL list with image files and validates every record";
    const INPUTS: &'static [InputDecl] = &[];
    const NUMERIC: bool = false;

    fn outputs(_params: &DatasetParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new(OUTPUT, ArtifactType::Dataset)]
    }

    fn check(params: &DatasetParams) -> Vec<ParamProblem> {
        params.problems()
    }

    /// The list itself, and each image it names: known by the name as written, so that moving the folder
    /// changes nothing.
    fn files(params: &DatasetParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let path = root.join(&params.path);
        let list = FileParam {
            field: "path".into(),
            files: vec![(String::new(), path.clone())],
            required: true,
        };
        if !path.is_file() {
            let message = format!(
                "{} is a folder; name the JSON or JSONL file in it",
                path.display()
            );
            return if path.is_dir() {
                Err(ParamProblem::new("path", message))
            } else {
                Ok(vec![list])
            };
        }
        let source = Source::read(&path, params.layout)
            .map_err(|error| ParamProblem::new("path", error.to_string()))?;
        let folder = image_folder(params, &path, root);
        let mut names: Vec<&str> = params
            .select(source.records.len())
            .into_iter()
            .filter_map(|index| source.records[index].as_ref().ok())
            .flat_map(|record| record.images.iter().map(String::as_str))
            .filter(|name| !name.is_empty() && !layout::is_remote(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        let files = names
            .into_iter()
            .map(|name| (name.to_owned(), params.locate(&folder, name)))
            .collect();
        Ok(vec![
            list,
            FileParam {
                field: "image_root".into(),
                files,
                required: false,
            },
        ])
    }

    /// Of the artifact where it is in the cache, else of the list alone: images are not opened.
    fn forecast(params: &DatasetParams, prospect: &Prospect) -> Forecast {
        let cached = prospect
            .outputs
            .get(OUTPUT)
            .and_then(|dir| DataFacts::read(dir));
        let facts = cached.or_else(|| listed(params));
        Forecast {
            memory: None,
            facts: facts
                .map(|facts| (OUTPUT.to_owned(), facts.to_value()))
                .into_iter()
                .collect(),
        }
    }

    /// The records that will be read. How many of them can be used shows when their images are read.
    fn samples(params: &DatasetParams, root: &Path) -> BTreeMap<String, u64> {
        let source = Source::read(&root.join(&params.path), params.layout);
        let selected = source.map(|source| params.select(source.records.len()).len() as u64);
        selected
            .ok()
            .map(|count| (OUTPUT.to_owned(), count))
            .into_iter()
            .collect()
    }

    fn run(params: DatasetParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let path = PathBuf::from(&params.path);
        let source = Source::read(&path, params.layout).map_err(StageError::failed)?;
        let records = source.records.len();
        let selected = params.select(records);
        let folder = image_folder(&params, &path, Path::new(""));
        let dir = ctx.output(OUTPUT)?;
        let mut writer = DatasetWriter::create(&dir, &params.set, params.split)?;
        let mut drops = DropLog::create(&dir.join("dropped.jsonl"))?;
        let mut kept = 0;
        for (at, indices) in selected.chunks(CHUNK).enumerate() {
            let checked: Vec<_> = indices
                .par_iter()
                .map(|&index| {
                    let record = source.records[index].as_ref().map_err(Clone::clone)?;
                    validate::draft(&params, record, &folder)
                })
                .collect();
            for (&index, result) in indices.iter().zip(checked) {
                match result {
                    Ok(draft) => {
                        writer.push(draft)?;
                        kept += 1;
                    }
                    Err(dropped) => drops.push(index, &dropped)?,
                }
            }
            let done = (at * CHUNK + indices.len()) as u64;
            ctx.progress(Progress {
                done,
                total: selected.len() as u64,
                unit: "record".into(),
                ..Progress::default()
            });
            if ctx.interrupted() {
                return Err(StageError::Interrupted);
            }
        }
        let dropped = drops.finish()?;
        if kept == 0 || (params.on_error == OnError::Fail && dropped.total() > 0) {
            return Err(StageError::failed(
                dropped.describe(&params.path, selected.len()),
            ));
        }
        let totals = json!({"layout": source.layout, "records": records, "read": selected.len(), "kept": kept,
                            "dropped": dropped.total(), "dropped_by_reason": dropped.counts()});
        if dropped.total() > 0 {
            ctx.log(dropped.describe(&params.path, selected.len()));
        }
        writer.finish(notes(&totals))?;
        ctx.summarise(totals);
        Ok(())
    }
}

fn notes(totals: &Value) -> BTreeMap<String, Value> {
    totals
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What the list tells of the set.
fn listed(params: &DatasetParams) -> Option<DataFacts> {
    let source = Source::read(Path::new(&params.path), params.layout).ok()?;
    let chosen = params.select(source.records.len());
    let read = || {
        let record = |&index: &usize| source.records[index].as_ref().ok();
        chosen.iter().filter_map(record)
    };
    let question = |prompt: &str| params.prompt_for(prompt).len() as f64;
    Some(DataFacts {
        samples: Some(chosen.len() as u64),
        pixels: None,
        question: Spread::of(read().map(|record| question(&record.prompt))),
        answer: Spread::of(read().map(|record| record.answer.len() as f64)),
    })
}

/// The folder that image names are relative to: `image_root`, or the list's own.
fn image_folder(params: &DatasetParams, path: &Path, root: &Path) -> PathBuf {
    match &params.image_root {
        Some(folder) => root.join(folder),
        None => path.parent().unwrap_or(Path::new("")).to_owned(),
    }
}
