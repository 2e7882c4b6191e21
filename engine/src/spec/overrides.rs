//! `--set a.b.c=value`: a value laid over what is written in the spec.

use serde_json::Value;

use super::source::Sources;
use super::tree::{Data, Entry, Tree};
use super::yaml;
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};
use crate::study::Source;

type Mistake = Box<Diagnostic>;

/// What one `--set` says.
struct Override<'a> {
    /// The name's parts, never none.
    parts: Vec<&'a str>,
    value: Tree,
    whole: Span,
}

/// One part of a name, on the way to the value.
struct Step<'a> {
    parts: &'a [&'a str],
    depth: usize,
    span: Span,
}

/// Applies overrides in order.
pub(crate) fn override_all(
    tree: &mut Tree,
    overrides: &[String],
    sources: &mut Sources,
    findings: &mut Findings,
) {
    for text in overrides {
        let source = sources.texts.len() as u32;
        sources.texts.push(Source::Override { text: text.clone() });
        let applied = Override::parse(text, source).and_then(|found| found.apply(tree));
        if let Err(problem) = applied {
            findings.push(*problem);
        }
    }
}

impl<'a> Override<'a> {
    fn parse(text: &'a str, source: u32) -> Result<Self, Mistake> {
        let whole = Span {
            source,
            line: 1,
            column: 1,
            length: text.chars().count() as u32,
        };
        let mistake =
            |message: &str, help: &str| Err(Box::new(Diagnostic::error(whole, message).help(help)));
        let example = "write it as `--set stages.sft.with.learning_rate=1e-4`";
        let Some((path, written)) = text.split_once('=') else {
            return mistake("an override without `=`", example);
        };
        let parts: Vec<&str> = path.split('.').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return mistake("an override with an empty name", example);
        }
        if path == "extends" {
            let message = "`extends` is read before anything is overridden";
            return mistake(message, "write it in a spec");
        }
        if parts.len() > yaml::MAX_DEPTH {
            let message = format!("a name of more than {} parts", yaml::MAX_DEPTH);
            return Err(Box::new(Diagnostic::error(whole, message)));
        }
        let mut value = yaml::parse(written, source)
            .map_err(|mut problems| Box::new(problems.swap_remove(0)))?;
        if written.trim().is_empty() {
            value.data = Data::Scalar(Value::Null);
        }
        shift(&mut value, path.chars().count() as u32 + 1);
        Ok(Self {
            parts,
            value,
            whole,
        })
    }

    fn apply(self, tree: &mut Tree) -> Result<(), Mistake> {
        let mut here = tree;
        let mut column = 0;
        for (depth, part) in self.parts.iter().enumerate() {
            let length = part.chars().count();
            let step = Step {
                parts: &self.parts,
                depth,
                span: self.whole.part(column, length),
            };
            here = step.below(here)?;
            column += length + 1;
        }
        *here = self.value;
        Ok(())
    }
}

impl Step<'_> {
    fn part(&self) -> &str {
        self.parts[self.depth]
    }

    /// The name of what the step starts from.
    fn parent(&self) -> String {
        self.parts[..self.depth].join(".")
    }

    /// What `vars` and `stages` hold are names of the user's: a new one would be a slip that nothing else finds.
    fn must_exist(&self) -> bool {
        match self.parts[0] {
            "vars" => self.depth >= 1,
            "stages" => self.depth == 1,
            _ => false,
        }
    }

    fn below<'t>(&self, tree: &'t mut Tree) -> Result<&'t mut Tree, Mistake> {
        let described = tree.describe();
        if tree.is_null() {
            tree.data = Data::Map(Vec::new());
        }
        match &mut tree.data {
            Data::Map(entries) => self.entry(entries),
            Data::List(items) => self.item(items),
            Data::Scalar(_) => {
                let parent = self.parent();
                let message = format!("`{parent}` is {described}: nothing below it to override");
                Err(Box::new(Diagnostic::error(self.span, message)))
            }
        }
    }

    /// The entry of a map, made if it is not there.
    fn entry<'t>(&self, entries: &'t mut Vec<Entry>) -> Result<&'t mut Tree, Mistake> {
        let part = self.part();
        let known = entries.iter().position(|entry| entry.key == part);
        if known.is_none() && self.must_exist() {
            let message = format!("`{}` has no `{part}` to override", self.parent());
            let names = || entries.iter().map(|entry| entry.key.as_str());
            let problem = Diagnostic::error(self.span, message)
                .note(format!("it has {}", quoted_list(names())))
                .maybe_help(did_you_mean(part, names()));
            return Err(Box::new(problem));
        }
        let at = known.unwrap_or_else(|| {
            entries.push(Entry {
                key: part.to_owned(),
                key_span: self.span,
                value: Tree::empty_map(self.span),
            });
            entries.len() - 1
        });
        Ok(&mut entries[at].value)
    }

    /// The item of a list.
    fn item<'t>(&self, items: &'t mut [Tree]) -> Result<&'t mut Tree, Mistake> {
        let (part, count) = (self.part(), items.len());
        let index = part.parse::<usize>().ok();
        index.and_then(|index| items.get_mut(index)).ok_or_else(|| {
            let message =
                format!("`{part}` is not an index of this list of {count} (the first is 0)");
            Box::new(Diagnostic::error(self.span, message))
        })
    }
}

/// Moves the places of a value that was parsed without what stands before it on its line.
fn shift(tree: &mut Tree, columns: u32) {
    if tree.span.line == 1 {
        tree.span.column += columns;
    }
    match &mut tree.data {
        Data::Scalar(_) => {}
        Data::List(items) => items.iter_mut().for_each(|item| shift(item, columns)),
        Data::Map(entries) => {
            for entry in entries {
                if entry.key_span.line == 1 {
                    entry.key_span.column += columns;
                }
                shift(&mut entry.value, columns);
            }
        }
    }
}
