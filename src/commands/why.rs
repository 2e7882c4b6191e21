//! `dcsft why SPEC [STAGE]`.

use std::io::Write;

use dcsft_engine::plan::NodeState;
use dcsft_engine::study::NodeId;
use dcsft_engine::text;
use dcsft_engine::units::{date, duration};
use dcsft_engine::why::{Comparison, Explainer, Explanation, Reason};

use crate::cli::Why;
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};
use crate::select;
use crate::settings::App;

/// Explains one stage, or all that are not cached.
///
/// # Errors
/// A wrong spec or stage; a cache that cannot be read.
pub(crate) fn run(app: &App, args: &Why) -> Result<Exit, Failure> {
    let project = app.project(&args.spec)?;
    let plan = project.plan(&[], false)?;
    let nodes: Vec<NodeId> = match &args.stage {
        Some(name) => select::nodes(&project.study, name)?
            .into_iter()
            .map(|node| node.id)
            .collect(),
        None => project.study.nodes.iter().map(|node| node.id).collect(),
    };
    let mut explainer = Explainer::new(&project.study, &project.registry, &plan, &project.store);
    let mut out = stdout();
    let mut told = false;
    for id in nodes {
        let cached = matches!(plan.node(id).state, NodeState::Cached { .. });
        if cached && args.stage.is_none() {
            continue;
        }
        let explanation = explainer.explain(id)?;
        if app.terminal.json {
            print_json(&mut out, &explanation)?;
        } else {
            if told {
                writeln!(out)?;
            }
            print(&mut out, &explanation)?;
        }
        told = true;
    }
    if !told && !app.terminal.json {
        writeln!(out, "every stage is cached")?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

fn print(out: &mut impl Write, explanation: &Explanation) -> std::io::Result<()> {
    let Explanation {
        stage,
        place,
        reason,
        ..
    } = explanation;
    writeln!(out, "{} ({})", text::line(stage), text::line(place))?;
    writeln!(out, "  {}", text::line(&headline(reason)))?;
    let compared = match reason {
        Reason::NeverRan { nearest } => nearest.as_ref(),
        Reason::Changed(comparison) => Some(comparison),
        Reason::Waits { known, .. } => known.as_ref(),
        _ => None,
    };
    let Some(Comparison {
        stage,
        key,
        changes,
    }) = compared
    else {
        return Ok(());
    };
    if changes.is_empty() {
        return Ok(());
    }
    let word = if matches!(reason, Reason::NeverRan { .. }) {
        "nearest result"
    } else {
        "earlier result"
    };
    writeln!(out, "  {word}: {}, key {}", text::line(stage), key.short())?;
    for change in changes {
        writeln!(out, "    {}", text::line(&change.to_string()))?;
    }
    Ok(())
}

/// A reason in one sentence.
pub(crate) fn headline(reason: &Reason) -> String {
    match reason {
        Reason::Waits { .. } => format!("waits {}", after_state(reason)),
        _ => after_state(reason),
    }
}

/// A reason beside the word for the stage's state: the last column of `dcsft plan`.
pub(crate) fn after_state(reason: &Reason) -> String {
    match reason {
        Reason::Cached {
            seconds,
            created_unix,
        } => {
            format!(
                "cached: computed in {} on {}",
                duration(*seconds),
                date(*created_unix)
            )
        }
        Reason::Forced => "runs because of --force".to_owned(),
        Reason::NeverRan { .. } => "never ran".to_owned(),
        Reason::Changed(comparison) => match comparison.changes.as_slice() {
            [] => "changed".to_owned(),
            [only] => format!("changed: {only}"),
            [first, rest @ ..] => format!("changed: {first}, and {} more", rest.len()),
        },
        Reason::Lost => "its result is no longer in the cache".to_owned(),
        Reason::Failed { message } => format!("failed: {message}"),
        Reason::Waits { on, .. } => {
            let more = if on.len() > 3 {
                format!(" and {} more", on.len() - 3)
            } else {
                String::new()
            };
            format!(
                "for {}{more}",
                on.iter().take(3).cloned().collect::<Vec<_>>().join(", ")
            )
        }
        _ => "unknown".to_owned(),
    }
}
