//! `dcsft score REWARD --answers FILE`: what a reward says of answers, one JSON object per line.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use dcsft_stages::reward::{Asked, Form, Grader, Reward};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::Score;
use crate::exit::{Exit, Failure};
use crate::output::{print_json, stdout};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 1 << 24;

/// A line of the file.
#[derive(Deserialize)]
struct Record {
    answer: Value,
    gold: Value,
    /// For programs, which may look at it.
    #[serde(default)]
    id: String,
    #[serde(default)]
    prompt: String,
}

/// An answer and its right answer, as text.
struct Pair {
    answer: String,
    gold: String,
    id: String,
    prompt: String,
}

/// Scores every line; nothing is printed before all right answers are known to be usable.
///
/// # Errors
/// A reward, a line or a right answer that cannot be used.
pub(crate) fn run(args: &Score) -> Result<Exit, Failure> {
    let reward = parse(&args.reward)?;
    let pairs = read(&args.answers, &reward)?;
    let form = Form::new(&reward, pairs.iter().map(|pair| pair.gold.as_str()));
    let rewards = grade(&reward, &pairs)?;
    let mut out = stdout();
    for (pair, reward) in pairs.iter().zip(rewards) {
        let line = json!({
            "reward": reward,
            "well_formed": form.fits(&pair.answer),
        });
        print_json(&mut out, &line)?;
    }
    out.flush()?;
    Ok(Exit::Done)
}

/// The reward of every pair; a program runs in a scratch folder, its files are relative to the current one.
fn grade(reward: &Reward, pairs: &[Pair]) -> Result<Vec<f32>, Failure> {
    let work = std::env::temp_dir().join(format!("dcsft-score-{}", std::process::id()));
    let root = std::env::current_dir().unwrap_or_default();
    let grader = Grader::start(reward, &work, &root).map_err(Failure::failed)?;
    let asked: Vec<Asked<'_>> = pairs
        .iter()
        .map(|pair| Asked {
            id: &pair.id,
            prompt: &pair.prompt,
            completion: &pair.answer,
            answer: &pair.gold,
        })
        .collect();
    let rewards = grader.grade(&asked).map_err(Failure::failed)?;
    grader.finish().map_err(Failure::failed)?;
    Ok(rewards)
}

/// The reward of the command line. `{exact: {}}` is a longer way to write `exact`, as `{numeric: {}}` is for `numeric`.
fn parse(text: &str) -> Result<Reward, Failure> {
    let mut value = dcsft_engine::spec::value("REWARD", text)
        .map_err(|mistakes| Failure::Spec(Box::new(mistakes)))?;
    if let Value::Object(fields) = &value
        && let (1, Some((name, settings))) = (fields.len(), fields.iter().next())
        && settings.as_object().is_none_or(serde_json::Map::is_empty)
        && (settings.is_null() || settings.is_object())
    {
        value = Value::String(name.clone());
    }
    let reward: Reward = serde_json::from_value(value).map_err(|error| {
        Failure::usage(format!("`{text}` is no reward: {error}"))
            .help("write it as in a spec: `exact`, `choice`, or {numeric: {tolerance: 0.01}}")
    })?;
    match reward.problems().into_iter().next() {
        None => Ok(reward),
        Some((field, problem)) => Err(Failure::usage(format!("`{field}`: {problem}"))),
    }
}

fn read(path: &Path, reward: &Reward) -> Result<Vec<Pair>, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let mut reader: Box<dyn std::io::BufRead> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(std::io::BufReader::new(
            std::fs::File::open(path).map_err(unreadable)?,
        ))
    };
    let mut pairs = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut bounded = std::io::Read::take(&mut reader, LONGEST);
        if bounded.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let wrong = |problem: String| {
            Failure::usage(format!("{}:{number}: {problem}", path.display()))
                .help("each line is {\"answer\": ..., \"gold\": ...}")
        };
        if line.len() as u64 == LONGEST {
            return Err(wrong(format!("the line is longer than {LONGEST} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let record: Record =
            serde_json::from_slice(&line).map_err(|error| wrong(error.to_string()))?;
        let pair = Pair {
            answer: text(&record.answer).ok_or_else(|| wrong("`answer` is not text".into()))?,
            gold: text(&record.gold).ok_or_else(|| wrong("`gold` is not text".into()))?,
            id: record.id,
            prompt: record.prompt,
        };
        reward
            .check(&pair.gold)
            .map_err(|error| wrong(error.to_string()))?;
        pairs.push(pair);
    }
    Ok(pairs)
}

/// Text as it stands, a number or a list of numbers as it is written.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(items) if items.iter().all(Value::is_number) => {
            let numbers: Vec<String> = items.iter().map(Value::to_string).collect();
            Some(format!("[{}]", numbers.join(", ")))
        }
        _ => None,
    }
}
