//! `dcsft export SPEC STAGE DIR`: a cached result in a format that other tools load.

use std::io::Write;

use dcsft_engine::stage::OutputDecl;
use dcsft_engine::study::Node;
use dcsft_stages::export::{Exported, Format, export};
use serde_json::json;

use crate::cli::{Export, ExportFormat};
use crate::exit::{Exit, Failure};
use crate::output::{count, print_json, stdout};
use crate::select::{Selector, listed};
use crate::settings::{App, Project};

/// Writes the export.
///
/// # Errors
/// A wrong spec or stage; a result that is not in the cache; a folder with something in it; files that cannot be
/// read or written.
pub(crate) fn run(app: &App, args: &Export) -> Result<Exit, Failure> {
    if args.base.is_some() && args.format != Some(ExportFormat::Adapter) {
        return Err(Failure::usage("--base names the model of adapters")
            .help("add `--format adapter`, or leave --base out"));
    }
    let project = app.project(&args.spec)?;
    let wanted = Wanted::parse(&args.stage)?;
    let node = wanted.node(&project)?;
    let output = wanted.output(node)?;
    let _guard = project
        .store
        .hold(&format!("dcsft export {}", project.study.name))?;
    let plan = project.plan(&[], false)?;
    let made = plan
        .node(node.id)
        .state
        .record()
        .and_then(|record| record.outputs.get(&output.name));
    let Some(made) = made else {
        return Err(
            Failure::failed(format!("{} is not in the cache", node.title()))
                .help(format!("compute it with `{}`", run_command(args))),
        );
    };
    // What leaves the cache is read once more, whatever is remembered of it.
    let from = project.store.open_verified(&made.digest)?;
    let (format, base) = (args.format.map(format), args.base.as_deref());
    let written = export(output.artifact, &from, &args.dir, format, base)
        .map_err(|error| Failure::failed(format!("{}: {error}", args.stage)))?;
    let mut out = stdout();
    if app.terminal.json {
        print_json(
            &mut out,
            &json!({
                "stage": node.title(), "output": output.name, "artifact": output.artifact, "digest": made.digest,
                "format": written.format, "rows": written.rows, "dir": args.dir,
            }),
        )?;
    } else {
        writeln!(out, "{}", sentence(args, &written))?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn sentence(args: &Export, written: &Exported) -> String {
    let what = match written.rows {
        Some(rows) => format!(", {}", count(rows, "row", "rows")),
        None => String::new(),
    };
    let (stage, dir) = (&args.stage, args.dir.display());
    format!("wrote {stage} ({}{what}) to {dir}", written.format.name())
}

/// The command that computes what is missing, with the same study.
fn run_command(args: &Export) -> String {
    let mut command = format!("dcsft run {}", args.spec.spec.display());
    if args.spec.device != "cpu" {
        command += &format!(" --device {}", args.spec.device);
    }
    for text in &args.spec.overrides {
        command += &format!(" --set '{text}'");
    }
    command
}

fn format(format: ExportFormat) -> Format {
    match format {
        ExportFormat::Merged => Format::Merged,
        ExportFormat::Adapter => Format::Adapter,
        ExportFormat::Jsonl => Format::Jsonl,
        ExportFormat::Parquet => Format::Parquet,
        ExportFormat::Files => Format::Files,
    }
}

/// `stage[axis=value,...].output`, taken apart.
#[derive(Debug, PartialEq)]
struct Wanted<'a> {
    selector: Selector<'a>,
    output: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("`{text}` names no output of a stage"))
                .help("write it as STAGE, STAGE.OUTPUT or STAGE[AXIS=VALUE].OUTPUT")
        };
        let (selector, rest) = Selector::parse(text).ok_or_else(wrong)?;
        let output = match rest {
            "" => None,
            _ => Some(
                rest.strip_prefix('.')
                    .filter(|name| !name.is_empty())
                    .ok_or_else(wrong)?,
            ),
        };
        Ok(Self { selector, output })
    }

    /// The one node that is meant.
    fn node<'p>(&self, project: &'p Project) -> Result<&'p Node, Failure> {
        match self.selector.nodes(&project.study)?.as_slice() {
            [only] => Ok(only),
            several => Err(
                Failure::usage(format!("`{}` means several stages", self.selector))
                    .help(format!("there are {}", listed(several))),
            ),
        }
    }

    /// The output that is meant.
    fn output<'p>(&self, node: &'p Node) -> Result<&'p OutputDecl, Failure> {
        let found = match self.output {
            None => node.outputs.first(),
            Some(name) => node.outputs.iter().find(|output| output.name == name),
        };
        found.ok_or_else(|| {
            let names: Vec<&str> = node
                .outputs
                .iter()
                .map(|output| output.name.as_str())
                .collect();
            let asked = self.output.unwrap_or_default();
            Failure::usage(format!("{} has no output `{asked}`", node.title()))
                .help(format!("its outputs are {}", names.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    #[test]
    fn stages_cells_and_outputs_are_told_apart() {
        let parts = |text| {
            let wanted = Wanted::parse(text).expect("it names an output");
            (wanted.selector.to_string(), wanted.output)
        };
        assert_eq!(parts("sft"), ("sft".to_owned(), None));
        assert_eq!(parts("sft.step-4"), ("sft".to_owned(), Some("step-4")));
        assert_eq!(
            parts("sft[subset=easy+medium, rate=0.5].model"),
            ("sft[rate=0.5,subset=easy+medium]".to_owned(), Some("model"))
        );
        for wrong in [
            "",
            ".model",
            "sft.",
            "sft[easy]",
            "sft[seed=0",
            "sft[seed=0]model",
        ] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }
}
