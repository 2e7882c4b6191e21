//! `plan`, `why`, `graph`, `status`.

use crate::support::{DATA, FINISHED, Lab, TINY, lines};

#[test]
fn a_plan_counts_cells_and_distinct_stages() {
    let lab = Lab::new(DATA);
    let text = lab.ok(&["plan", "spec.yaml"]);
    let first = text.lines().next().expect("a line");
    assert_eq!(
        first,
        "4 cells, 4 distinct stages: 0 cached, 4 to run, 0 waiting on those"
    );
    assert!(text.contains("world[seed=2]"), "{text}");
    assert!(text.contains("never ran"), "{text}");
}

#[test]
fn a_plan_after_the_run_says_that_all_is_cached() {
    let (lab, _) = &*FINISHED;
    let text = lab.ok(&["plan", "spec.yaml"]);
    assert!(text.contains("0 to run, 0 waiting on those"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        lab.ok(&["plan", "spec.yaml", "--all"])
            .contains("sft[seed=0,subset=hard]")
    );
}

#[test]
fn a_plan_in_json_has_a_line_per_stage_and_the_totals() {
    let lab = Lab::new(DATA);
    let plan = lines(&lab.ok(&["plan", "spec.yaml", "--json"]));
    assert_eq!(plan.len(), 5);
    assert!(
        plan[..4]
            .iter()
            .all(|line| line["state"] == "to run" && line["key"].is_string()),
        "{plan:?}"
    );
    assert_eq!(plan[4]["summary"]["to_run"], 4);
}

#[test]
fn stages_below_one_that_must_run_wait() {
    let (lab, _) = &*FINISHED;
    let plan = lines(&lab.ok(&[
        "plan",
        "spec.yaml",
        "--json",
        "--set",
        "stages.rollouts.with.n=3",
    ]));
    let state = |title: &str| {
        plan.iter()
            .find(|line| line["stage"] == title)
            .map(|line| line["state"].clone())
            .expect("the stage")
    };
    assert_eq!(state("world[seed=0]"), "cached");
    assert_eq!(state("rollouts[seed=0]"), "to run");
    assert_eq!(state("difficulty[seed=0]"), "waits");
    assert_eq!(state("eval_cold_start[seed=0,set=val]"), "cached");
}

#[test]
fn why_gives_the_old_and_the_new_value_and_the_line() {
    let (lab, _) = &*FINISHED;
    let text = lab.ok(&[
        "why",
        "spec.yaml",
        "rollouts[seed=1]",
        "--set",
        "stages.rollouts.with.n=3",
    ]);
    assert!(
        text.contains("n: 2 -> 3 (--set stages.rollouts.with.n=3)"),
        "{text}"
    );
    let json = lines(&lab.ok(&[
        "why",
        "spec.yaml",
        "rollouts",
        "--set",
        "stages.rollouts.with.n=3",
        "--json",
    ]));
    assert_eq!(json.len(), 2, "one per seed");
    assert_eq!(json[0]["reason"], "changed");
    assert_eq!(json[0]["changes"][0]["path"], "n");
    assert_eq!(json[0]["changes"][0]["old"], 2);
    assert_eq!(json[0]["changes"][0]["new"], 3);
}

#[test]
fn why_of_a_cached_stage_says_so() {
    let (lab, _) = &*FINISHED;
    assert!(
        lab.ok(&["why", "spec.yaml", "cold_start[seed=0]"])
            .contains("cached: computed in")
    );
    assert_eq!(
        lab.ok(&["why", "spec.yaml"]).trim(),
        "every stage is cached"
    );
}

#[test]
fn a_stage_is_named_by_as_many_axes_as_it_takes() {
    let (lab, _) = &*FINISHED;
    let titles = |name: &str| -> Vec<String> {
        lines(&lab.ok(&["why", "spec.yaml", name, "--json"]))
            .iter()
            .filter_map(|one| one["stage"].as_str().map(str::to_owned))
            .collect()
    };
    assert_eq!(
        titles("sft[subset=hard]"),
        ["sft[seed=0,subset=hard]", "sft[seed=1,subset=hard]"]
    );
    assert_eq!(
        titles("sft[subset=hard, seed=1]"),
        ["sft[seed=1,subset=hard]"]
    );
    let plan = lines(&lab.ok(&["plan", "spec.yaml", "--force", "sft[seed=1]", "--json"]));
    let forced: Vec<&str> = plan
        .iter()
        .filter(|line| line["state"] == "to run")
        .filter_map(|line| line["stage"].as_str())
        .collect();
    let expected = ["all", "hard", "easy+medium"].map(|it| format!("sft[seed=1,subset={it}]"));
    assert_eq!(forced, expected);
    let done = lab.dcsft(&["plan", "spec.yaml", "--force", "sft[subset=hrad]"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("sft[seed=1,subset=hard]"),
        "{}",
        done.stderr
    );
}

#[test]
fn why_of_an_unknown_stage_names_the_stages() {
    let lab = Lab::new(DATA);
    let done = lab.dcsft(&["why", "spec.yaml", "wrold"]);
    assert_eq!(done.code, 2);
    assert!(
        done.stderr.contains("the spec has no stage `wrold`"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("untrained, world"), "{}", done.stderr);
}

#[test]
fn graphs_are_drawn_in_both_languages() {
    let (lab, _) = &*FINISHED;
    let dot = lab.ok(&["graph", "spec.yaml", "--format", "dot"]);
    assert!(dot.starts_with("digraph"), "{dot}");
    assert!(
        dot.contains("sft[seed=0,subset=easy+medium]") && dot.contains("->"),
        "{dot}"
    );
    let mermaid = lab.ok(&["graph", "spec.yaml", "--format", "mermaid"]);
    assert!(mermaid.starts_with("flowchart"), "{mermaid}");
    let nodes = lines(&lab.ok(&["graph", "spec.yaml", "--json"]));
    let grpo = nodes
        .iter()
        .find(|node| node["stage"] == "grpo[seed=0]")
        .expect("grpo");
    let inputs: Vec<&str> = grpo["inputs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|i| i["stage"].as_str())
        .collect();
    assert!(inputs.contains(&"cold_start[seed=0]"), "{grpo}");
}

#[test]
fn status_tells_of_the_last_run_and_of_all_runs() {
    let lab = Lab::new(DATA);
    assert!(lab.ok(&["status", "spec.yaml"]).contains("has not run"));
    lab.ok(&["run", "spec.yaml"]);
    let text = lab.ok(&["status", "spec.yaml"]);
    assert!(text.contains("4 executed, 0 cached"), "{text}");
    let stages = lines(&lab.ok(&["status", "spec.yaml", "--json"]));
    assert_eq!(stages.len(), 4);
    assert!(
        stages.iter().all(|stage| stage["state"] == "executed"),
        "{stages:?}"
    );
    let runs = lines(&lab.ok(&["status", "--json"]));
    assert_eq!(runs.len(), 1);
    assert_eq!(
        (runs[0]["spec"].as_str(), runs[0]["state"].as_str()),
        (Some("data"), Some("done"))
    );
}

#[test]
fn what_a_stage_would_fail_on_hours_later_is_a_mistake_of_the_spec() {
    let lab = Lab::new(TINY);
    let names = "stages.sft.with.lora.target_modules=[nothing]";
    for command in ["plan", "run"] {
        let refused = lab.dcsft(&[command, "spec.yaml", "--set", names]);
        assert_eq!(refused.code, 2, "{command}: {}", refused.stderr);
        for words in [
            "`sft`: lora.target_modules: the list [\"nothing\"] fits no linear layer",
            "[nothing]",
            "in `sft[seed=0,subset=all]` and 5 other cells",
        ] {
            assert!(
                refused.stderr.contains(words),
                "{command}: {}",
                refused.stderr
            );
        }
    }
    let mistakes = lines(
        &lab.dcsft(&["plan", "spec.yaml", "--set", names, "--json"])
            .stdout,
    );
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert_eq!(mistakes[0]["exit"], 2);
    // Nothing has run.
    let status = lab.ok(&["plan", "spec.yaml"]);
    assert!(status.contains(" 0 cached,"), "{status}");
}
