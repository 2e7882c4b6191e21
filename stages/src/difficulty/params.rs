//! Params of the stage `difficulty`.

use std::borrow::Cow;
use std::collections::BTreeSet;

use dcsft_engine::stage::ParamProblem;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::interval::Interval;

/// Bins of difficulty, and training sets made of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DifficultyParams {
    /// Bins by pass rate, as `name: interval` or `name: {interval, keep}`. Easy is all right, hard is all
    /// wrong, medium the rest, unless told otherwise.
    pub bins: Bins,
    /// What to do with pass rates that are in no bin.
    pub uncovered: Uncovered,
    /// Bins by rank of a score, in the place of pass rates.
    pub quantiles: Option<Quantiles>,
    /// A JSONL file with a line {"id": ..., "score": ...} for each sample, for `quantiles`. Without it the
    /// score is the mean negative log-probability of the rollouts' tokens.
    pub scores: Option<String>,
    /// Sets made of several bins, each a list of names: `[easy, medium]` becomes `easy+medium`.
    pub unions: Vec<Vec<String>>,
    /// For each bin and union also a set of the same size, drawn from all scored samples: `random-<name>`.
    pub controls: bool,
    /// Fewest scored samples; with fewer the stage fails.
    pub min_valid: u64,
    /// Seed of sampled fractions and of controls.
    pub seed: u64,
}

impl Default for DifficultyParams {
    fn default() -> Self {
        Self {
            bins: Bins::default(),
            uncovered: Uncovered::Fail,
            quantiles: None,
            scores: None,
            unions: Vec::new(),
            controls: false,
            min_valid: 1,
            seed: 0,
        }
    }
}

/// What to do with pass rates that are in no bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Uncovered {
    /// Fail, naming them.
    #[default]
    Fail,
    /// Leave their samples out of all bins; they stay in `all` and in what controls are drawn from.
    Drop,
}

/// A bin of pass rates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    /// Its name, which is its output's too.
    pub name: String,
    /// Its pass rates.
    pub interval: Interval,
    /// How much of it goes into its set and into unions.
    #[serde(default)]
    pub keep: Keep,
}

/// How much of a bin is used: all, nothing, or a share drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Keep(pub f64);

impl Default for Keep {
    fn default() -> Self {
        Self(1.0)
    }
}

/// Bins by rank of a score, lowest score first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    /// Shares at which one bin ends and the next begins, rising, between 0 and 1.
    pub edges: Vec<f64>,
    /// Names of the bins, one more than edges.
    pub names: Vec<String>,
}

/// Bins in the order of the spec.
///
/// A spec writes a mapping; params are kept as a list, because the order reaches the output and mappings have
/// none in keys.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Bins(pub Vec<Bin>);

impl Default for Bins {
    fn default() -> Self {
        let bin = |name: &str, interval: &str| Bin {
            name: name.into(),
            interval: Interval::parse(interval).expect("a constant interval"),
            keep: Keep::default(),
        };
        Self(vec![
            bin("easy", "1"),
            bin("medium", "(0, 1)"),
            bin("hard", "0"),
        ])
    }
}

impl<'de> Deserialize<'de> for Bins {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parser;
        impl<'de> Visitor<'de> for Parser {
            type Value = Bins;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str(
                    "a mapping of names to intervals, such as {easy: \"1\", rest: \"[0, 1)\"}",
                )
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Bins, A::Error> {
                let mut bins = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let (interval, keep) = match map.next_value::<BinForm>()? {
                        BinForm::Full(full) => (full.interval, full.keep),
                        BinForm::Interval(interval) => (interval, Keep::default()),
                    };
                    bins.push(Bin {
                        name,
                        interval,
                        keep,
                    });
                }
                Ok(Bins(bins))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Bins, A::Error> {
                let mut bins = Vec::new();
                while let Some(bin) = list.next_element()? {
                    bins.push(bin);
                }
                Ok(Bins(bins))
            }
        }
        deserializer.deserialize_any(Parser)
    }
}

/// A bin's value in a mapping.
enum BinForm {
    Full(FullBin),
    Interval(Interval),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullBin {
    interval: Interval,
    #[serde(default)]
    keep: Keep,
}

impl<'de> Deserialize<'de> for BinForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Told apart by hand: an untagged enum would hide what is wrong with the interval.
        let value = serde_json::Value::deserialize(deserializer)?;
        let wrong = serde::de::Error::custom::<serde_json::Error>;
        if value.is_object() {
            serde_json::from_value(value).map(Self::Full).map_err(wrong)
        } else {
            serde_json::from_value(value)
                .map(Self::Interval)
                .map_err(wrong)
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(keep) => Ok(Self(f64::from(u8::from(keep)))),
            serde_json::Value::Number(share) => Ok(Self(share.as_f64().unwrap_or(f64::NAN))),
            other => Err(serde::de::Error::custom(format!(
                "{other} is not true, false or a share from 0 to 1"
            ))),
        }
    }
}

