//! Evaluations that have no result to show, and what they wait for.

use dcsft_engine::plan::{NodeState, Plan};
use dcsft_engine::study::Study;

use crate::output::count;

/// How many stages are named.
const NAMED: usize = 5;

/// What to say of the evaluations whose results are not there; none if all are.
///
/// One evaluation may have been computed and still not be found: where a stage before it has no result, nobody knows
/// the key that the evaluation has.
pub(crate) fn words(study: &Study, plan: &Plan) -> Option<String> {
    let evaluations = study.nodes.iter().filter(|node| {
        let mut outputs = node.outputs.iter();
        outputs.any(|output| output.artifact.holds_results())
    });
    let all = evaluations.clone().count();
    let missing = evaluations.filter(|node| plan.node(node.id).state.record().is_none());
    let missing = missing.count();
    if missing == 0 {
        return None;
    }
    let to_run = study.nodes.iter().zip(&plan.nodes);
    let titles: Vec<String> = to_run
        .filter(|(_, planned)| matches!(planned.state, NodeState::ToRun { .. }))
        .map(|(node, _)| node.title())
        .collect();
    let mut named = titles[..titles.len().min(NAMED)].join(", ");
    if titles.len() > NAMED {
        named += &format!(" and {} more", titles.len() - NAMED);
    }
    let verb = if titles.len() == 1 { "has" } else { "have" };
    let of = count(all, "evaluation", "evaluations");
    Some(format!(
        "{missing} of {of} cannot be shown: {named} {verb} no result in the cache, and what comes after is not known"
    ))
}
