//! `dcsft cache`: look into the cache, check it, make it smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dcsft_cache::{Depth, Digest, Record, Remote, Store, gc, verify};
use dcsft_engine::journal::{self, retention};
use dcsft_engine::keep;
use dcsft_engine::record::Execution;
use dcsft_engine::units::{self, duration};
use serde_json::json;

use super::lock;
use crate::cli::{Cache, CacheGc, CacheLs, CachePath, CacheRemote, SpecArgs};
use crate::exit::{Exit, Failure};
use crate::origin::{self, Origin};
use crate::output::{count, print_json, print_table, stdout, table};
use crate::remote;
use crate::settings::{App, Project};

/// How many runs of a spec are looked at for the latest ones of each device.
const RUNS_LOOKED_AT: usize = 20;

/// Runs a sub-command.
///
/// # Errors
/// A cache that cannot be read; a wrong digest.
pub(crate) fn run(app: &App, command: &Cache) -> Result<Exit, Failure> {
    match command {
        Cache::Ls(args) => ls(app, args),
        Cache::Path(args) => path(app, args),
        Cache::Verify => check(app),
        Cache::Push(args) => push(app, args),
        Cache::Pull(args) => pull(app, args),
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
        let runs = origin::runs(&store);
        for record in &records {
            let execution = Execution::of(record);
            let origin = Origin::of(record, &runs);
            print_json(
                &mut out,
                &json!({
                    "key": record.key, "label": record.label, "outputs": record.outputs, "bytes": size(record),
                    "seconds": execution.seconds, "cost_seconds": execution.cost().seconds,
                    "created_unix": record.created_unix, "summary": record.summary, "execution": record.execution,
                    "made_by": origin.made_by, "used_by": origin.used_by,
                }),
            )?;
        }
    } else {
        print_records(&mut out, &store, &records, app.terminal.verbose)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// Bytes of a result's outputs.
fn size(record: &Record) -> u64 {
    record.outputs.values().map(|output| output.bytes).sum()
}

/// `origins` adds where each result was made, by what, and how many runs used it.
fn print_records(
    out: &mut impl Write,
    store: &Store,
    records: &[Record],
    origins: bool,
) -> Result<(), Failure> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let mut heading = vec!["stage", "key", "outputs", "size", "computed in", "age"];
    if origins {
        heading.extend(["device", "host", "dcsft", "run", "runs"]);
    }
    let runs = if origins {
        origin::runs(store)
    } else {
        BTreeMap::new()
    };
    let mut list = table(&heading, &[2, 3, 4, 5, 10]);
    for record in records {
        let execution = Execution::of(record);
        let mut row = vec![
            record.label.clone(),
            record.key.short(),
            record.outputs.len().to_string(),
            units::size(size(record)),
            duration(execution.seconds),
            age(now.saturating_sub(record.created_unix)),
        ];
        if origins {
            let origin = Origin::of(record, &runs);
            row.extend(origin.cells());
            row.push(origin.used_by.len().to_string());
        }
        list.add_row(row);
    }
    print_table(out, &list)?;
    let usage = store.usage()?;
    writeln!(
        out,
        "\n{} of {}; {} on disk in {}",
        count(records.len(), "result", "results"),
        usage.records,
        units::size(usage.blob_bytes + usage.work_bytes + usage.quarantine_bytes + usage.tmp_bytes),
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
            let name = match &damage.digest {
                Some(digest) => digest.short(),
                None => damage.path.display().to_string(),
            };
            let stays = match &damage.quarantined {
                Some(_) => "",
                None => "; it could not be moved to the quarantine",
            };
            let (kind, reason) = (damage.kind.name(), &damage.reason);
            writeln!(out, "damaged {kind} {name}: {reason}{stays}")?;
        }
        for voided in &report.voided {
            let (key, label) = (voided.key.short(), &voided.label);
            writeln!(out, "void result {key} of {label}: {}", voided.reason)?;
        }
        writeln!(out, "{}", verified(&report))?;
    }
    out.flush()?;
    Ok(if report.damaged.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// `73 checked, 1.2 MB read, 2 damaged, 1 void; moved to the quarantine, ...`.
fn verified(report: &verify::Report) -> String {
    let mut text = format!(
        "{} checked, {} read, {} damaged",
        report.checked,
        units::size(report.bytes),
        report.damaged.len(),
    );
    if !report.voided.is_empty() {
        text += &format!(", {} void", count(report.voided.len(), "result", "results"));
    }
    if !report.damaged.is_empty() {
        text += "; moved to the quarantine, the next run computes them again";
    }
    text
}

fn the_remote(args: &CacheRemote) -> Result<Arc<Remote>, Failure> {
    remote::named(&args.remote, &args.spec.spec)?.ok_or_else(|| {
        Failure::usage("no remote is named")
            .help("`--remote URL`, DCSFT_REMOTE or `remote` in dcsft.toml name one")
    })
}

/// Brings the results that a spec has here to the remote.
fn push(app: &App, args: &CacheRemote) -> Result<Exit, Failure> {
    let remote = the_remote(args)?;
    let project = app.project(&args.spec)?;
    let _held = project.store.hold("dcsft cache push")?;
    let found = remote::found(&project.plan(&[], false)?);
    let there = project.store.push(&remote, &found, Depth::Objects);
    moved(app, &remote, ("there", there), found.len())
}

/// Takes the results of a spec that are not here from the remote.
fn pull(app: &App, args: &CacheRemote) -> Result<Exit, Failure> {
    let remote = the_remote(args)?;
    let mut project = app.project(&args.spec)?;
    let _held = project.store.hold("dcsft cache pull")?;
    project.store = project.store.clone().with_remote(Arc::clone(&remote));
    let summary = project.plan(&[], false)?.summary;
    moved(app, &remote, ("here", summary.cached), summary.distinct)
}

/// Says where results are now. A remote that fails is a failure of a command that is about nothing else.
fn moved(
    app: &App,
    remote: &Remote,
    (place, number): (&str, usize),
    of: usize,
) -> Result<Exit, Failure> {
    let fine = remote::tell(app.terminal, remote);
    let mut out = stdout();
    if app.terminal.json {
        let traffic = remote.traffic();
        let line = json!({"remote": remote.name(), place: number, "of": of, "traffic": traffic});
        print_json(&mut out, &line)?;
    } else {
        writeln!(out, "{number} of {} {place}", remote::results(of))?;
    }
    out.flush()?;
    Ok(if fine { Exit::Done } else { Exit::Failed })
}

fn collect(app: &App, args: &CacheGc) -> Result<Exit, Failure> {
    let store = app.store(args.keep.first().map(PathBuf::as_path))?;
    // What is written from here on is not known to what follows, and stays.
    let since = gc::Mark::new(&store);
    let kept = what_to_keep(app, args, &store)?;
    let policy = gc::Policy {
        drop_others: !args.keep.is_empty() && args.max_size.is_none() && args.older_than.is_none(),
        keep: kept.keys.clone(),
        since: Some(since),
        older_than: args.older_than,
        max_bytes: args.max_size,
        cost: Execution::cost_seconds,
        grace: gc::GRACE,
        dry_run: args.dry_run,
    };
    let report = gc::collect(&store, &policy)?;
    let runs = store.runs_dir();
    let journals = retention::prune(&runs, args.dry_run).map_err(Failure::write(runs))?;
    let mut out = stdout();
    if app.terminal.json {
        let mut fields = serde_json::to_value(&report).map_err(Failure::failed)?;
        fields["missing"] = json!(kept.missing);
        fields["kept_below_missing"] = json!(kept.below);
        fields["journals"] = json!(journals);
        print_json(&mut out, &fields)?;
    } else {
        print_collected(&mut out, args, &report, &kept)?;
        if journals.runs > 0 {
            let word = if args.dry_run {
                "would remove"
            } else {
                "removed"
            };
            let runs = count(journals.runs as usize, "old run", "old runs");
            let size = units::size(journals.bytes);
            writeln!(out, "{word} the journals of {runs}, {size}")?;
        }
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The keys that `--keep` protects: those that the specs' plans name, those that may belong below a result that is
/// missing, those of the latest runs of these specs, and those of their lock files.
fn what_to_keep(app: &App, args: &CacheGc, store: &Store) -> Result<keep::Kept, Failure> {
    let mut all = keep::Kept::default();
    if args.keep.is_empty() {
        return Ok(all);
    }
    let results = keep::Results::of(store)?;
    for spec in &args.keep {
        let project = app.project(&SpecArgs {
            spec: spec.clone(),
            overrides: args.overrides.clone(),
            device: "cpu".to_owned(),
        })?;
        let kept = results.kept(&project.study, &project.registry, store)?;
        all.below += kept.below;
        all.missing.extend(kept.missing);
        all.keys.extend(kept.keys);
        all.keys.extend(latest_keys(&project));
        if lock::path(&project).exists() {
            let locked = lock::read(&project)?;
            all.keys
                .extend(locked.stages.values().map(|stage| stage.key));
        }
    }
    Ok(all)
}

/// The keys of the runs of a spec with the same overrides, on each device, from the latest back to one that came to a
/// good end: what an interrupted run has not come to is still needed.
fn latest_keys(project: &Project) -> Vec<Digest> {
    let mut complete = BTreeSet::new();
    let mut keys = Vec::new();
    for run in journal::of_variant(&project.study, &project.store).take(RUNS_LOOKED_AT) {
        if complete.contains(&run.header.device) {
            continue;
        }
        keys.extend(run.keys());
        if run.state().is_good_end() {
            complete.insert(run.header.device);
        }
    }
    keys
}

fn print_collected(
    out: &mut impl Write,
    args: &CacheGc,
    report: &gc::Report,
    kept: &keep::Kept,
) -> Result<(), Failure> {
    for removed in &report.removed {
        let (key, size) = (removed.key.short(), units::size(removed.bytes));
        writeln!(out, "{key}  {size}  {}", removed.label)?;
    }
    if kept.below > 0 {
        writeln!(
            out,
            "{} kept that may belong below {}: not in the cache, so what is below has no known key",
            count(kept.below, "result", "results"),
            some(&kept.missing),
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
        units::size(report.freed_bytes),
        count(report.kept_records as usize, "result", "results"),
        units::size(report.kept_bytes),
    )?;
    if !report.in_use.is_empty() {
        let holders = report.in_use.join(", ");
        writeln!(
            out,
            "without --dry-run nothing would be removed now: the cache is in use by {holders}"
        )?;
    }
    Ok(())
}

/// The first of a set of titles, for a message.
fn some(titles: &BTreeSet<String>) -> String {
    const LISTED: usize = 6;
    let first: Vec<&str> = titles.iter().take(LISTED).map(String::as_str).collect();
    match titles.len().saturating_sub(LISTED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
