//! Fields of a JSON object, with errors that name them.

use serde_json::{Map, Value};

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

    pub(crate) fn only_silu(&self) -> Result<(), String> {
        match self.string("hidden_act")? {
            None | Some("silu") => Ok(()),
            Some(other) => Err(format!(
                "`{}hidden_act` is {other:?}, and only \"silu\" is supported",
                self.prefix
            )),
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
