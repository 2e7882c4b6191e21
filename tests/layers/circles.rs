//! Circles among imports.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use petgraph::algo::tarjan_scc;
use petgraph::graphmap::DiGraphMap;

use crate::imports::{Import, Name};

/// The shortest circle of each group of modules that import each other.
pub(crate) fn circles(imports: &[Import]) -> Vec<Vec<&Import>> {
    let graph: DiGraphMap<&Name, ()> = imports
        .iter()
        .map(|import| (&import.from, &import.to))
        .collect();
    let groups = tarjan_scc(&graph)
        .into_iter()
        .filter(|group| group.len() > 1);
    let mut circles: Vec<Vec<&Import>> = groups
        .filter_map(|group| {
            let inside =
                |import: &&Import| group.contains(&&import.from) && group.contains(&&import.to);
            let imports: Vec<&Import> = imports.iter().filter(inside).collect();
            let through = imports.iter().filter_map(|import| way(&imports, import));
            through.min_by_key(Vec::len)
        })
        .collect();
    circles.sort();
    circles
}

/// The shortest way from the end of an import back to its start, with the import itself.
fn way<'a>(imports: &[&'a Import], first: &'a Import) -> Option<Vec<&'a Import>> {
    let mut came: BTreeMap<&Name, &Import> = BTreeMap::new();
    let mut queue = VecDeque::from([&first.to]);
    while let Some(at) = queue.pop_front() {
        if *at == first.from {
            let mut back = vec![];
            let mut at = at;
            while *at != first.to {
                let import = came[at];
                back.push(import);
                at = &import.from;
            }
            back.push(first);
            back.reverse();
            return Some(back);
        }
        for import in imports.iter().filter(|import| import.from == *at) {
            if import.to != first.to && !came.contains_key(&import.to) {
                came.insert(&import.to, import);
                queue.push_back(&import.to);
            }
        }
    }
    None
}

/// A circle, file by file.
pub(crate) fn describe(circle: &[&Import]) -> String {
    let mut text = format!("a circle of {} files:\n", circle.len());
    for import in circle {
        let _ = writeln!(text, "  {}", line(import));
    }
    text
}

/// One import: where it stands, what is written there, and where that leads.
pub(crate) fn line(import: &Import) -> String {
    format!(
        "{}:{} uses {} of {}",
        import.file.display(),
        import.line,
        import.path,
        import.target.display()
    )
}
