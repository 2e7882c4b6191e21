//! Rewards that a program gives: what it is told, what is made of its answers, and what is said where it gives none.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use dcsft_stages::data::Rollouts;
use dcsft_stages::reward::{Asked, Grader, Reward};
use serde_json::{Value, json};
use support::{Bench, json_lines};

fn program(script: &str) -> Value {
    json!({"program": {"argv": ["sh", "-c", script], "timeout": 5}})
}

fn reward(value: &Value) -> Reward {
    serde_json::from_value(value.clone()).unwrap()
}

fn ask(count: usize, text: &str, value: &Value) -> Result<Vec<f32>, String> {
    let dir = tempfile::tempdir().unwrap();
    let reward = reward(value);
    let grader = Grader::start(&reward, &dir.path().join("work"), dir.path())?;
    let asked = Asked {
        id: "0f",
        prompt: "What?",
        completion: text,
        answer: "cat",
    };
    let rewards = grader.grade(&vec![asked; count])?;
    grader.finish()?;
    Ok(rewards)
}

const ONES: &str = "while read -r line; do echo 1; done";

#[test]
fn a_program_is_told_sample_question_completion_and_answer() {
    let dir = tempfile::tempdir().unwrap();
    let script = "while read -r line; do printf '%s\\n' \"$line\" >> \"$TOLD\"; echo 0.25; done";
    std::fs::write(dir.path().join("score.sh"), script).unwrap();
    let told = dir.path().join("told");
    let value = json!({"program": {
        "argv": ["sh", "score.sh"], "files": ["score.sh"], "env": [format!("TOLD={}", told.display())],
    }});
    let reward = reward(&value);
    let grader = Grader::start(&reward, &dir.path().join("work"), dir.path()).unwrap();
    let asked = ["a \"cat\"\n", "dog"].map(|completion| Asked {
        id: "0f",
        prompt: "<image>What?",
        completion,
        answer: "cat",
    });
    assert_eq!(grader.grade(&asked).unwrap(), [0.25, 0.25]);
    assert_eq!(grader.one(asked[1]).unwrap(), 0.25);
    grader.finish().unwrap();
    let lines = json_lines(&told);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        lines[0],
        json!({"id": "0f", "prompt": "<image>What?", "completion": "a \"cat\"\n", "answer": "cat"})
    );
    // Its folder is gone, and so is the program.
    assert!(!dir.path().join("work").exists());
}

#[test]
fn many_long_answers_do_not_block_it() {
    let value = json!({"program": {"argv": ["sed", "-u", "s/.*/0.5/"]}});
    let rewards = ask(3000, &"x".repeat(2000), &value).unwrap();
    assert_eq!(rewards, vec![0.5; 3000]);
}

#[test]
fn programs_that_do_not_answer_say_so() {
    let silent =
        json!({"program": {"argv": ["sh", "-c", "read -r a; echo 1; sleep 60"], "timeout": 0.3}});
    for (value, part) in [
        (
            program("read -r a; echo 1; exit 3"),
            "ended (exit status: 3) after 1 of 3 lines: it is to answer each line",
        ),
        (
            program("kill -9 $$"),
            "(signal: 9 (SIGKILL)) after 0 of 3 lines",
        ),
        (silent, "has said nothing for 0.3 s after 1 of 3 lines"),
        (
            program("while read -r a; do echo nan; done"),
            "said \"nan\" of an answer to the sample 0f: it is to say a number",
        ),
        (
            program("while read -r a; do echo inf; done"),
            "said \"inf\"",
        ),
        (
            program("while read -r a; do echo; done"),
            "said \"\" of an answer",
        ),
        (
            program("while read -r a; do echo good; done"),
            "said \"good\" of an answer",
        ),
        (
            program("while read -r a; do echo 1; done; echo 2"),
            "said \"2\", which nothing was asked for",
        ),
        (
            json!({"program": {"argv": ["no-such-program-here"]}}),
            "`no-such-program-here` cannot be started",
        ),
    ] {
        let began = Instant::now();
        let error = ask(3, "cat", &value).unwrap_err();
        assert!(error.contains(part), "{value}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{value}");
    }
}

