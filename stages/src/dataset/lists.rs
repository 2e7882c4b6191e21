//! The lists of a set, one after the other, and which of their records are read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::drops::Dropped;
use super::layout::{Layout, RawRecord};
use super::names::{ImageRef, Roots, is_readable};
use super::params::DatasetParams;
use super::source::{Source, SourceError};

/// A record of one of the lists.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// The list.
    list: usize,
    /// The record's place in it.
    pub(super) index: usize,
}

struct List {
    name: String,
    roots: Roots,
    source: Source,
}

/// All lists, and the records that the params choose.
pub(super) struct Chosen {
    lists: Vec<List>,
    /// Records of all lists.
    pub(super) records: usize,
    /// Those that are read, in order.
    pub(super) rows: Vec<Row>,
}

/// What the list at `at` is called in a key: its content alone counts, and its place among several.
pub(super) fn key_name(params: &DatasetParams, at: usize) -> String {
    match params.path.paths() {
        [_] => String::new(),
        _ => format!("{at:06}"),
    }
}

impl Chosen {
    /// Reads the lists; `root` is what relative paths are relative to.
    pub(super) fn read(params: &DatasetParams, root: &Path) -> Result<Self, SourceError> {
        let read = |path: &String| {
            let path = root.join(path);
            let name = path.file_name().map_or_else(
                || path.to_string_lossy().into_owned(),
                |name| name.to_string_lossy().into_owned(),
            );
            Ok(List {
                name,
                roots: params.roots(&path, root),
                source: Source::read(&path, params.layout)?,
            })
        };
        let lists: Vec<List> = params
            .path
            .paths()
            .iter()
            .map(read)
            .collect::<Result<_, _>>()?;
        let all: Vec<Row> = lists
            .iter()
            .enumerate()
            .flat_map(|(list, content)| {
                (0..content.source.records.len()).map(move |index| Row { list, index })
            })
            .collect();
        let rows = params.select(all.len()).into_iter();
        Ok(Self {
            records: all.len(),
            rows: rows.map(|row| all[row]).collect(),
            lists,
        })
    }

    pub(super) fn record(&self, row: Row) -> Result<&RawRecord, &Dropped> {
        self.lists[row.list].source.records[row.index].as_ref()
    }

    pub(super) fn roots(&self, row: Row) -> &Roots {
        &self.lists[row.list].roots
    }

    /// The name of the record's list, where there are several.
    pub(super) fn list(&self, row: Row) -> Option<&str> {
        (self.lists.len() > 1).then(|| self.lists[row.list].name.as_str())
    }

    /// The names of the lists, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.lists.iter().map(|list| list.name.as_str()).collect();
        names.join(", ")
    }

    /// The layouts that records have: `messages`, `messages+problem`.
    pub(super) fn layouts(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for layout in self.lists.iter().flat_map(|list| &list.source.layouts) {
            if !names.contains(&Layout::name(*layout)) {
                names.push(layout.name());
            }
        }
        names.join("+")
    }

    /// The image files that the chosen records name, with their names in the key. What cannot be read like a file is
    /// not among them: its records are dropped when their turn comes.
    pub(super) fn image_files(&self, params: &DatasetParams) -> Vec<(String, PathBuf)> {
        // Lists in several folders can mean two files by one name.
        let one_folder = params.image_root.is_some() || self.lists.len() == 1;
        let named = self.rows.iter().filter_map(|&row| {
            let record = self.record(row).ok()?;
            let names = record.images.iter().filter_map(ImageRef::name_of_file);
            let folder = if one_folder { 0 } else { row.list };
            Some(names.map(move |name| ((folder, name), row)))
        });
        let named: BTreeMap<(usize, &str), Row> = named.flatten().collect();
        named
            .into_par_iter()
            .filter_map(|((folder, name), row)| {
                let path = self.roots(row).locate(name).ok()?;
                let missing = |error: std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
                let absent = path.symlink_metadata().err().is_some_and(missing);
                let name = match folder {
                    0 => name.to_owned(),
                    list => format!("{list:06}/{name}"),
                };
                (absent || is_readable(&path)).then_some((name, path))
            })
            .collect()
    }

    /// The rows in stretches of at most `count` records with at most `bytes` of image files.
    pub(super) fn chunks(&self, count: usize, bytes: u64) -> Vec<&[Row]> {
        let sizes: Vec<u64> = self.rows.par_iter().map(|&row| self.bytes(row)).collect();
        let mut chunks = Vec::new();
        let (mut start, mut sum) = (0, 0_u64);
        for (at, size) in sizes.into_iter().enumerate() {
            let full = at - start == count || sum.saturating_add(size) > bytes;
            if full && at > start {
                chunks.push(&self.rows[start..at]);
                (start, sum) = (at, 0);
            }
            sum = sum.saturating_add(size);
        }
        if start < self.rows.len() {
            chunks.push(&self.rows[start..]);
        }
        chunks
    }

    /// Bytes of the record's image file.
    fn bytes(&self, row: Row) -> u64 {
        let Ok(record) = self.record(row) else {
            return 0;
        };
        let names = record.images.iter().filter_map(ImageRef::name_of_file);
        let files = names.filter_map(|name| self.roots(row).locate(name).ok()?.metadata().ok());
        files.map(|file| file.len()).sum()
    }
}
