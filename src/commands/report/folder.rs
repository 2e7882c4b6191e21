//! Whose folder a report goes to.
//!
//! `reports/NAME/` belongs to the first spec of that name that wrote one without overrides; every other spec of the
//! name, each set of overrides, and each other class of device has `reports/NAME-DIGEST/`. So nobody's report is
//! overwritten by another study's.

use std::path::{Path, PathBuf};

use dcsft_cache::{Digest, file};
use dcsft_engine::study::{StudyId, id};
use serde::{Deserialize, Serialize};

use crate::collect::history::class;
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
    /// The class of device that computed what it shows.
    device: String,
}

impl Owner {
    fn read(folder: &Path) -> Option<Self> {
        serde_json::from_slice(&file::bytes(&folder.join(OWNER)).ok()?).ok()
    }

    /// Whether the folder is the study's own: of the same spec with the same overrides, or of the same study in a file
    /// that has another name now.
    fn is(&self, study: &StudyId, device: &str, root: &Path) -> bool {
        let moved = self.study.content == study.content && !root.join(&self.place).exists();
        let same = self.study.is_variant_of(study);
        self.device == device && (same || (moved && self.study.variant == study.variant))
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
    let device = class(&project.device);
    let tag = Digest::of_bytes(format!("{} {device}", study.tag()).as_bytes());
    let reports = root.join("reports");
    let plain = project.study.overrides.is_empty().then(|| name.clone());
    let names = plain.into_iter().chain([format!("{name}-{}", tag.short())]);
    let folder = names
        .map(|name| reports.join(name))
        .find(|folder| Owner::read(folder).is_none_or(|owner| owner.is(&study, device, root)))
        .unwrap_or_else(|| reports.join(format!("{name}-{tag}")));
    let owner = Owner {
        study,
        place: id::place(&project.study, root),
        device: device.to_owned(),
    };
    let path = folder.join(OWNER);
    let written = std::fs::create_dir_all(&folder)
        .and_then(|()| Ok(serde_json::to_vec(&owner)?))
        .and_then(|text| match file::bytes(&path) {
            Ok(known) if known == text => Ok(()),
            _ => file::write(&path, text),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn study(spec: &str, variant: &str, content: &str) -> StudyId {
        let [spec, variant, content] =
            [spec, variant, content].map(|text| Digest::of_bytes(text.as_bytes()));
        StudyId {
            spec,
            variant,
            content,
        }
    }

    #[test]
    fn a_folder_stays_with_its_study_and_goes_to_no_other() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("spec.yaml"), "").unwrap();
        let owner = |place: &str| Owner {
            study: study("spec", "plain", "one"),
            place: place.to_owned(),
            device: "cpu".to_owned(),
        };
        let here = owner("spec.yaml");
        let is = |id: StudyId, device: &str| here.is(&id, device, root.path());
        assert!(is(study("spec", "plain", "edited"), "cpu"));
        assert!(!is(study("spec", "plain", "one"), "cuda"));
        assert!(!is(study("spec", "set", "one"), "cpu"));
        assert!(!is(study("copy", "plain", "one"), "cpu"));
        // A file that was renamed takes its report along, unless it was edited too.
        let gone = owner("gone.yaml");
        assert!(gone.is(&study("renamed", "plain", "one"), "cpu", root.path()));
        assert!(!gone.is(&study("renamed", "plain", "edited"), "cpu", root.path()));
    }
}
