//! `dcsft graph SPEC`.

use std::io::Write;

use dcsft_engine::plan;
use dcsft_engine::study::NodeId;
use serde_json::json;

use crate::cli::{Graph, GraphFormat};
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};
use crate::settings::App;

/// Prints the study as DOT or Mermaid text, or its nodes and edges as JSON.
///
/// # Errors
/// A wrong spec, a cache that cannot be read.
pub(crate) fn run(app: &App, args: &Graph) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let state = |id: NodeId| Some(plan.node(id).state.word().to_owned());
    let mut out = stdout();
    if app.terminal.json {
        for node in &project.study.nodes {
            let inputs = node.inputs.iter().flat_map(|(input, references)| {
                references.iter().map(move |reference| (input, reference))
            });
            let inputs: Vec<_> = inputs
                .map(|(input, reference)| {
                    let stage = project.study.nodes[reference.node.0].title();
                    json!({"input": input, "stage": stage, "output": reference.output})
                })
                .collect();
            let state = plan.node(node.id).state.word();
            print_json(
                &mut out,
                &json!({"stage": node.title(), "kind": node.kind, "state": state, "inputs": inputs}),
            )?;
        }
    } else {
        let text = match args.format {
            GraphFormat::Dot => plan::dot(&project.study, state),
            GraphFormat::Mermaid => plan::mermaid(&project.study, state),
        };
        out.write_all(text.as_bytes())?;
    }
    out.flush()?;
    Ok(Exit::Done)
}
