//! Where the fields of a `with:` stand.

use std::collections::BTreeMap;

use super::tree::{Data, Tree};
use crate::diagnostic::Span;
use crate::stage::FieldPath;
use crate::study::Place;

/// The tree at `path` (keys and indices).
pub(crate) fn find<'a, 'p>(
    tree: &'a Tree,
    path: impl IntoIterator<Item = &'p str>,
) -> Option<&'a Tree> {
    path.into_iter()
        .try_fold(tree, |tree, part| step(tree, part).map(|(_, value)| value))
}

/// The spans of the key and the value at `path`, or of the innermost thing around it that is written.
pub(crate) fn nearest(tree: &Tree, path: &[String], fallback: Span) -> (Span, Span) {
    let mut here = (tree, fallback);
    let mut depth = 0;
    for part in path {
        match step(here.0, part) {
            Some((key, value)) => here = (value, key),
            None => break,
        }
        depth += 1;
    }
    let value = if depth == 0 { fallback } else { here.0.span };
    (here.1, value)
}

fn step<'a>(tree: &'a Tree, part: &str) -> Option<(Span, &'a Tree)> {
    match &tree.data {
        Data::Map(_) => tree.entry(part).map(|entry| (entry.key_span, &entry.value)),
        Data::List(items) => items
            .get(part.parse::<usize>().ok()?)
            .map(|item| (item.span, item)),
        Data::Scalar(_) => None,
    }
}

/// The place of every value in `tree`.
pub(crate) fn all(tree: &Tree) -> BTreeMap<FieldPath, Place> {
    let mut places = BTreeMap::new();
    collect(tree, &FieldPath::default(), &mut places);
    places
}

fn collect(tree: &Tree, path: &FieldPath, places: &mut BTreeMap<FieldPath, Place>) {
    match &tree.data {
        Data::Scalar(_) => {}
        Data::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = path.child(index.to_string());
                collect(item, &path, places);
                places.insert(path, item.span.into());
            }
        }
        Data::Map(entries) => {
            for entry in entries {
                let path = path.child(&*entry.key);
                collect(&entry.value, &path, places);
                places.insert(path, entry.value.span.into());
            }
        }
    }
}
