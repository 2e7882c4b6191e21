//! The two tables of the house: which crate may depend on which, and the order of the engine's modules.

use crate::circles::line;
use crate::imports::Import;

/// Each crate of the workspace with those it may depend on. A new crate gets a line here.
pub(crate) const CRATES: &[(&str, &[&str])] = &[
    ("dcsft-cache", &[]),
    ("dcsft-engine", &["dcsft-cache"]),
    ("dcsft-tensor", &[]),
    ("dcsft-vlm", &["dcsft-tensor"]),
    (
        "dcsft-models",
        &["dcsft-cache", "dcsft-tensor", "dcsft-vlm"],
    ),
    (
        "dcsft-stages",
        &[
            "dcsft-cache",
            "dcsft-engine",
            "dcsft-tensor",
            "dcsft-vlm",
            "dcsft-models",
        ],
    ),
    (
        "dcsft",
        &[
            "dcsft-cache",
            "dcsft-engine",
            "dcsft-stages",
            "dcsft-tensor",
            "dcsft-vlm",
        ],
    ),
    // The example of a program with kinds of its own.
    (
        "dcsft-own-kinds",
        &["dcsft", "dcsft-engine", "dcsft-stages"],
    ),
];

/// Crates from elsewhere that a crate must not know: (crate, what it never knows about).
pub(crate) const STRANGERS: &[(&str, &[&str])] = &[
    (
        "dcsft-cache",
        &["burn", "clap", "image", "object_store-cli", "tokenizers"],
    ),
    (
        "dcsft-engine",
        &[
            "burn",
            "clap",
            "cubecl",
            "image",
            "safetensors",
            "tokenizers",
        ],
    ),
    ("dcsft-tensor", &["image", "tokenizers", "minijinja"]),
    ("dcsft", &["burn", "image", "safetensors", "tokenizers"]),
];

/// The engine's modules, lowest first: each uses only those before it.
pub(crate) const ENGINE: &[&str] = &[
    "text",
    "units",
    "lines",
    "provenance",
    "stage",
    "command",
    "study",
    "diagnostic",
    "spec",
    "schema",
    "record",
    "key",
    "plan",
    "keep",
    "journal",
    "worker",
    "run",
    "why",
    "lockfile",
    "results",
];

/// Modules of one crate that another one must not use, though it may use the crate: (crate, other crate, module).
pub(crate) const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("dcsft_models", "dcsft_vlm", "train"),
    ("dcsft_stages", "dcsft_engine", "run"),
    ("dcsft_stages", "dcsft_engine", "journal"),
    ("dcsft_stages", "dcsft_engine", "plan"),
    ("dcsft_stages", "dcsft_engine", "spec"),
];

/// What is wrong with the dependencies of `krate`.
pub(crate) fn dependencies(krate: &str, on: &[String], workspace: &[String]) -> Vec<String> {
    let Some((_, allowed)) = CRATES.iter().find(|(name, _)| *name == krate) else {
        return vec![format!("{krate} has no line in the table of crates")];
    };
    let strangers = STRANGERS.iter().find(|(name, _)| *name == krate);
    let strangers = strangers.map_or(&[][..], |(_, strangers)| *strangers);
    let upward = |other: &&String| workspace.contains(*other) && !allowed.contains(&other.as_str());
    let strange = |other: &&String| strangers.contains(&other.as_str());
    let upward = on.iter().filter(upward).map(|other| {
        format!(
            "{krate} depends on {other}, and may depend on [{}] alone",
            allowed.join(", ")
        )
    });
    let strange = on
        .iter()
        .filter(strange)
        .map(|other| format!("{krate} depends on {other}, of which it must not know"));
    upward.chain(strange).collect()
}

/// What is wrong with an import between two modules of the engine, or with one from another crate.
pub(crate) fn upward(import: &Import) -> Option<String> {
    let top = |path: &[String]| path.first().map_or("lib", String::as_str).to_owned();
    let (from, to) = (top(&import.from.path), top(&import.to.path));
    if import.from.krate != import.to.krate {
        let forbidden = (
            import.from.krate.as_str(),
            import.to.krate.as_str(),
            to.as_str(),
        );
        return FORBIDDEN.contains(&forbidden).then(|| {
            format!(
                "{} must not know {}::{to}: {}",
                import.from.krate,
                import.to.krate,
                line(import)
            )
        });
    }
    if import.from.krate != "dcsft_engine" || from == to || from == "lib" {
        return None;
    }
    let rank = |module: &str| ENGINE.iter().position(|name| *name == module);
    match (rank(&from), rank(&to)) {
        (Some(low), Some(high)) if low < high => {
            Some(format!("`{to}` stands above `{from}`: {}", line(import)))
        }
        (Some(_), Some(_)) => None,
        (None, _) => Some(format!(
            "`{from}` has no place in the order of the engine's modules"
        )),
        (_, None) => Some(format!(
            "`{to}` has no place in the order of the engine's modules"
        )),
    }
}
