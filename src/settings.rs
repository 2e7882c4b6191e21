//! From the command line to what commands work with: the cache's folder, the store, the study.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dcsft_cache::Store;
use dcsft_engine::plan::{Plan, PlanOptions};
use dcsft_engine::spec;
use dcsft_engine::stage::Registry;
use dcsft_engine::study::{Node, Study};
use dcsft_tensor::device::DeviceSpec;

use crate::cli::{Global, SpecArgs};
use crate::exit::Failure;
use crate::select;
use crate::terminal::Terminal;

/// Files and folders that mark a project's root.
const ROOT_MARKS: [&str; 3] = [".dcsft", ".git", "Cargo.toml"];

/// Makes the stage kinds that a program knows.
pub type Kinds = fn() -> Registry;

/// What every command has.
pub(crate) struct App {
    /// How to speak.
    pub(crate) terminal: Terminal,
    cache_dir: Option<PathBuf>,
    kinds: Kinds,
}

/// A spec that was read, with the cache it belongs to.
pub(crate) struct Project {
    /// The stage kinds.
    pub(crate) registry: Registry,
    /// The resolved spec.
    pub(crate) study: Study,
    /// The cache.
    pub(crate) store: Store,
    /// The device whose arithmetic is in the keys.
    pub(crate) device: String,
    /// All devices; parallel stages get one each.
    pub(crate) devices: Vec<String>,
}

impl App {
    /// From the global flags, with the stage kinds of the program.
    pub(crate) fn new(global: &Global, kinds: Kinds) -> Self {
        Self {
            terminal: Terminal::new(global),
            cache_dir: global.cache_dir.clone().or_else(|| {
                // Set to nothing is not set.
                let named = std::env::var_os("DCSFT_CACHE").filter(|dir| !dir.is_empty());
                named.map(PathBuf::from)
            }),
            kinds,
        }
    }

    /// The stage kinds.
    pub(crate) fn kinds(&self) -> Registry {
        (self.kinds)()
    }

    /// The cache's folder for a spec, or for the current folder.
    ///
    /// # Errors
    /// If the current folder cannot be found out.
    pub(crate) fn cache_dir(&self, spec: Option<&Path>) -> Result<PathBuf, Failure> {
        if let Some(dir) = &self.cache_dir {
            return Ok(dir.clone());
        }
        let start = match spec.and_then(Path::parent) {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let start = std::path::absolute(start).map_err(|error| {
            Failure::failed(format!(
                "cannot find the folder {}: {error}",
                start.display()
            ))
        })?;
        // `..` is resolved where the folder exists; where it does not, reading the spec says so.
        let start = start.canonicalize().unwrap_or(start);
        let marked = |folder: &&Path| ROOT_MARKS.iter().any(|mark| folder.join(mark).exists());
        Ok(start
            .ancestors()
            .find(marked)
            .unwrap_or(&start)
            .join(".dcsft"))
    }

    /// The store of a spec, or of the current folder.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(crate) fn store(&self, spec: Option<&Path>) -> Result<Store, Failure> {
        Ok(Store::open(&self.cache_dir(spec)?)?)
    }

    /// Reads a spec and opens its cache. Warnings are said at once.
    ///
    /// # Errors
    /// Mistakes in the spec; a cache that cannot be opened.
    pub(crate) fn project(&self, args: &SpecArgs) -> Result<Project, Failure> {
        let devices = device_list(&args.device)?;
        let registry = self.kinds();
        let loaded = spec::load(&args.spec, &args.overrides, &registry)?;
        self.terminal.warn(&loaded.warnings);
        let store = self.store(Some(&args.spec))?;
        Ok(Project {
            registry,
            study: loaded.study,
            store,
            device: devices[0].clone(),
            devices,
        })
    }
}

impl Project {
    /// Plans the study against the cache.
    ///
    /// # Errors
    /// A stage to force that does not exist; a cache that cannot be read.
    pub(crate) fn plan(&self, force: &[String], paranoid: bool) -> Result<Plan, Failure> {
        let mut titles = BTreeSet::new();
        for name in force {
            let nodes = select::nodes(&self.study, name)?;
            titles.extend(nodes.into_iter().map(Node::title));
        }
        let options = PlanOptions {
            device: self.device.clone(),
            numerics: None,
            paranoid,
            force: titles,
        };
        Ok(Plan::new(
            &self.study,
            &self.registry,
            &self.store,
            options,
        )?)
    }

    /// The spec's file name, as in `sweep.yaml`.
    pub(crate) fn spec_name(&self) -> String {
        self.study
            .spec
            .file_name()
            .unwrap_or(self.study.spec.as_os_str())
            .to_string_lossy()
            .into_owned()
    }
}

/// Starts the threads that files are hashed on: where the system lets no thread start, better to say so now than to
/// panic later.
///
/// # Errors
/// If not even one can be started.
pub(crate) fn start_threads() -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new();
    pool.build_global()
        .or_else(|_| {
            let one = rayon::ThreadPoolBuilder::new().num_threads(1);
            one.build_global()
        })
        .map_err(threads_missing)
}

/// The failure that the system starts no further thread.
pub(crate) fn threads_missing(error: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("cannot start a thread: {error}"))
        .help("raise the limit on processes (ulimit -u)")
}

/// Checks a list of devices, as in `cuda:0,cuda:1`: all of one class, none twice.
///
/// # Errors
/// Any other list.
pub(crate) fn device_list(names: &str) -> Result<Vec<String>, Failure> {
    let devices: Vec<String> = names
        .split(',')
        .map(|name| device_class(name.trim()))
        .collect::<Result<_, _>>()?;
    let class = |device: &str| device.split(':').next().map(str::to_owned);
    if devices
        .iter()
        .any(|device| class(device) != class(&devices[0]))
    {
        return Err(Failure::usage(format!(
            "--device {names}: all devices of a run must be of one class, as in cuda:0,cuda:1"
        )));
    }
    let distinct: BTreeSet<&String> = devices.iter().collect();
    if distinct.len() < devices.len() {
        return Err(Failure::usage(format!(
            "--device {names}: a device is named twice"
        )));
    }
    Ok(devices)
}

/// Checks a device's name: `cpu`, `cuda`, `cuda:N`, `wgpu` or `wgpu:N`.
///
/// # Errors
/// Any other name.
pub(crate) fn device_class(name: &str) -> Result<String, Failure> {
    name.parse::<DeviceSpec>()
        .map(|device| device.to_string())
        .map_err(|error| Failure::usage(error.to_string()))
}
