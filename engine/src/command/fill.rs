//! `${inputs.NAME}` and `${outputs.NAME}`: where things are on this machine, filled in when the program starts. The key
//! has the texts as they are written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

/// Where inputs and outputs are.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Places {
    /// The folders of the artifacts of each input.
    pub(super) inputs: BTreeMap<String, Vec<PathBuf>>,
    /// The folder of each output.
    pub(super) outputs: BTreeMap<String, PathBuf>,
}

/// Part of a text.
enum Part<'t> {
    Text(&'t str),
    Folders(Vec<String>),
}

impl Places {
    /// An argument filled in. One that is nothing but an input becomes as many as that has artifacts.
    ///
    /// # Errors
    /// Names that are not there.
    pub(super) fn argument(&self, text: &str) -> Result<Vec<String>, String> {
        match self.parts(text)?.as_mut_slice() {
            [Part::Folders(folders)] => Ok(std::mem::take(folders)),
            _ => Ok(vec![self.text(text)?]),
        }
    }

    /// A text filled in, several folders with spaces between them.
    ///
    /// # Errors
    /// Names that are not there.
    pub(super) fn text(&self, text: &str) -> Result<String, String> {
        let filled = self.parts(text)?.into_iter().map(|part| match part {
            Part::Text(text) => text.to_owned(),
            Part::Folders(folders) => folders.join(" "),
        });
        Ok(filled.collect())
    }

    /// A script filled in.
    ///
    /// # Errors
    /// Names that are not there, and folders that a shell would take apart.
    pub(super) fn script(&self, text: &str) -> Result<String, String> {
        for part in self.parts(text)? {
            let Part::Folders(folders) = part else {
                continue;
            };
            if let Some(folder) = folders.iter().find(|folder| !is_plain(folder)) {
                return Err(format!(
                    "a shell would not read `{folder}` as one word: use `argv`, or \"$DCSFT_INPUT_NAME\" and \
                     \"$DCSFT_OUTPUT_NAME\" in quotes, or a cache whose path has only letters, digits and `/._-+,:@%=`"
                ));
            }
        }
        self.text(text)
    }

    fn parts<'t>(&self, text: &'t str) -> Result<Vec<Part<'t>>, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        loop {
            let starts = ["${inputs.", "${outputs."].map(|start| (rest.find(start), start));
            let first = starts
                .iter()
                .filter_map(|(at, start)| Some(((*at)?, *start)))
                .min();
            let Some((at, start)) = first else { break };
            let (before, after) = rest.split_at(at);
            let Some((name, after)) = after[start.len()..].split_once('}') else {
                return Err(format!("`{start}` is not closed with `}}` in `{text}`"));
            };
            if !before.is_empty() {
                parts.push(Part::Text(before));
            }
            let folders = match start {
                "${inputs." => self.inputs.get(name).cloned(),
                _ => self.outputs.get(name).cloned().map(|dir| vec![dir]),
            };
            let folders = folders.ok_or_else(|| format!("there is no `{start}{name}}}`"))?;
            let folders = folders.into_iter().map(|dir| {
                let text = dir.into_os_string().into_string();
                text.map_err(|dir| format!("the path {} is not UTF-8", dir.display()))
            });
            parts.push(Part::Folders(folders.collect::<Result<_, _>>()?));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest));
        }
        Ok(parts)
    }
}

/// Whether a shell reads a path as one word, whatever it stands in.
fn is_plain(path: &str) -> bool {
    path.chars()
        .all(|c| c.is_alphanumeric() || "/._-+,:@%=".contains(c))
}
