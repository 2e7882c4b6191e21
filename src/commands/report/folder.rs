//! Whose folder a report goes to.
//!
//! `reports/NAME/` belongs to the first spec of that name that wrote one without overrides; every other spec of the
//! name, and each set of overrides, has `reports/NAME-DIGEST/`. So nobody's report is overwritten by another study's.

use std::path::{Path, PathBuf};

use dcsft_engine::study_id::{self, StudyId};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::settings::Project;

/// The page.
pub(super) const PAGE: &str = "index.html";

/// In a report's folder: whose it is.
const OWNER: &str = ".study";

/// Whose a folder is.
#[derive(Serialize, Deserialize)]
struct Owner {
    study: StudyId,
    /// Where its spec lies, from the cache.
    place: String,
}

impl Owner {
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(folder.join(OWNER)).ok()?).ok()
    }

    /// Whether the folder is the study's own: of the same spec with the same overrides, or of the same study in a file
    /// that has another name now.
    fn is(&self, study: &StudyId, root: &Path) -> bool {
        let moved = self.study.content == study.content && !root.join(&self.place).exists();
        self.study.is_variant_of(study) || (moved && self.study.variant == study.variant)
    }
}

/// The folder of the study's report in the cache, which is from now on its own.
///
/// # Errors
/// If it cannot be created.
pub(super) fn claim(project: &Project) -> Result<PathBuf, Failure> {
    let root = project.store.root();
    let study = StudyId::of(&project.study, root);
    let name = safe(&project.study.name);
    let tag = study.tag();
    let reports = root.join("reports");
    let plain = project.study.overrides.is_empty().then(|| name.clone());
    let names = plain.into_iter().chain([format!("{name}-{}", tag.short())]);
    let folder = names
        .map(|name| reports.join(name))
        .find(|folder| Owner::read(folder).is_none_or(|owner| owner.is(&study, root)))
        .unwrap_or_else(|| reports.join(format!("{name}-{tag}")));
    let owner = Owner {
        study,
        place: study_id::place(&project.study, root),
    };
    let path = folder.join(OWNER);
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| Ok(serde_json::to_vec(&owner)?))
        .and_then(|text| match std::fs::read(&path) {
            Ok(known) if known == text => Ok(()),
            _ => std::fs::write(&path, text),
        });
    written.map_err(Failure::write(path))?;
    Ok(folder)
}

/// A spec's name as the name of a folder.
fn safe(name: &str) -> String {
    let safe: String = name
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    let safe = safe.trim_start_matches('.');
    if safe.is_empty() { "report" } else { safe }.to_owned()
}
