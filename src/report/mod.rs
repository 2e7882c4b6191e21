//! The report: figures and one HTML page from plain data.

pub(crate) mod data;
mod figures;
#[cfg(test)]
mod fixture;
mod page;
mod png;
pub(crate) mod scale;
mod svg;
mod theme;

use std::path::{Path, PathBuf};

use data::ReportData;
use theme::Theme;

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReportError {
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A figure could not be drawn as PNG.
    #[error("figure {name}: {source}")]
    Figure {
        /// The figure.
        name: &'static str,
        /// Why.
        source: png::PngError,
    },
}

/// Writes `index.html`, `figures/*.svg` and `figures/*.png` into `dir`; returns the path of the page.
///
/// # Errors
/// [`ReportError`] on the first file that cannot be written.
pub(crate) fn write(data: &ReportData, dir: &Path) -> Result<PathBuf, ReportError> {
    let folder = dir.join("figures");
    std::fs::create_dir_all(&folder).map_err(|source| ReportError::Write {
        path: folder.clone(),
        source,
    })?;
    let renderer = png::Renderer::new();
    for figure in figures::all(data, Theme::File) {
        let name = figure.name;
        save(&folder.join(format!("{name}.svg")), figure.svg.as_bytes())?;
        let png = renderer
            .png(&figure.svg)
            .map_err(|source| ReportError::Figure { name, source })?;
        save(&folder.join(format!("{name}.png")), &png)?;
    }
    let page = dir.join("index.html");
    save(&page, page::render(data).as_bytes())?;
    Ok(page)
}

/// Writes through a temporary name, so that a reader never sees half a file.
fn save(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    let fail = |source| ReportError::Write {
        path: path.to_owned(),
        source,
    };
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).map_err(fail)?;
    std::fs::rename(&part, path).map_err(fail)
}
