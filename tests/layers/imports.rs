//! Who imports whom: the modules of crates, and from each to those that define what it mentions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FsPath, PathBuf};

use crate::source::{Path, Source};

/// Longest chain of names that stand for names.
const MAX_CHAIN: usize = 32;

/// A module in a file of its own: its crate and the names from the crate's root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) krate: String,
    pub(crate) path: Path,
}

impl Name {
    pub(crate) fn root(krate: &str) -> Self {
        Self {
            krate: krate.to_owned(),
            path: Vec::new(),
        }
    }

    fn child(&self, name: &str) -> Self {
        let mut child = self.clone();
        child.path.push(name.to_owned());
        child
    }

    fn parent(&self) -> Option<Self> {
        let (_, path) = self.path.split_last()?;
        let path = path.to_vec();
        let krate = self.krate.clone();
        Some(Self { krate, path })
    }

    fn is_inside(&self, other: &Self) -> bool {
        self.krate == other.krate && self.path.starts_with(&other.path)
    }
}

#[derive(Debug)]
struct Module {
    file: PathBuf,
    source: Source,
}

/// The modules of some crates.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    modules: BTreeMap<Name, Module>,
}

/// One module uses what another one defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: Name,
    pub(crate) to: Name,
    /// Where: file, line and what is written there.
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) path: String,
    pub(crate) target: PathBuf,
}

/// What a path leads to.
enum Found {
    Module(Name),
    /// An item, and the module that defines it.
    Item(Name),
}

impl Modules {
    /// Reads the crate whose root file is `file`, and all files below it.
    pub(crate) fn read(
        &mut self,
        krate: &str,
        file: &FsPath,
        shown: &FsPath,
    ) -> Result<(), String> {
        self.read_file(Name::root(krate), file, shown)
    }

    fn read_file(&mut self, name: Name, file: &FsPath, base: &FsPath) -> Result<(), String> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        let modules = self.add(name.clone(), file.strip_prefix(base).unwrap_or(file), &text)?;
        let folder = file.parent().unwrap_or(file);
        let stem = file.file_stem().unwrap_or_default();
        let below = match stem.to_str() {
            Some("mod" | "lib" | "main") => folder.to_owned(),
            _ => folder.join(stem),
        };
        for module in modules {
            let files = [
                below.join(format!("{module}.rs")),
                below.join(&module).join("mod.rs"),
            ];
            let found = files.iter().find(|file| file.is_file());
            let found =
                found.ok_or_else(|| format!("{}: no file for `mod {module}`", file.display()))?;
            self.read_file(name.child(&module), found, base)?;
        }
        Ok(())
    }

    /// Adds one module. Returns the modules it declares.
    pub(crate) fn add(
        &mut self,
        name: Name,
        file: &FsPath,
        text: &str,
    ) -> Result<BTreeSet<String>, String> {
        let source = Source::parse(text).map_err(|error| format!("{}: {error}", file.display()))?;
        let modules = source.modules.clone();
        let file = file.to_owned();
        self.modules.insert(name, Module { file, source });
        Ok(modules)
    }

    /// All imports, one for each pair of modules. What a module shows of those below it is no import: whoever takes it
    /// there takes it from where it is defined.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let mut first: BTreeMap<(Name, Name), Import> = BTreeMap::new();
        for (name, module) in &self.modules {
            let own = module
                .source
                .mentions
                .iter()
                .map(|mention| (mention, false));
            let shown = module.source.shown.iter().map(|mention| (mention, true));
            for (mention, shown) in own.chain(shown) {
                let bare = mention.path.len() == 1;
                let known = mention
                    .path
                    .first()
                    .and_then(|part| module.source.bound.get(part));
                // A name alone that a private `use` gives was counted there; it may be a variable's.
                if bare && !known.is_some_and(|binding| binding.shown) {
                    continue;
                }
                let Some(to) = self.target(name, &mention.path) else {
                    continue;
                };
                if to == *name || (shown && to.is_inside(name)) {
                    continue;
                }
                let import = Import {
                    from: name.clone(),
                    to: to.clone(),
                    file: module.file.clone(),
                    line: mention.line,
                    path: mention.path.join("::"),
                    target: self.modules[&to].file.clone(),
                };
                first.entry((name.clone(), to)).or_insert(import);
            }
        }
        first.into_values().collect()
    }

    /// The module that defines what `path` means in the module `from`; none for what is no item of these crates.
    fn target(&self, from: &Name, path: &[String]) -> Option<Name> {
        let (path, all) = match path.split_last() {
            Some((star, rest)) if star == "*" => (rest, true),
            _ => (path, false),
        };
        match self.find(from, path, MAX_CHAIN)? {
            Found::Item(module) => Some(module),
            Found::Module(module) => all.then_some(module),
        }
    }

    fn find(&self, from: &Name, path: &[String], left: usize) -> Option<Found> {
        let left = left.checked_sub(1)?;
        let (first, rest) = path.split_first()?;
        let start = match first.as_str() {
            "crate" => Name::root(&from.krate),
            "self" => from.clone(),
            "super" => from.parent()?,
            name => match self.within(from, name, left) {
                Some(Found::Module(module)) => module,
                Some(item) => return Some(item),
                None => {
                    let root = Name::root(name);
                    self.modules.contains_key(&root).then_some(root)?
                }
            },
        };
        self.walk(start, rest, left)
    }

    fn walk(&self, start: Name, path: &[String], left: usize) -> Option<Found> {
        let mut at = start;
        for part in path {
            if part == "super" {
                at = at.parent()?;
                continue;
            }
            match self.within(&at, part, left)? {
                Found::Module(module) => at = module,
                item => return Some(item),
            }
        }
        Some(Found::Module(at))
    }

    /// What a name means in a module.
    fn within(&self, module: &Name, name: &str, left: usize) -> Option<Found> {
        let source = &self.modules.get(module)?.source;
        if source.defined.contains(name) {
            return Some(Found::Item(module.clone()));
        }
        if source.modules.contains(name) {
            return Some(Found::Module(module.child(name)));
        }
        if let Some(binding) = source.bound.get(name)
            && binding.path != [name]
        {
            return self.find(module, &binding.path, left);
        }
        let mut globs = source.globs.iter();
        globs.find_map(|glob| {
            let Found::Module(from) = self.find(module, glob, left.checked_sub(1)?)? else {
                return None;
            };
            self.within(&from, name, left.checked_sub(1)?)
        })
    }
}
