//! Rotary positions of a language model: `rope_parameters`, formerly `rope_theta` and `rope_scaling`.

use serde_json::{Map, Value};

use crate::fields::{Known, Only, short};
use crate::section::Section;

/// The fields of a group of rotary positions.
const ROPE: Known = Known {
    read: &[&[
        "mrope_interleaved",
        "mrope_section",
        "rope_theta",
        "rope_type",
        "type",
    ]],
    only: &[&[
        ("factor", Only::Number(1.0)),
        ("partial_rotary_factor", Only::Number(1.0)),
    ]],
    ..Known::NOTHING
};

/// What a file says of rotary positions.
pub(crate) struct Rope {
    /// Base of the frequencies.
    pub(crate) theta: f64,
    /// How many frequencies turn with each axis.
    pub(crate) sections: Option<Vec<usize>>,
    /// The axes take turns along the frequencies.
    pub(crate) interleaved: bool,
    /// How errors name the group that was read; empty without one.
    pub(crate) prefix: String,
}

/// Reads both groups; `kinds` are the types that can be computed. Where the file has both, as writers between the
/// versions leave it, they have to say the same: Transformers takes the older one.
pub(crate) fn read(section: &Section<'_>, kinds: &[&str]) -> Result<Rope, String> {
    let groups: Vec<Section<'_>> = ["rope_parameters", "rope_scaling"]
        .into_iter()
        .filter_map(|name| group(section, name, kinds).transpose())
        .collect::<Result<_, _>>()?;
    let Some(first) = groups.first() else {
        return Ok(Rope {
            theta: section.positive("rope_theta")?,
            sections: None,
            interleaved: false,
            prefix: String::new(),
        });
    };
    let theta = match first.get("rope_theta") {
        Some(_) => first.positive("rope_theta")?,
        None => section.positive("rope_theta")?,
    };
    for other in &groups[1..] {
        let differs = |name: &str| {
            let (a, b) = (first.get(name)?, other.get(name)?);
            (a.1 != b.1).then(|| format!("{} is {} and {} {}", a.0, short(a.1), b.0, short(b.1)))
        };
        let fields = ["mrope_section", "rope_theta", "mrope_interleaved"];
        if let Some(problem) = fields.into_iter().find_map(differs) {
            return Err(format!("{problem}; take out the one that is not meant"));
        }
    }
    if let Some((name, value)) = section.get("rope_theta")
        && value.as_f64() != Some(theta)
    {
        return Err(format!(
            "{name} is {} and `{}rope_theta` {theta}; take out the one that is not meant",
            short(value),
            first.prefix()
        ));
    }
    Ok(Rope {
        theta,
        sections: match first.get("mrope_section") {
            Some(_) => Some(first.indices("mrope_section")?),
            None => None,
        },
        interleaved: first.boolean("mrope_interleaved")?.unwrap_or(false),
        prefix: first.prefix().to_owned(),
    })
}

/// The group `name`, if it is there, of one of these types.
fn group<'a>(
    section: &Section<'a>,
    name: &str,
    kinds: &[&str],
) -> Result<Option<Section<'a>>, String> {
    let fields = section.below(name)?;
    if fields.is_empty() {
        return Ok(None);
    }
    for key in ["rope_type", "type"] {
        if let Some(kind) = fields.string(key)?
            && !kinds.contains(&kind)
        {
            let known: Vec<String> = kinds.iter().map(|kind| format!("{kind:?}")).collect();
            return Err(format!(
                "`{}{key}` is {kind:?}, and only {} {} supported",
                fields.prefix(),
                known.join(" and "),
                if kinds.len() == 1 { "is" } else { "are" }
            ));
        }
    }
    for object in fields.objects() {
        ROPE.check(fields.prefix(), object)?;
    }
    Ok(Some(fields))
}

/// Checks a group of the vision tower, whose angles are those of two axes.
pub(crate) fn check_axial(prefix: &str, object: &Map<String, Value>) -> Result<(), String> {
    if let Some(kind) = object.get("rope_type").and_then(Value::as_str)
        && !matches!(kind, "axial" | "default")
    {
        return Err(format!(
            "`{prefix}rope_type` is {kind:?}, and only \"axial\" is supported"
        ));
    }
    ROPE.check(prefix, object)
}
