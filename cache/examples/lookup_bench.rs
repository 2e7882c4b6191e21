//! How long a fully cached run spends in the store: `cargo run --release -p dcsft-cache --example lookup_bench [KEYS [ROUNDS]]`.
//!
//! Fills a store in a temporary folder with records of the size that real stages have, then looks all of them up from
//! a freshly opened store, 10 times or ROUNDS times.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::time::Instant;

use dcsft_cache::{Digest, Json, OutputRef, Record, Store};
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let number = |at, default| {
        std::env::args()
            .nth(at)
            .map_or(Ok(default), |text| text.parse::<u64>())
    };
    let (keys, rounds) = (number(1, 1000)?, number(2, 10)?);
    let folder = tempfile::tempdir()?;
    let store = Store::open(&folder.path().join("cache"))?;
    let keys: Vec<Digest> = (0..keys)
        .map(|index| Digest::of_bytes(&index.to_le_bytes()))
        .collect();
    let began = Instant::now();
    for key in &keys {
        fill(&store, key)?;
    }
    let filled = began.elapsed();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "publish and commit: {:.2} ms per key",
        filled.as_secs_f64() * 1e3 / keys.len() as f64
    )?;
    for round in 1..=rounds {
        let began = Instant::now();
        let store = Store::open(store.root())?;
        let mut found = 0;
        for key in &keys {
            found += usize::from(store.lookup(key)?.is_some());
        }
        let elapsed = began.elapsed();
        writeln!(
            out,
            "round {round}: {found} of {} found in {:.2} ms",
            keys.len(),
            elapsed.as_secs_f64() * 1e3
        )?;
    }
    Ok(())
}

fn fill(store: &Store, key: &Digest) -> Result<(), Box<dyn Error>> {
    let dir = store.workspace(key)?.join("model");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("weights.bin"), key.as_bytes().repeat(64))?;
    fs::write(dir.join("log.jsonl"), format!("{key}\n").repeat(20))?;
    let artifact = store.publish(&dir)?;
    store.clear_workspace(key)?;
    let with = json!({"model": key, "data": key, "lr": 1e-4, "steps": 300, "batch": 16, "warmup": 0.1, "schedule": "cosine",
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "targets": ["decoder", "projector"]}, "seed": 0});
    store.commit(&Record {
        format: Record::FORMAT,
        key: *key,
        label: "sft[subset=easy]".into(),
        explain: Json::of(&json!({"kind": "sft", "version": 1, "with": with, "inputs": {"model": key, "data": key}})),
        outputs: [("model".to_owned(), OutputRef::from(&artifact))].into(),
        summary: json!({"loss": 0.25, "steps": 300, "samples": 4800}),
        execution: Json::of(&json!({"seconds": 12.5})),
        created_unix: 1_700_000_000,
    })?;
    Ok(())
}
