//! Params that the inputs of their stages do not allow, as mistakes of the spec.

use std::collections::BTreeMap;

use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::stage::ParamProblem;
use crate::study::{Node, Place, Study};

/// Takes problems while stages are forecast; cells of a stage with the same one make one mistake.
#[derive(Debug, Default)]
pub(super) struct Unfit {
    /// By place and message: the first cell that has it, and how many do.
    found: BTreeMap<([usize; 3], String), (String, usize)>,
}

impl Unfit {
    /// Takes those of one stage.
    pub(super) fn take(&mut self, node: &Node, problems: Vec<ParamProblem>) {
        for ParamProblem { path, message } in problems {
            let Place {
                source,
                line,
                column,
            } = *node.place_of(&path).unwrap_or(&node.place);
            let message = format!("`{}`: {message}", node.kind);
            let found = self.found.entry(([source, line, column], message));
            found.or_insert_with(|| (node.title(), 0)).1 += 1;
        }
    }

    /// All of them in the order of the text.
    pub(super) fn finish(self, study: &Study) -> Diagnostics {
        let mistake = |((place, message), (title, cells)): (([usize; 3], String), _)| {
            let problem = Diagnostic::error(span(study, place), message);
            match cells {
                1 => problem.note(format!("in `{title}`")),
                2 => problem.note(format!("in `{title}` and 1 other cell")),
                _ => problem.note(format!("in `{title}` and {} other cells", cells - 1)),
            }
        };
        Diagnostics {
            items: self.found.into_iter().map(mistake).collect(),
            sources: study.sources.clone(),
        }
    }
}

/// The word that stands at a place.
fn span(study: &Study, [source, line, column]: [usize; 3]) -> Option<Span> {
    let text = study.sources.get(source)?.text();
    let rest = text.lines().nth(line.checked_sub(1)?)?.chars();
    let word = rest
        .skip(column.checked_sub(1)?)
        .take_while(|letter| !letter.is_whitespace() && !",:{}[]".contains(*letter));
    Some(Span {
        source: source as u32,
        line: line as u32,
        column: column as u32,
        length: word.count().max(1) as u32,
    })
}
