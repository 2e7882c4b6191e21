//! `dcsft cache`: look into the cache, check it, make it smaller.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use dcsft_cache::{Digest, Record, Store, gc, verify};
use serde_json::json;

use crate::cli::{Cache, CacheGc, CacheLs, CachePath, SpecArgs};
use crate::exit::{Exit, Failure};
use crate::output::{bytes, count, print_json, print_table, stdout, table};
use crate::report::scale::duration;
use crate::settings::App;

/// Runs a sub-command.
///
/// # Errors
/// A cache that cannot be read; a wrong digest.
pub(crate) fn run(app: &App, command: &Cache) -> Result<Exit, Failure> {
    match command {
        Cache::Ls(args) => ls(app, args),
        Cache::Path(args) => path(app, args),
        Cache::Verify => check(app),
        Cache::Gc(args) => collect(app, args),
    }
}

fn ls(app: &App, args: &CacheLs) -> Result<Exit, Failure> {
    let store = app.store(None)?;
    let prefix = args.prefix.as_deref().unwrap_or("");
    let mut records = store.records()?.collect::<Result<Vec<Record>, _>>()?;
    records.retain(|record| {
        record.label.starts_with(prefix) || record.key.to_string().starts_with(prefix)
    });
    records.sort_by(|a, b| {
        a.label
            .cmp(&b.label)
            .then(a.created_unix.cmp(&b.created_unix))
            .then(a.key.cmp(&b.key))
    });
    let mut out = stdout();
    if app.terminal.json {
        for record in &records {
            print_json(
                &mut out,
                &json!({
                    "key": record.key, "label": record.label, "outputs": record.outputs, "bytes": size(record),
                    "seconds": record.seconds(), "cost_seconds": record.cost_seconds(),
                    "created_unix": record.created_unix, "summary": record.summary,
                }),
            )?;
        }
    } else {
        print_records(&mut out, &store, &records)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Bytes of a result's outputs.
fn size(record: &Record) -> u64 {
    record.outputs.values().map(|output| output.bytes).sum()
}

fn print_records(out: &mut impl Write, store: &Store, records: &[Record]) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut list = table(
        &["stage", "key", "outputs", "size", "computed in", "age"],
        &[2, 3, 4, 5],
    );
    for record in records {
        list.add_row([
            record.label.clone(),
            record.key.short(),
            record.outputs.len().to_string(),
            bytes(size(record)),
            duration(record.seconds()),
            age(now.saturating_sub(record.created_unix)),
        ]);
    }
    print_table(out, &list)?;
    let usage = store.usage()?;
    writeln!(
        out,
        "\n{} of {}; {} on disk in {}",
        count(records.len(), "result", "results"),
        usage.records,
        bytes(usage.blob_bytes + usage.work_bytes + usage.quarantine_bytes + usage.tmp_bytes),
        store.root().display()
    )?;
    Ok(())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn path(app: &App, args: &CachePath) -> Result<Exit, Failure> {
    let store = app.store(None)?;
    let path = match &args.digest {
        None => store.root().to_owned(),
        Some(text) => find(&store, text)?,
    };
    let mut out = stdout();
    if app.terminal.json {
        print_json(&mut out, &json!({"path": path}))?;
    } else {
        writeln!(out, "{}", path.display())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The files of the artifact that `text` means: a digest, a key, or KEY/OUTPUT; first digits suffice.
fn find(store: &Store, text: &str) -> Result<PathBuf, Failure> {
    let (digits, output) = match text.split_once('/') {
        Some((digits, output)) => (digits, Some(output)),
        None => (text, None),
    };
    if digits.len() < 4 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Failure::usage(format!("`{digits}` is no digest"))
            .help("give 4 or more of its hexadecimal digits"));
    }
    let digits = digits.to_ascii_lowercase();
    let mut found: BTreeSet<(String, Digest)> = BTreeSet::new();
    for record in store.records()? {
        let record = record?;
        let by_key = record.key.to_string().starts_with(&digits);
        for (name, artifact) in &record.outputs {
            let wanted = output.is_none_or(|output| output == name);
            if wanted
                && (by_key
                    || (output.is_none() && artifact.digest.to_string().starts_with(&digits)))
            {
                found.insert((format!("{}/{name}", record.key.short()), artifact.digest));
            }
        }
    }
    let digests: BTreeSet<Digest> = found.iter().map(|(_, digest)| *digest).collect();
    match (digests.first(), digests.len()) {
        (Some(digest), 1) => Ok(store.artifact_files(digest)),
        (None, _) => Err(
            Failure::usage(format!("the cache has no artifact `{text}`"))
                .help("`dcsft cache ls --json` lists them"),
        ),
        _ => {
            let names: Vec<&str> = found
                .iter()
                .take(12)
                .map(|(name, _)| name.as_str())
                .collect();
            Err(Failure::usage(format!("`{text}` means several artifacts"))
                .help(format!("give one of {}", names.join(", "))))
        }
    }
}

fn check(app: &App) -> Result<Exit, Failure> {
    let store = app.store(None)?;
    let report = verify::verify(&store, |_| {})?;
    let mut out = stdout();
    if app.terminal.json {
        print_json(&mut out, &report)?;
    } else {
        for damage in &report.damaged {
            let kind = serde_json::to_value(damage.kind).ok();
            let kind = kind
                .as_ref()
                .and_then(|kind| kind.as_str())
                .unwrap_or("entry");
            writeln!(
                out,
                "damaged {kind} {}: {}",
                damage.digest.short(),
                damage.reason
            )?;
        }
        writeln!(
            out,
            "{} checked, {} read, {} damaged{}",
            report.checked,
            bytes(report.bytes),
            report.damaged.len(),
            if report.damaged.is_empty() {
                ""
            } else {
                "; moved to the quarantine, the next run computes them again"
            }
        )?;
    }
    out.flush()?;
    Ok(if report.damaged.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn collect(app: &App, args: &CacheGc) -> Result<Exit, Failure> {
    let store = app.store(args.keep.first().map(PathBuf::as_path))?;
    let mut keep = BTreeSet::new();
    for spec in &args.keep {
        let mut project = app.project(&SpecArgs {
            spec: spec.clone(),
            overrides: args.overrides.clone(),
            device: "cpu".to_owned(),
        })?;
        // The study may have run on either, and a GPU's results took longest.
        for device in ["cpu", "cuda"] {
            project.device = device.to_owned();
            let plan = project.plan(&[], false)?;
            keep.extend(plan.nodes.iter().filter_map(|node| node.state.key()));
        }
    }
    let policy = gc::Policy {
        drop_others: !args.keep.is_empty() && args.max_size.is_none() && args.older_than.is_none(),
        keep,
        older_than: args.older_than,
        max_bytes: args.max_size,
        dry_run: args.dry_run,
    };
    let report = gc::collect(&store, &policy)?;
    let mut out = stdout();
    if app.terminal.json {
        print_json(&mut out, &report)?;
    } else {
        for removed in &report.removed {
            writeln!(
                out,
                "{}  {}  {}",
                removed.key.short(),
                bytes(removed.bytes),
                removed.label
            )?;
        }
        writeln!(
            out,
            "{} {} and {}, {}; {} kept ({})",
            if args.dry_run {
                "would remove"
            } else {
                "removed"
            },
            count(report.removed_records as usize, "result", "results"),
            count(report.removed_artifacts as usize, "artifact", "artifacts"),
            bytes(report.freed_bytes),
            count(report.kept_records as usize, "result", "results"),
            bytes(report.kept_bytes),
        )?;
    }
    out.flush()?;
    Ok(Exit::Done)
}
