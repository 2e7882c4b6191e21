//! How a store with many blobs behaves: `cargo run --release -p dcsft-cache --example many_blobs FOLDER [BLOBS ...]`.
//!
//! Fills the store in FOLDER until it has BLOBS blobs (1,000, 10,000, 100,000 and 1,000,000, or the numbers given), as
//! results of a list of a thousand small files each, and says at each size what takes how long: a look-up by a store
//! that was just opened, opening a result's files, and collections that find nothing to remove and a tenth.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dcsft_cache::gc::{self, Policy};
use dcsft_cache::{Digest, Json, OutputRef, Record, Store};
use serde_json::json;

/// Files of one result.
const FILES: u64 = 1000;
/// Look-ups that are timed, and every which-th record is removed.
const SOME: u64 = 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let root = PathBuf::from(words.next().ok_or("which folder?")?);
    let mut sizes: Vec<u64> = words.map(|word| word.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![1_000, 10_000, 100_000, 1_000_000];
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "|     blobs | fill of each |  look-up | open 1,000 files | gc of nothing | gc of a tenth |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|")?;
    let mut filled = 0;
    for size in sizes {
        let results = size / FILES;
        let began = Instant::now();
        for result in filled..results {
            fill(&root, result)?;
        }
        let fill = began.elapsed().as_secs_f64() / ((results - filled).max(1) * FILES) as f64;
        let look_up = timed(|| look_up(&root, results))? / SOME.min(results) as f64;
        let open = timed(|| open(&root, results / 2))?;
        let nothing = timed(|| collect(&root, 0..0))?;
        let tenth = timed(|| collect(&root, 0..results.div_ceil(SOME)))?;
        writeln!(
            out,
            "| {size:>9} | {:>9.1} us | {:>5.0} us | {:>13.1} ms | {nothing:>11.2} s | {tenth:>11.2} s |",
            fill * 1e6,
            look_up * 1e6,
            open * 1e3,
        )?;
        out.flush()?;
        // What was removed is put back, so that the next size is a whole one.
        for result in 0..results.div_ceil(SOME) {
            fill_again(&root, result)?;
        }
        filled = results;
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64())
}

fn key(result: u64) -> Digest {
    Digest::of_bytes(&result.to_le_bytes())
}

fn fill_again(root: &Path, result: u64) -> Result<(), Box<dyn Error>> {
    let known = Store::open(root)?.lookup(&key(result))?;
    known.map_or_else(|| fill(root, result), |_| Ok(()))
}

fn fill(root: &Path, result: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(root)?;
    let key = key(result);
    let dir = store.workspace(&key)?.join("data");
    fs::create_dir_all(&dir)?;
    for file in 0..FILES {
        let text = format!("{result} {file}\n");
        fs::write(dir.join(format!("{file:04}.txt")), text)?;
    }
    let artifact = store.publish(&dir)?;
    store.clear_workspace(&key)?;
    store.commit(&Record {
        format: Record::FORMAT,
        key,
        label: format!("world[seed={result}]"),
        explain: Json::of(
            &json!({"kind": "shapes", "version": 1, "with": {"seed": result}, "inputs": {}}),
        ),
        outputs: [("data".to_owned(), OutputRef::from(&artifact))].into(),
        summary: json!({"samples": FILES}),
        execution: Json::of(&json!({"seconds": 0.1})),
        created_unix: 1_700_000_000,
    })?;
    Ok(())
}

/// Looks up a few results that lie apart.
fn look_up(root: &Path, results: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(root)?;
    for result in (0..results).step_by((results / SOME).max(1) as usize) {
        store.lookup(&key(result))?.ok_or("a result is missing")?;
    }
    Ok(())
}

/// Opens the files of a result, which checks each of them.
fn open(root: &Path, result: u64) -> Result<(), Box<dyn Error>> {
    let store = Store::open(root)?;
    let record = store.lookup(&key(result))?.ok_or("a result is missing")?;
    store.open_input(&record.outputs["data"].digest)?;
    Ok(())
}

/// Removes these results, and what nothing refers to then.
fn collect(root: &Path, results: std::ops::Range<u64>) -> Result<(), Box<dyn Error>> {
    let store = Store::open(root)?;
    let gone: Vec<Digest> = results.map(key).collect();
    let policy = Policy {
        drop_others: !gone.is_empty(),
        keep: match gone.is_empty() {
            true => Default::default(),
            false => {
                let all = store.records()?.collect::<Result<Vec<Record>, _>>()?;
                let keys = all.into_iter().map(|record| record.key);
                keys.filter(|key| !gone.contains(key)).collect()
            }
        },
        ..Policy::default()
    };
    let report = gc::collect(&store, &policy)?;
    let expected = gone.len() as u64;
    if report.removed_records != expected || report.removed_blobs != expected * FILES {
        return Err(format!(
            "{} records and {} blobs went",
            report.removed_records, report.removed_blobs
        )
        .into());
    }
    Ok(())
}