#[test]
fn mistakes_in_a_program_are_found_before_anything_runs() {
    let registry = dcsft_stages::registry();
    let kind = registry.get("rollout").unwrap();
    for (value, part) in [
        (json!({"argv": []}), "reward.program.argv: names no program"),
        (
            json!({"argv": ["a"], "timeout": 0}),
            "reward.program.timeout: 0 is no time",
        ),
        (
            json!({"argv": ["a"], "env": ["A-B"]}),
            "is no name of a variable",
        ),
        (
            json!({"argv": ["a"], "env": ["A"], "pass_env": ["A"]}),
            "which `env` makes part of the key",
        ),
        (
            json!({"argv": ["a"], "files": ["/x/a", "a"]}),
            "would both be `a`",
        ),
        (json!({}), "missing field `argv`"),
        (json!({"argv": ["a"], "batch": 3}), "unknown field `batch`"),
    ] {
        let with = json!({"reward": {"program": value}});
        let found = kind.resolve(&with, Path::new("/")).unwrap_err();
        let found = format!("{}: {}", found[0].path, found[0].message);
        assert!(found.contains(part), "{value}: {found}");
    }
}

#[test]
fn a_programs_files_are_the_identity_of_the_stages_that_use_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lib")).unwrap();
    for name in ["score.py", "lib/a.py", "lib/b.py"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let registry = dcsft_stages::registry();
    for (kind, more) in [
        ("rollout", json!({})),
        ("eval", json!({})),
        ("grpo", json!({"steps": 2})),
        ("import", json!({})),
    ] {
        let kind = registry.get(kind).unwrap();
        let mut with = more;
        with["reward"] =
            json!({"program": {"argv": ["python3", "score.py"], "files": ["score.py", "lib"]}});
        let resolved = kind.resolve(&with, dir.path()).unwrap();
        let files: Vec<(String, Vec<&str>)> = resolved
            .files
            .iter()
            .map(|param| {
                let names = param.files.iter().map(|(name, _)| name.as_str());
                (param.field.to_string(), names.collect())
            })
            .collect();
        assert_eq!(
            files,
            [
                (
                    "reward.program.files.lib".to_owned(),
                    vec!["lib/a.py", "lib/b.py"]
                ),
                ("reward.program.files.score.py".to_owned(), vec!["score.py"]),
            ]
        );
        // What runs of one family share is not the content of files.
        if kind.decl().name == "grpo" {
            assert!(kind.family(&resolved.params).is_none());
        }
    }
}

#[test]
fn rollouts_evaluations_and_training_take_their_rewards_from_it() {
    let mut bench = Bench::new();
    let data = bench.colours("train", 0, 8, |_, name| name.to_owned());
    let model = bench.model(0);
    let inputs = [("model", vec![model]), ("data", vec![data])];
    // 1 for every second answer.
    let script = "i=0; while read -r line; do i=$((1 - i)); echo $i; done";
    let rewards = |run: &support::Run| -> Vec<f32> {
        run.summary();
        let rollouts = Rollouts::open(&run.output("rollouts")).unwrap();
        let generations = rollouts
            .records
            .into_iter()
            .flat_map(|record| record.generations);
        generations.map(|generation| generation.reward).collect()
    };
    let rollout = bench.run(
        "rollout",
        json!({"n": 2, "max_new_tokens": 4, "reward": program(script)}),
        &inputs,
    );
    assert_eq!(rewards(&rollout), [1.0, 0.0].repeat(8));
    let eval = bench.run(
        "eval",
        json!({"max_new_tokens": 4, "reward": program(script)}),
        &inputs,
    );
    assert_eq!(eval.summary()["results"][0]["value"], 0.5);
    let with = |script: &str| json!({"steps": 2, "generations": 4, "prompts_per_step": 2, "max_new_tokens": 4, "reward": program(script)});
    let grpo = bench.run("grpo", with(ONES), &inputs);
    assert_eq!(grpo.summary()["reward"], 1.0);
    for (kind, params) in [
        (
            "rollout",
            json!({"n": 2, "max_new_tokens": 4, "reward": program("exit 7")}),
        ),
        (
            "eval",
            json!({"max_new_tokens": 4, "reward": program("exit 7")}),
        ),
        ("grpo", with("exit 7")),
    ] {
        let failure = bench.run(kind, params, &inputs).failure();
        assert!(
            failure.contains("ended (exit status: 7) after 0 of"),
            "{kind}: {failure}"
        );
    }
}
