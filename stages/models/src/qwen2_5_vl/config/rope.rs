//! Rotary positions of the language model: `rope_parameters`, formerly `rope_theta` and `rope_scaling`.

use serde_json::{Map, Value};

use super::known::ROPE;
use crate::fields::short;
use crate::section::Section;

/// The base and `mrope_section`. Where the file has both groups, as writers between the versions leave it, they have
/// to say the same: Transformers takes the older one.
pub(super) fn text_rope(section: &Section<'_>) -> Result<(f64, Vec<usize>), String> {
    let groups: Vec<Group<'_>> = ["rope_parameters", "rope_scaling"]
        .into_iter()
        .filter_map(|name| Group::read(section, name).transpose())
        .collect::<Result<_, _>>()?;
    let Some(first) = groups.first() else {
        return Err(
            "`rope_scaling` (now `rope_parameters`) with `mrope_section` is missing".into(),
        );
    };
    let theta = match first.fields.get("rope_theta") {
        Some(_) => first.fields.positive("rope_theta")?,
        None => section.positive("rope_theta")?,
    };
    let parts = first.fields.indices("mrope_section")?;
    for other in &groups[1..] {
        let differs = |name: &str| {
            let (a, b) = (first.fields.get(name)?, other.fields.get(name)?);
            (a.1 != b.1).then(|| format!("{} is {} and {} {}", a.0, short(a.1), b.0, short(b.1)))
        };
        if let Some(problem) = differs("mrope_section").or_else(|| differs("rope_theta")) {
            return Err(format!("{problem}; take out the one that is not meant"));
        }
    }
    if let Some((name, value)) = section.get("rope_theta")
        && value.as_f64() != Some(theta)
    {
        return Err(format!(
            "{name} is {} and `{}rope_theta` {theta}; take out the one that is not meant",
            short(value),
            first.fields.prefix()
        ));
    }
    Ok((theta, parts))
}

struct Group<'a> {
    fields: Section<'a>,
}

impl<'a> Group<'a> {
    /// The group `name`, if it is there, with nothing in it but plain multimodal positions.
    fn read(section: &Section<'a>, name: &str) -> Result<Option<Self>, String> {
        let fields = section.below(name)?;
        if fields.is_empty() {
            return Ok(None);
        }
        for key in ["rope_type", "type"] {
            if let Some(kind) = fields.string(key)?
                && !matches!(kind, "mrope" | "default")
            {
                return Err(format!(
                    "`{}{key}` is {kind:?}, and only \"default\" and \"mrope\" are supported",
                    fields.prefix()
                ));
            }
        }
        for object in fields.objects() {
            ROPE.check(fields.prefix(), object)?;
        }
        Ok(Some(Self { fields }))
    }
}

/// Checks a group of the vision tower, whose angles are those of two axes.
pub(super) fn check_axial(prefix: &str, object: &Map<String, Value>) -> Result<(), String> {
    if let Some(kind) = object.get("rope_type").and_then(Value::as_str)
        && !matches!(kind, "axial" | "default")
    {
        return Err(format!(
            "`{prefix}rope_type` is {kind:?}, and only \"axial\" is supported"
        ));
    }
    ROPE.check(prefix, object)
}
