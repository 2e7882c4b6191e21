//! `dcsft export SPEC STAGE DIR`: a cached result in a format that other tools load.

use std::collections::BTreeMap;
use std::io::Write;

use dcsft_engine::kind::OutputDecl;
use dcsft_engine::study::{Node, plain};
use dcsft_stages::export::{Exported, Format, export};
use serde_json::json;

use crate::cli::{Export, ExportFormat};
use crate::exit::{Exit, Failure};
use crate::output::{count, print_json, stdout};
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
    let from = project.store.open_input(&made.digest)?;
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
    stage: &'a str,
    axes: BTreeMap<&'a str, &'a str>,
    output: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    fn parse(text: &'a str) -> Result<Self, Failure> {
        let wrong = || {
            Failure::usage(format!("`{text}` names no output of a stage"))
                .help("write it as STAGE, STAGE.OUTPUT or STAGE[AXIS=VALUE].OUTPUT")
        };
        let end = text.find(['[', '.']).unwrap_or(text.len());
        let (stage, mut rest) = text.split_at(end);
        let mut axes = BTreeMap::new();
        if let Some(inner) = rest.strip_prefix('[') {
            let (pairs, after) = inner.split_once(']').ok_or_else(wrong)?;
            for pair in pairs.split(',') {
                let (axis, value) = pair.split_once('=').ok_or_else(wrong)?;
                axes.insert(axis.trim(), value.trim());
            }
            rest = after;
        }
        let output = match rest {
            "" => None,
            _ => Some(
                rest.strip_prefix('.')
                    .filter(|name| !name.is_empty())
                    .ok_or_else(wrong)?,
            ),
        };
        if stage.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            stage,
            axes,
            output,
        })
    }

    /// The one node that is meant.
    fn node<'p>(&self, project: &'p Project) -> Result<&'p Node, Failure> {
        let cells = project.nodes_named(self.stage)?;
        let fits = |node: &&&Node| {
            self.axes.iter().all(|(axis, value)| {
                node.axes
                    .get(*axis)
                    .is_some_and(|own| plain(own) == **value)
            })
        };
        let found: Vec<&Node> = cells.iter().filter(fits).copied().collect();
        let (problem, shown) = match found.as_slice() {
            [only] => return Ok(only),
            [] => ("no stage", &cells),
            _ => ("several stages", &found),
        };
        let axes: Vec<String> = self
            .axes
            .iter()
            .map(|(axis, value)| format!("{axis}={value}"))
            .collect();
        let titles: Vec<String> = shown.iter().take(12).map(|node| node.title()).collect();
        let more = if shown.len() > titles.len() {
            format!(" and {} more", shown.len() - titles.len())
        } else {
            String::new()
        };
        let asked = if axes.is_empty() {
            self.stage.to_owned()
        } else {
            format!("{}[{}]", self.stage, axes.join(","))
        };
        Err(Failure::usage(format!("`{asked}` means {problem}"))
            .help(format!("there are {}{more}", titles.join(", "))))
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
            let axes: Vec<String> = wanted
                .axes
                .iter()
                .map(|(axis, value)| format!("{axis}={value}"))
                .collect();
            (wanted.stage, axes.join(" "), wanted.output)
        };
        assert_eq!(parts("sft"), ("sft", String::new(), None));
        assert_eq!(parts("sft.step-4"), ("sft", String::new(), Some("step-4")));
        assert_eq!(
            parts("sft[subset=easy+medium, rate=0.5].model"),
            (
                "sft",
                "rate=0.5 subset=easy+medium".to_owned(),
                Some("model")
            )
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
