//! Fills a cache with the records of a large study whose stages all came to the same bytes, so that a run of 100,000
//! finished stages can be measured without computing them.
//!
//!     dcsft run small.yaml; dcsft plan --json large.yaml | finished_stages CACHE
//!
//! The first stage of the plan has to be in the cache. Each of the others gets a record as its own: another key, the
//! same outputs.

use std::error::Error;
use std::io::BufRead;
use std::path::PathBuf;

use dcsft_cache::{Digest, Store};
use rayon::prelude::*;
use serde_json::Value;

fn main() -> Result<(), Box<dyn Error>> {
    let root = std::env::args_os().nth(1).ok_or("which cache?")?;
    let store = Store::open(&PathBuf::from(root))?;
    let mut keys = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if let Some(key) = line["key"].as_str() {
            keys.push(key.parse::<Digest>()?);
        }
    }
    let (first, others) = keys.split_first().ok_or("the plan has no stage")?;
    let record = store
        .lookup(first)?
        .ok_or("the first stage has no result")?;
    let written = others.par_iter().try_for_each(|key| {
        let mut record = record.clone();
        record.key = *key;
        store.commit(&record)
    });
    written?;
    Ok(())
}
