//! Fields of a JSON object, with errors that name them.

use serde_json::{Map, Value};

use crate::fields::Known;

/// Where a group of fields is looked for: in each object in turn. `null` counts as absent.
pub(crate) struct Section<'a> {
    prefix: String,
    objects: Vec<&'a Map<String, Value>>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(object: &'a Map<String, Value>) -> Self {
        Self {
            prefix: String::new(),
            objects: vec![object],
        }
    }

    /// The objects that the fields are looked for in.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &'a Map<String, Value>> {
        self.objects.iter().copied()
    }

    /// The file does not have this group.
    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// How errors name the group: empty or with a dot at its end.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn get(&self, key: &str) -> Option<(String, &'a Value)> {
        self.objects
            .iter()
            .find_map(|object| object.get(key).filter(|value| !value.is_null()))
            .map(|value| (format!("`{}{key}`", self.prefix), value))
    }

    /// The group `key`; empty where it is absent.
    pub(crate) fn below(&self, key: &str) -> Result<Section<'a>, String> {
        let prefix = format!("{}{key}.", self.prefix);
        let objects = match self.get(key) {
            None => Vec::new(),
            Some((_, Value::Object(object))) => vec![object],
            Some((name, value)) => return Err(format!("{name} must be an object, not {value}")),
        };
        Ok(Section { prefix, objects })
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("`{}{key}` is missing", self.prefix))
    }

    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, String> {
        self.bounded(key, MOST)
    }

    fn bounded(&self, key: &str, most: usize) -> Result<Option<usize>, String> {
        self.get(key)
            .map(|(name, value)| {
                let size = integer(value)
                    .filter(|&size| size > 0)
                    .ok_or_else(|| format!("{name} must be a positive integer, not {value}"))?;
                within(&name, size, most)
            })
            .transpose()
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, String> {
        self.required(key, self.optional_size(key)?)
    }

    /// As [`Section::size`], of at most `most`.
    pub(crate) fn size_up_to(&self, key: &str, most: usize) -> Result<usize, String> {
        self.required(key, self.bounded(key, most)?)
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, String> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    pub(crate) fn token(&self, key: &str) -> Result<u32, String> {
        let (name, value) = self.required(key, self.get(key))?;
        integer(value)
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| format!("{name} must be a token id, not {value}"))
    }

    pub(crate) fn positive(&self, key: &str) -> Result<f64, String> {
        let (name, value) = self.required(key, self.get(key))?;
        value
            .as_f64()
            .filter(|number| *number > 0.0)
            .ok_or_else(|| format!("{name} must be a positive number, not {value}"))
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, String> {
        self.get(key)
            .map(|(name, value)| {
                value
                    .as_bool()
                    .ok_or_else(|| format!("{name} must be true or false, not {value}"))
            })
            .transpose()
    }

    pub(crate) fn string(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.get(key)
            .map(|(name, value)| {
                value
                    .as_str()
                    .ok_or_else(|| format!("{name} must be a string, not {value}"))
            })
            .transpose()
    }

    /// A list of integers, each 0 or more.
    pub(crate) fn indices(&self, key: &str) -> Result<Vec<usize>, String> {
        let (name, value) = self.required(key, self.get(key))?;
        value
            .as_array()
            .and_then(|values| values.iter().map(integer).collect())
            .ok_or_else(|| format!("{name} must be a list of integers, not {value}"))
    }

    pub(crate) fn only_activation(&self, activation: &str) -> Result<(), String> {
        match self.string("hidden_act")? {
            Some(other) if other != activation => Err(format!(
                "`{}hidden_act` is {other:?}, and only {activation:?} is supported",
                self.prefix
            )),
            _ => Ok(()),
        }
    }

    /// Checks that nothing in the group asks for another computation, and that its `model_type`, if it has one, is one
    /// of `types`.
    pub(crate) fn check(&self, known: &Known, types: &[&str]) -> Result<(), String> {
        self.objects
            .iter()
            .try_for_each(|object| known.check(&self.prefix, object))?;
        match self.string("model_type")? {
            Some(other) if !types.contains(&other) => Err(format!(
                "`{}model_type` is {other:?}, and only {:?} can be read",
                self.prefix, types[0]
            )),
            _ => Ok(()),
        }
    }
}

/// No size of a model is larger: what is made of one must not fill the memory before it is compared with the weights.
const MOST: usize = 1 << 24;

fn within(name: &str, size: usize, most: usize) -> Result<usize, String> {
    match size <= most {
        true => Ok(size),
        false => Err(format!(
            "{name} is {size}, and {most} is the most that can be read"
        )),
    }
}

fn integer(value: &Value) -> Option<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
}

/// Layers of either tower; the largest published model has 80.
pub(crate) const MOST_LAYERS: usize = 1024;
/// Pixels, frames or patches along a side of a patch or of what becomes one token; published models have 16 at most.
pub(crate) const MOST_SIDE: usize = 256;

/// `dtype`, formerly `torch_dtype`, of the language model or else of the whole.
pub(crate) fn dtype(root: &Section<'_>, text: &Section<'_>) -> Result<Option<String>, String> {
    for section in [text, root] {
        for name in ["dtype", "torch_dtype"] {
            if let Some(dtype) = section.string(name)? {
                return Ok(Some(dtype.to_owned()));
            }
        }
    }
    Ok(None)
}

/// `tie_word_embeddings` stands in either place, or equally in both.
pub(crate) fn tied(root: &Section<'_>, text: &Section<'_>) -> Result<bool, String> {
    let name = "tie_word_embeddings";
    Ok(match root.boolean(name)? {
        Some(tied) => tied,
        None => text.boolean(name)?.unwrap_or(false),
    })
}

/// `eos_token_id` of the language model or else of the whole: one token or a list.
pub(crate) fn end_tokens(root: &Section<'_>, text: &Section<'_>) -> Result<Vec<u32>, String> {
    const NAME: &str = "eos_token_id";
    let section = match text.get(NAME) {
        Some(_) => text,
        None => root,
    };
    match section.get(NAME) {
        None => Ok(Vec::new()),
        Some((_, value)) if value.is_array() => Ok(section
            .indices(NAME)?
            .into_iter()
            .map(|token| token as u32)
            .collect()),
        Some(_) => Ok(vec![section.token(NAME)?]),
    }
}

/// Standard deviation of weights that are drawn; Transformers' default is 0.02.
pub(crate) fn initializer_range(text: &Section<'_>) -> Result<f64, String> {
    match text.get("initializer_range") {
        Some(_) => text.positive("initializer_range"),
        None => Ok(0.02),
    }
}