impl JsonSchema for Bins {
    fn schema_name() -> Cow<'static, str> {
        "Bins".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let interval = generator.subschema_for::<Interval>();
        let keep = json_schema!({
            "type": ["boolean", "number"], "minimum": 0, "maximum": 1, "default": true,
            "description": "How much of the bin goes into its set and into unions: true, false, or a share drawn at random.",
        });
        let full = |name: bool| {
            let mut properties = serde_json::json!({"interval": interval, "keep": keep});
            let mut required = vec!["interval"];
            if name {
                properties["name"] = serde_json::json!({"type": "string"});
                required.push("name");
            }
            serde_json::json!({"type": "object", "properties": properties, "required": required,
                               "additionalProperties": false})
        };
        json_schema!({
            "description": "Bins by pass rate: names with intervals.",
            "anyOf": [
                {"type": "object", "additionalProperties": {"anyOf": [interval, full(false)]}},
                {"type": "array", "items": full(true)},
            ],
        })
    }
}

impl DifficultyParams {
    /// Names of the bins, in order.
    pub(super) fn bin_names(&self) -> Vec<&str> {
        match &self.quantiles {
            Some(quantiles) => quantiles.names.iter().map(String::as_str).collect(),
            None => self.bins.0.iter().map(|bin| bin.name.as_str()).collect(),
        }
    }

    /// How much of bin number `bin` is used.
    pub(super) fn keep(&self, bin: usize) -> f64 {
        if self.quantiles.is_some() {
            1.0
        } else {
            self.bins.0[bin].keep.0
        }
    }

    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        let mut out = Vec::new();
        let field = if self.quantiles.is_some() {
            "quantiles.names"
        } else {
            "bins"
        };
        if self.bin_names().is_empty() {
            out.push(ParamProblem::new(
                field,
                "there are no bins; name at least one",
            ));
        }
        let mut known = BTreeSet::new();
        for name in self.bin_names() {
            let word = !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if !word || ["all", "scores"].contains(&name) || name.starts_with("random-") {
                let message = format!(
                    "{name:?} cannot name a bin; use letters, digits, _ and -, but not `all`, `scores` or `random-...`"
                );
                out.push(ParamProblem::new(field, message));
            }
            if !known.insert(name) {
                out.push(ParamProblem::new(field, format!("{name:?} names two bins")));
            }
        }
        for bin in &self.bins.0 {
            if !(0.0..=1.0).contains(&bin.keep.0) {
                let message = format!(
                    "{} is not a share; write true, false or a number from 0 to 1",
                    bin.keep.0
                );
                out.push(ParamProblem::new(
                    &format!("bins.{}.keep", bin.name),
                    message,
                ));
            }
        }
        self.quantile_problems(&mut out);
        self.union_problems(&known, &mut out);
        out
    }

    fn quantile_problems(&self, out: &mut Vec<ParamProblem>) {
        let Some(Quantiles { edges, names }) = &self.quantiles else {
            if self.scores.is_some() {
                let message = "is read for `quantiles` alone; give those too, or leave it out";
                out.push(ParamProblem::new("scores", message));
            }
            return;
        };
        let rising = edges.windows(2).all(|pair| pair[0] < pair[1]);
        if !rising || !edges.iter().all(|edge| *edge > 0.0 && *edge < 1.0) {
            let message = format!("{edges:?} do not rise between 0 and 1");
            out.push(ParamProblem::new("quantiles.edges", message));
        }
        if names.len() != edges.len() + 1 {
            let message = format!(
                "{} names for {} edges; there is one bin more than edges",
                names.len(),
                edges.len()
            );
            out.push(ParamProblem::new("quantiles.names", message));
        }
    }

    fn union_problems(&self, known: &BTreeSet<&str>, out: &mut Vec<ParamProblem>) {
        let mut seen = BTreeSet::new();
        for (index, union) in self.unions.iter().enumerate() {
            let at = format!("unions.{index}");
            let distinct: BTreeSet<&str> = union.iter().map(String::as_str).collect();
            if distinct.len() < 2 || distinct.len() < union.len() {
                out.push(ParamProblem::new(
                    &at,
                    format!("{union:?} is no union; name two or more different bins"),
                ));
            }
            for name in distinct.difference(known) {
                let bins: Vec<&str> = known.iter().copied().collect();
                let message = format!("there is no bin {name:?}; bins are {}", bins.join(", "));
                out.push(ParamProblem::new(&at, message));
            }
            if !seen.insert(union.join("+")) {
                out.push(ParamProblem::new(&at, format!("{union:?} is listed twice")));
            }
        }
    }
}
