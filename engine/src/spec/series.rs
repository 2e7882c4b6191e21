//! Values of an axis that are computed: `range`, `every`, `linspace`, `logspace`.

use serde_json::{Number, Value};

use super::names::is_template;
use super::tree::{Data, Tree};
use crate::diagnostic::{Diagnostic, Findings, Span, did_you_mean, quoted_list};

/// Most values of one axis.
const MAX_VALUES: usize = 100_000;
/// Significant digits of computed values: few enough that every platform's `powf` rounds to the same value.
const DIGITS: usize = 12;

/// Ways to make values.
const FORMS: [&str; 4] = ["range", "every", "linspace", "logspace"];

/// Whether `tree` makes the values of an axis, as `{range: [0, 4]}`.
pub(crate) fn is_series(tree: &Tree) -> bool {
    matches!(tree.entries(), Some([entry]) if FORMS.contains(&entry.key.as_str()))
}

/// `{range: [a, b, step]}`, `{every: [step, last]}`, `{linspace: [a, b, n]}`, `{logspace: [a, b, n]}`.
pub(super) fn series(tree: &Tree, findings: &mut Findings) -> Vec<(Value, Span)> {
    let entries = tree.entries().unwrap_or_default();
    let [entry] = entries else {
        let problem = Diagnostic::error(
            tree.span,
            "an axis is a list, or a map with one of `range`, `every`, `linspace`, `logspace`",
        );
        findings.push(problem.help("write `{range: [0, 10, 2]}`"));
        return Vec::new();
    };
    if !FORMS.contains(&entry.key.as_str()) {
        let problem = Diagnostic::error(
            entry.key_span,
            format!("`{}` is no way to make values", entry.key),
        )
        .note(format!("there are {}", quoted_list(FORMS)))
        .maybe_help(did_you_mean(&entry.key, FORMS));
        findings.push(problem);
        return Vec::new();
    }
    let unknown = |item: &Tree| item.text().is_some_and(is_template);
    if unknown(&entry.value)
        || entry
            .value
            .items()
            .is_some_and(|items| items.iter().any(unknown))
    {
        return Vec::new();
    }
    let numbers: Option<Vec<&Number>> = entry.value.items().and_then(|items| {
        items
            .iter()
            .map(|item| {
                if let Data::Scalar(Value::Number(number)) = &item.data {
                    Some(number)
                } else {
                    None
                }
            })
            .collect()
    });
    let made = match (entry.key.as_str(), numbers.as_deref()) {
        ("range", Some([a, b])) => range(a, b, &Number::from(1)),
        ("range", Some([a, b, step])) => range(a, b, step),
        ("every", Some([step, last])) => every(step, last),
        ("every", _) => {
            Err("`every` takes two whole numbers: the step and the last value".to_owned())
        }
        ("linspace", Some([a, b, n])) => spaced(a, b, n, |a, b, t| a + (b - a) * t),
        ("logspace", Some([a, b, n])) if float(a) > 0.0 && float(b) > 0.0 => {
            spaced(a, b, n, |a, b, t| a * (b / a).powf(t))
        }
        ("logspace", Some([_, _, _])) => Err("both ends of `logspace` are above 0".to_owned()),
        ("range", _) => Err("`range` takes three numbers: first, last, step".to_owned()),
        (form, _) => Err(format!(
            "`{form}` takes three numbers: first, last, how many"
        )),
    };
    match made {
        Ok(values) => values
            .into_iter()
            .map(|value| (value, entry.value.span))
            .collect(),
        Err(message) => {
            findings.push(Diagnostic::error(entry.value.span, message));
            Vec::new()
        }
    }
}

fn float(number: &Number) -> f64 {
    number.as_f64().unwrap_or(f64::NAN)
}

/// `a`, `a + step`, ... up to `b`, which is included where it is hit. Whole numbers stay whole; others are
/// rounded to as many decimals as `a` and `step` are written with.
fn range(a: &Number, b: &Number, step: &Number) -> Result<Vec<Value>, String> {
    let (first, last, by) = (float(a), float(b), float(step));
    let whole = [a, b, step].map(Number::as_i128);
    let count = match whole {
        // Exact, also above 2^53.
        [Some(first), Some(last), Some(by)] if by != 0 => ((last - first) / by) as f64,
        _ => ((last - first) / by + 1e-9).floor(),
    };
    if by == 0.0 || count < 0.0 || (last - first) * by < 0.0 {
        return Err(format!("the step {step} does not lead from {a} to {b}"));
    }
    if count >= MAX_VALUES as f64 {
        return Err(format!("more than {MAX_VALUES} values"));
    }
    if let [Some(first), _, Some(by)] = whole {
        let value = |i: i128| Number::from_i128(first + i * by).map(Value::Number);
        let values: Option<Vec<Value>> = (0..=count as i128).map(value).collect();
        return values.ok_or_else(|| format!("{b} is too large for a 64-bit integer"));
    }
    let decimals = [first, by].map(|value| {
        value
            .to_string()
            .split_once('.')
            .map_or(0, |(_, digits)| digits.len())
    });
    let decimals = decimals[0].max(decimals[1]);
    let value = |i: u64| rounded(&format!("{:.decimals$}", first + i as f64 * by));
    Ok((0..=count as u64).map(value).collect())
}

/// The multiples of `step` below `last`, and `last`: the steps at which a trainer of `last` steps saves its model with
/// `save_steps: step`. A step of 0 gives `last` alone, as there.
fn every(step: &Number, last: &Number) -> Result<Vec<Value>, String> {
    let whole = |number: &Number| super::tree::whole(&Value::Number(number.clone()));
    let (Some(step), Some(last)) = (whole(step), whole(last).filter(|last| *last > 0)) else {
        return Err(format!(
            "`every` takes two whole numbers, the step and the last value, which is above 0; not {step} and {last}"
        ));
    };
    let before = (last - 1).checked_div(step).unwrap_or(0);
    if before >= MAX_VALUES as u64 {
        return Err(format!("more than {MAX_VALUES} values"));
    }
    let multiples = (1..=before).map(|at| at * step);
    Ok(multiples.chain([last]).map(Value::from).collect())
}

/// `n` values from `a` to `b`, both included. Whole if both ends and all values are.
fn spaced(
    a: &Number,
    b: &Number,
    n: &Number,
    at: impl Fn(f64, f64, f64) -> f64,
) -> Result<Vec<Value>, String> {
    let count = n
        .as_u64()
        .filter(|count| (2..=MAX_VALUES as u64).contains(count));
    let count =
        count.ok_or_else(|| format!("the number of values is from 2 to {MAX_VALUES}, not {n}"))?;
    let (first, last) = (float(a), float(b));
    let inner = (1..count - 1).map(|i| at(first, last, i as f64 / (count - 1) as f64));
    let inner: Vec<Value> = inner
        .map(|value| rounded(&format!("{value:.*e}", DIGITS - 1)))
        .collect();
    let whole = a.is_i64()
        && b.is_i64()
        && inner
            .iter()
            .all(|value| value.as_f64().is_some_and(|v| v.fract() == 0.0));
    let ends = [Value::Number(a.clone()), Value::Number(b.clone())];
    let [head, tail] = if whole {
        ends
    } else {
        [Value::from(first), Value::from(last)]
    };
    let inner = inner.into_iter().map(|value| {
        if whole {
            Value::from(value.as_f64().unwrap_or(0.0) as i64)
        } else {
            value
        }
    });
    Ok([head].into_iter().chain(inner).chain([tail]).collect())
}

fn rounded(text: &str) -> Value {
    Value::from(text.parse::<f64>().unwrap_or(f64::NAN))
}
