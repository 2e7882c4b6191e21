//! The stage `dataset`: users' lists with image files, validated record by record.
//!
//! A record that cannot be used is dropped with its reason (`dropped.jsonl`, counted in `dataset.json`), or
//! fails the stage with `on_error: fail`. Always: records read = kept + left out.

pub(crate) mod cell;
mod drops;
mod grounding;
mod json;
mod layout;
mod limits;
mod lists;
pub(crate) mod names;
mod params;
pub(crate) mod source;
mod table;
mod turns;
mod validate;

pub use crate::misfit::{MaxDropped, OnError};
pub use drops::{DropReason, Dropped};
pub use layout::{Layout, RawRecord};
pub use names::{ImageRef, Inline};
pub use params::{DatasetParams, Lists};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dcsft_engine::stage::{
    ArtifactType, Fact, FileParam, Forecast, KindDecl, OutputDecl, ParamProblem, Progress,
    Prospect, Stage, StageContext, StageError,
};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::data::DatasetWriter;
use crate::memory::{DataFacts, Spread};
use crate::misfit::DROPPED;
use drops::{DropLog, OUTPUT};
use lists::Chosen;

/// Records validated between two progress events; their images wait in memory for the writer.
const CHUNK: usize = 512;
/// Bytes of image files that are validated together.
const CHUNK_BYTES: u64 = 256 << 20;

/// The stage kind `dataset`.
pub struct ImportDataset;

impl Stage for ImportDataset {
    type Params = DatasetParams;
    const DECL: KindDecl = KindDecl {
        name: "dataset",
        version: 3,
        summary: "Reads lists with image files (JSON, JSON lines, Parquet) and validates every record",
        inputs: &[],
        numeric: false,
        labelled: false,
        shardable: false,
        paths: &[&["path"], &["image_root"]],
    };

    fn outputs(_params: &DatasetParams) -> Vec<OutputDecl> {
        vec![OutputDecl::new(OUTPUT, ArtifactType::Dataset)]
    }

    fn check(params: &DatasetParams) -> Vec<ParamProblem> {
        params.problems()
    }

    /// The lists themselves, and each image that they name: known by the name as written, so that moving the folder
    /// changes nothing.
    fn files(params: &DatasetParams, root: &Path) -> Result<Vec<FileParam>, ParamProblem> {
        let paths = params.path.paths();
        let files: Vec<_> = paths
            .iter()
            .enumerate()
            .map(|(at, path)| (lists::key_name(params, at), root.join(path)))
            .collect();
        let missing = files.iter().any(|(_, path)| !path.exists());
        let list = FileParam {
            field: "path".into(),
            files,
            required: true,
        };
        if missing {
            return Ok(vec![list]);
        }
        let chosen = Chosen::read(params, root)
            .map_err(|error| ParamProblem::new("path", error.to_string()))?;
        let files = chosen.image_files(params);
        look_for_images(params, root, &files)?;
        let images = FileParam {
            field: "image_root".into(),
            files,
            required: false,
        };
        Ok(vec![list, images])
    }

    /// Of the artifact where it is in the cache, else of the list alone: images are not opened.
    fn forecast(params: &DatasetParams, prospect: &Prospect) -> Forecast {
        if !prospect.memory {
            return Forecast::default();
        }
        let cached = prospect
            .outputs
            .get(OUTPUT)
            .and_then(|dir| DataFacts::read(dir));
        let facts = cached.or_else(|| listed(params));
        Forecast {
            facts: facts
                .map(|facts| (OUTPUT.to_owned(), Fact::new(facts)))
                .into_iter()
                .collect(),
            ..Forecast::default()
        }
    }

    /// The records that will be read. How many of them can be used shows when their images are read.
    fn samples(params: &DatasetParams, root: &Path) -> BTreeMap<String, u64> {
        let chosen = Chosen::read(params, root).ok();
        let count = chosen.map(|chosen| (OUTPUT.to_owned(), chosen.rows.len() as u64));
        count.into_iter().collect()
    }

    fn run(params: DatasetParams, ctx: &mut StageContext) -> Result<(), StageError> {
        let chosen = Chosen::read(&params, Path::new("")).map_err(StageError::failed)?;
        let read = chosen.rows.len() as u64;
        let dir = ctx.output(OUTPUT)?;
        let mut writer = DatasetWriter::create(&dir, &params.set, params.split)?;
        let mut drops = DropLog::create(&dir.join(DROPPED))?;
        let mut done = 0;
        for rows in chosen.chunks(CHUNK, CHUNK_BYTES) {
            let checked: Vec<_> = rows
                .par_iter()
                .map(|&row| {
                    let record = chosen.record(row).map_err(Clone::clone)?;
                    validate::draft(&params, record, chosen.roots(row))
                })
                .collect();
            for (&row, result) in rows.iter().zip(checked) {
                match result {
                    Ok(draft) => drop(writer.push(draft)?),
                    Err(dropped) => drops.push(chosen.list(row), row.index, &dropped)?,
                }
            }
            done += rows.len() as u64;
            ctx.progress(Progress {
                done,
                total: read,
                unit: "record".into(),
                ..Progress::default()
            });
            if ctx.interrupted() {
                return Err(StageError::Interrupted);
            }
        }
        let (left_out, described) = drops.finish(&chosen.names(), read)?;
        let kept = read - left_out.count;
        if kept == 0 || (params.on_error == OnError::Fail && left_out.count > 0) {
            return Err(StageError::failed(described));
        }
        if let Some(most) = params.max_dropped {
            most.check(&left_out)
                .map_err(|problem| StageError::failed(format!("{problem}\n{described}")))?;
        }
        if left_out.count > 0 {
            ctx.log(described);
        }
        let totals = json!({"layout": chosen.layouts(), "records": chosen.records, "read": read, "kept": kept});
        let mut notes = notes(&totals);
        notes.insert("left_out".into(), json!(left_out));
        writer.finish(notes)?;
        ctx.leave_out(left_out);
        ctx.summarise(totals);
        Ok(())
    }
}

/// Refuses a folder of images that is none, and warns where not one image of the list is there: a list can be planned
/// before its images have come.
fn look_for_images(
    params: &DatasetParams,
    root: &Path,
    files: &[(String, PathBuf)],
) -> Result<(), ParamProblem> {
    if let Some(folder) = &params.image_root
        && !root.join(folder).is_dir()
    {
        let message = format!("there is no folder {}", root.join(folder).display());
        return Err(ParamProblem::new("image_root", message));
    }
    if let Some((name, path)) = files.first()
        && !files.iter().any(|(_, path)| path.exists())
    {
        tracing::warn!(
            "none of the {} images that {} names is there; {name:?} is looked for at {}",
            files.len(),
            params.path.paths().join(", "),
            path.display()
        );
    }
    Ok(())
}

fn notes(totals: &Value) -> BTreeMap<String, Value> {
    totals
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What the lists tell of the set.
fn listed(params: &DatasetParams) -> Option<DataFacts> {
    let chosen = Chosen::read(params, Path::new("")).ok()?;
    let read = || {
        let record = |&row| chosen.record(row).ok();
        chosen.rows.iter().filter_map(record)
    };
    let question = |prompt: &str| params.prompt_for(prompt).len() as f64;
    Some(DataFacts {
        samples: Some(chosen.rows.len() as u64),
        pixels: None,
        question: Spread::of(read().map(|record| question(&record.prompt))),
        answer: Spread::of(read().map(|record| record.answer.len() as f64)),
    })
}
