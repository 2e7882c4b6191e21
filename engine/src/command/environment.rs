//! The variables of the environment that a program sees: a small base, those that are declared, and where things are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::fill::Places;
use crate::stage::{ParamProblem, StageContext};

/// What every program sees of the environment, where it is set. None of it is part of the key.
const BASE: [&str; 9] = [
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TMPDIR", "TZ", VISIBLE,
];

/// The variable that says which of the machine's GPUs a program sees, by index or by name; it counts them from 0.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The beginning of the names that are the engine's.
const OWN: &str = "DCSFT_";

/// Whether a variable can be called so: a letter or `_`, then letters, digits and `_`.
pub(super) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    let first = chars.next();
    first.is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The declared variables with their values, `NAME` with the one that it has now.
pub(super) fn declared(
    env: &[String],
    problems: &mut Vec<ParamProblem>,
) -> BTreeMap<String, Option<String>> {
    let mut found = BTreeMap::new();
    for (index, item) in env.iter().enumerate() {
        let field = vec!["env".to_owned(), index.to_string()];
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Ok(Some(value.to_owned()))),
            None => (item.as_str(), value_here(item)),
        };
        match (name_problem(name), value) {
            (Some(message), _) | (None, Err(message)) => {
                problems.push(ParamProblem::new(field, message));
            }
            (None, Ok(value)) => {
                if found.insert(name.to_owned(), value).is_some() {
                    problems.push(ParamProblem::new(
                        field,
                        format!("names `{name}` a second time"),
                    ));
                }
            }
        }
    }
    found
}

/// The names of variables that pass through.
pub(super) fn passed(
    pass_env: &[String],
    declared: &BTreeMap<String, Option<String>>,
    problems: &mut Vec<ParamProblem>,
) -> BTreeSet<String> {
    for (index, name) in pass_env.iter().enumerate() {
        let message = name_problem(name).or_else(|| {
            let both = declared.contains_key(name);
            both.then(|| format!("names `{name}`, which `env` makes part of the key"))
        });
        if let Some(message) = message {
            let field = vec!["pass_env".to_owned(), index.to_string()];
            problems.push(ParamProblem::new(field, message));
        }
    }
    pass_env.iter().cloned().collect()
}

fn name_problem(name: &str) -> Option<String> {
    if !is_name(name) {
        return Some(format!(
            "`{name}` is no name of a variable: write `NAME` or, to set it, `NAME=VALUE`"
        ));
    }
    name.starts_with(OWN)
        .then(|| format!("`{name}`: variables that begin with {OWN} are set by the engine"))
}

fn value_here(name: &str) -> Result<Option<String>, String> {
    if !is_name(name) {
        return Ok(None);
    }
    match std::env::var(name) {
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(format!("the value of `{name}` is not UTF-8"))
        }
    }
}

/// Where the engine tells a program things.
pub(super) struct Told<'a> {
    /// The JSON file with inputs, outputs, device and threads.
    pub(super) job: &'a Path,
    /// The file that it may write events to.
    pub(super) events: &'a Path,
    /// The folder that survives a kill.
    pub(super) state: &'a Path,
    /// What marks the program and whatever it starts.
    pub(super) mark: &'a str,
}

/// The name of the variable with a process's mark.
pub(super) const MARK: &str = "DCSFT_ATTEMPT";

/// The variables that have nothing to do with where things are: the base, what passes through, and what is declared.
pub(super) fn base(
    declared: &BTreeMap<String, Option<String>>,
    passed: &BTreeSet<String>,
) -> Vec<(OsString, OsString)> {
    let names = BASE.into_iter().chain(passed.iter().map(String::as_str));
    let names = names.filter(|name| !declared.contains_key(*name));
    let here = names.filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    // Python's lines come when they are written, not when a buffer is full.
    let python = ("PYTHONUNBUFFERED".into(), "1".into());
    let declared = declared
        .iter()
        .filter_map(|(name, value)| Some((name.into(), value.as_ref()?.into())));
    here.chain([python]).chain(declared).collect()
}

/// The device as the program has to name it: of the GPUs that are its own it sees no others.
pub(super) fn device(ctx: &StageContext) -> &str {
    match visible(ctx.accelerators(), None) {
        Some(_) => "cuda:0",
        None => ctx.device(),
    }
}

/// What of `CUDA_VISIBLE_DEVICES`, as it is `here`, the GPUs among the accelerators are; none if there is none.
fn visible(accelerators: &[String], here: Option<&str>) -> Option<String> {
    let here: Option<Vec<&str>> = here.map(|here| here.split(',').map(str::trim).collect());
    let names = accelerators.iter().filter_map(|accelerator| {
        let index = accelerator.strip_prefix("cuda:")?;
        match &here {
            Some(here) => here.get(index.parse::<usize>().ok()?).copied(),
            None => Some(index),
        }
    });
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// All variables of the program.
///
/// # Errors
/// If a value names an input or an output that is not there.
pub(super) fn variables(
    declared: &BTreeMap<String, Option<String>>,
    passed: &BTreeSet<String>,
    places: &Places,
    told: &Told<'_>,
    ctx: &StageContext,
) -> Result<Vec<(OsString, OsString)>, String> {
    let mut filled = BTreeMap::new();
    for (name, value) in declared {
        let value = value.as_ref().map(|value| places.text(value));
        filled.insert(name.clone(), value.transpose()?);
    }
    let mut all = vec![("OMP_NUM_THREADS".into(), ctx.threads().to_string().into())];
    all.extend(base(&filled, passed));
    let own = visible(ctx.accelerators(), std::env::var(VISIBLE).ok().as_deref());
    if let Some(own) = own.filter(|_| !filled.contains_key(VISIBLE)) {
        all.push((VISIBLE.into(), own.into()));
    }
    let mut set = |name: String, value: OsString| all.push((name.into(), value));
    for (name, dirs) in &places.inputs {
        if let [dir] = dirs.as_slice() {
            set(format!("{OWN}INPUT_{name}"), dir.into());
        }
    }
    for (name, dir) in &places.outputs {
        set(format!("{OWN}OUTPUT_{name}"), dir.into());
    }
    set(format!("{OWN}JOB"), told.job.into());
    set(format!("{OWN}EVENTS"), told.events.into());
    set(format!("{OWN}STATE"), told.state.into());
    set(format!("{OWN}THREADS"), ctx.threads().to_string().into());
    set(format!("{OWN}DEVICE"), device(ctx).into());
    set(MARK.to_owned(), told.mark.into());
    Ok(all)
}
