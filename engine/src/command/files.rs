//! The user's files that a program is given: copies in its working folder.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::stage::{FieldPath, FileParam, ParamProblem, StageError};

/// Folders that programs and version control make beside scripts: no part of them.
const PASSED_OVER: [&str; 2] = ["__pycache__", ".git"];

/// Where each of the named files is, by where the program finds it: a relative path stays what it is, of any other the
/// last part is kept.
///
/// # Errors
/// Paths that name nothing, or two that would lie in one place.
pub(super) fn placed(paths: &[String]) -> Result<BTreeMap<String, String>, ParamProblem> {
    let mut places = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        let field = vec!["files".to_owned(), index.to_string()];
        let Some(place) = place_of(Path::new(path)) else {
            return Err(ParamProblem::new(
                field,
                format!("`{path}` names no file or folder"),
            ));
        };
        if let Some(other) = places.insert(place.clone(), path.clone()) {
            let message = format!(
                "`{path}` and `{other}` would both be `{place}` in the program's working folder"
            );
            return Err(ParamProblem::new(field, message));
        }
    }
    Ok(places)
}

fn place_of(path: &Path) -> Option<String> {
    let inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !inside {
        return path.file_name()?.to_str().map(str::to_owned);
    }
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let place = parts.collect::<Vec<_>>().join("/");
    (!place.is_empty()).then_some(place)
}

/// The files for the key, each by where the program finds it.
///
/// # Errors
/// If a folder cannot be read.
pub(super) fn named(
    places: &BTreeMap<String, String>,
    list: &FieldPath,
    root: &Path,
) -> Result<Vec<FileParam>, ParamProblem> {
    let mut params = Vec::new();
    for (place, path) in places {
        let field = list.child(place);
        let files = below(place, &root.join(path))
            .map_err(|error| ParamProblem::new(list.clone(), error.to_string()))?;
        if files.is_empty() {
            let message = format!("the folder `{path}` holds no files");
            return Err(ParamProblem::new(list.clone(), message));
        }
        params.push(FileParam {
            field,
            files,
            required: true,
        });
    }
    Ok(params)
}

/// Copies the files to where the program finds them; relative paths are relative to `root`.
///
/// # Errors
/// If one cannot be copied.
pub(super) fn place(
    places: &BTreeMap<String, String>,
    root: &Path,
    work: &Path,
) -> Result<(), StageError> {
    for (place, path) in places {
        for (place, path) in below(place, &root.join(path))? {
            let to = work.join(place);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder).map_err(StageError::io(folder))?;
            }
            fs::copy(&path, &to).map_err(StageError::io(&path))?;
        }
    }
    Ok(())
}

/// The file itself, or all files below a folder, in order; each with where the program finds it.
fn below(place: &str, path: &Path) -> Result<Vec<(String, PathBuf)>, StageError> {
    if !path.is_dir() {
        return Ok(vec![(place.to_owned(), path.to_owned())]);
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(StageError::io(path))? {
        let name = entry.map_err(StageError::io(path))?.file_name();
        let Some(name) = name.to_str() else {
            let message = format!("{}: the name of a file is not UTF-8", path.display());
            return Err(StageError::failed(message));
        };
        if !PASSED_OVER.contains(&name) {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    let mut files = Vec::new();
    for name in names {
        files.extend(below(&format!("{place}/{name}"), &path.join(&name))?);
    }
    Ok(files)
}
