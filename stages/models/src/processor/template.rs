//! The chat template: a Jinja file of the checkpoint, rendered as transformers renders it.

use std::path::{Path, PathBuf};

use dcsft_vlm::error::VlmError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::files::Files;
use super::{Message, Part, Role};
use crate::folder::TEMPLATE_BYTES;

/// The environment's name for the one template it has.
const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The file it came from.
    path: PathBuf,
    /// `eos_token` and the like, from `tokenizer_config.json`.
    tokens: Vec<(String, String)>,
    /// It writes nothing of a message whose content is a string, so that text has to be a list of parts too.
    lists: bool,
}

impl ChatTemplate {
    /// Finds the template as transformers' processor does: `chat_template.json`, `chat_template.jinja`, else
    /// `chat_template` in `tokenizer_config.json` (there it may be a list of named templates, of which `default` is
    /// taken). Of the first two its processor and its tokenizer choose differently, so they have to be equal.
    ///
    /// # Errors
    /// [`VlmError::Config`]: no template in any of the files, two that differ, or one that is no Jinja, with its line.
    pub(super) fn find(files: &Files) -> Result<Self, VlmError> {
        const JINJA: &str = "chat_template.jinja";
        const JSON: &str = "chat_template.json";
        let tokens = special_tokens(files)?;
        let jinja = files.text(JINJA)?.map(str::to_owned);
        let json = in_json(files, JSON)?;
        if let (Some(jinja), Some(json)) = (&jinja, &json)
            && jinja.trim_end() != json.trim_end()
        {
            return Err(VlmError::Config(format!(
                "{}: {JSON} and {JINJA} hold two different chat templates; take out the one that is not meant",
                files.dir().display()
            )));
        }
        let tokenizer = in_json(files, SETTINGS)?;
        for (name, source) in [(JINJA, jinja), (JSON, json), (SETTINGS, tokenizer)] {
            if let Some(source) = source {
                return Self::new(files.path(name), source, tokens);
            }
        }
        Err(VlmError::Config(format!(
            "{}: no chat template in {JINJA}, {JSON} or {SETTINGS}",
            files.dir().display()
        )))
    }

    /// A template; `path` names it in errors.
    ///
    /// # Errors
    /// [`VlmError::Config`] with the line where the source is no Jinja.
    pub fn new(
        path: PathBuf,
        source: String,
        tokens: Vec<(String, String)>,
    ) -> Result<Self, VlmError> {
        if source.len() as u64 > TEMPLATE_BYTES {
            return Err(VlmError::Config(format!(
                "{}: the chat template has {} bytes, and {TEMPLATE_BYTES} are the most that are read",
                path.display(),
                source.len()
            )));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_syntax(syntax().map_err(|error| problem(&path, &error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| problem(&path, &error))?;
        let mut template = Self {
            environment,
            path,
            tokens,
            lists: false,
        };
        let probe = [Message::text_of(Role::User, PROBE)];
        let writes = |template: &Self| {
            let text = template.render(&probe, false, false);
            text.is_ok_and(|text| text.contains(PROBE))
        };
        if !writes(&template) {
            template.lists = true;
            // One that writes a text in neither form has its own reason.
            template.lists = writes(&template);
        }
        Ok(template)
    }

    /// What it puts between its generation prompt and the text of an answer, where that is white space.
    pub(super) fn lead(&self) -> String {
        let question = Message::text_of(Role::User, "q");
        let answer = Message::text_of(Role::Assistant, PROBE);
        let before = self.render(std::slice::from_ref(&question), true, false);
        let whole = self.render(&[question, answer], false, false);
        let (Ok(before), Ok(whole)) = (before, whole) else {
            return String::new();
        };
        let answer = whole.strip_prefix(before.as_str());
        let lead = answer.and_then(|text| Some(text.split_once(PROBE)?.0));
        let lead = lead.filter(|lead| lead.chars().all(char::is_whitespace));
        lead.unwrap_or_default().to_owned()
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// [`VlmError::Config`] with file and line: what the template raises, or what it cannot do.
    pub fn render(
        &self,
        messages: &[Message],
        generation_prompt: bool,
        add_vision_id: bool,
    ) -> Result<String, VlmError> {
        let messages = messages.iter();
        let messages: Value = messages.map(|each| message(each, self.lists)).collect();
        let variables = context! {
            messages,
            add_generation_prompt => generation_prompt,
            add_vision_id,
            tools => (),
            documents => (),
            ..Value::from_pairs(self.tokens.iter().cloned())
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|error| problem(&self.path, &error))
    }
}

/// What a rendering may cost: minijinja counts one for each step and for each 64 bytes that a template makes. A published
/// template takes some hundred for a message; this many take about a second, or 64 MiB.
const FUEL: u64 = 1 << 20;
/// Spaces of `tojson(indent=...)` for a level.
const MOST_INDENT: usize = 64;
/// Bytes that `tojson` writes, and that a template may raise as a message.
const MOST_JSON: usize = 1 << 24;
const MOST_MESSAGE: usize = 1 << 10;
/// Where tokenizers keep a template.
const SETTINGS: &str = "tokenizer_config.json";

fn in_json(files: &Files, name: &str) -> Result<Option<String>, VlmError> {
    let json = files.json(name)?;
    Ok(json.and_then(|json| template_of(&json["chat_template"]).map(str::to_owned)))
}

/// transformers' settings: a block's own line leaves nothing behind.
fn syntax() -> Result<SyntaxConfig, Error> {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true).build()
}

/// A text that no template has.
const PROBE: &str = "\u{1f50e}";

/// A message as templates know it: text alone is a string, unless `lists` says otherwise; else a list of parts.
fn message(message: &Message, lists: bool) -> Value {
    let part = |part: &Part| match part {
        Part::Text(text) => context! { type => "text", text },
        Part::Image => context! { type => "image" },
    };
    let content = match message.text().filter(|_| !lists) {
        Some(text) => Value::from(text),
        None => message.content.iter().map(part).collect(),
    };
    context! { role => message.role.name(), content }
}

fn problem(path: &Path, error: &Error) -> VlmError {
    let line = error.line().map(|line| format!(" line {line}"));
    let line = line.unwrap_or_default();
    if error.kind() == ErrorKind::OutOfFuel {
        return VlmError::Config(format!(
            "{}: chat template{line}: it takes more than {FUEL} steps or makes more than {} MiB of text for one \
             conversation",
            path.display(),
            (FUEL * 64) >> 20
        ));
    }
    let mut text = format!("{}: chat template{line}: {}", path.display(), error.kind());
    if let Some(detail) = error.detail() {
        text.push_str(": ");
        text.push_str(detail);
    }
    VlmError::Config(text)
}

fn template_of(value: &serde_json::Value) -> Option<&str> {
    if let Some(named) = value.as_array() {
        let default = named.iter().find(|entry| entry["name"] == "default")?;
        return default["template"].as_str();
    }
    value.as_str()
}

/// Fields such as `eos_token` of `tokenizer_config.json`: texts, or objects with the text as `content`.
fn special_tokens(files: &Files) -> Result<Vec<(String, String)>, VlmError> {
    let Some(json) = files.json("tokenizer_config.json")? else {
        return Ok(Vec::new());
    };
    let fields = json.as_object().into_iter().flatten();
    Ok(fields
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned())))
        .collect())
}

/// The text of a special token in `tokenizer_config.json`.
pub(super) fn token_text(value: &serde_json::Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let mut message = message;
    if let Some((end, _)) = message.char_indices().nth(MOST_MESSAGE) {
        message.truncate(end);
        message.push_str("...");
    }
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Python's `json.dumps` as transformers gives it to templates: no HTML escapes, a space after commas and
/// colons, `indent` where it is asked for, other characters than ASCII as they are.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    if ascii == Some(true) {
        let message = "tojson: ensure_ascii is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let written = match indent {
        Some(spaces) if spaces > MOST_INDENT => {
            let message = format!("tojson: an indent of {spaces}, and {MOST_INDENT} is the most");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        Some(spaces) => {
            let indent = " ".repeat(spaces);
            write_json(&value, PrettyFormatter::with_indent(indent.as_bytes()))
        }
        None => write_json(&value, Spaced),
    };
    written.map(Value::from)
}

fn write_json(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let fail = |error: String| Error::new(ErrorKind::BadSerialization, error);
    let mut out = Bounded { bytes: Vec::new() };
    let mut serializer = Serializer::with_formatter(&mut out, formatter);
    value
        .serialize(&mut serializer)
        .map_err(|error| fail(error.to_string()))?;
    String::from_utf8(out.bytes).map_err(|error| fail(error.to_string()))
}

/// Takes [`MOST_JSON`] bytes: a value that holds another many times is small until it is written.
struct Bounded {
    bytes: Vec<u8>,
}

impl std::io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + piece.len() > MOST_JSON {
            let problem = format!("tojson would write more than {MOST_JSON} bytes");
            return Err(std::io::Error::other(problem));
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Compact JSON with the spaces that Python puts.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::ChatTemplate;
    use crate::processor::{Message, Part, Role};

    fn template(source: &str) -> Result<ChatTemplate, String> {
        let tokens = vec![("eos_token".to_owned(), "<end>".to_owned())];
        ChatTemplate::new(PathBuf::from("t.jinja"), source.to_owned(), tokens)
            .map_err(|error| error.to_string())
    }

    fn render(source: &str) -> Result<String, String> {
        let messages = [
            Message::text_of(Role::System, "short & <plain>"),
            Message {
                role: Role::User,
                content: vec![Part::Image, Part::Text("what?".to_owned())],
            },
        ];
        let rendered = template(source)?.render(&messages, true, false);
        rendered.map_err(|error| error.to_string())
    }

    #[test]
    fn python_methods_and_whitespace_control_work() {
        let source = "{% for m in messages %}\n    {% if m.content is string %}\n{{ m.content.upper() }}{{ eos_token }}\n    {% else %}\n{{ m.content | length }}\n    {% endif %}\n{% endfor %}\n{{ m is defined }}";
        assert_eq!(render(source).unwrap(), "SHORT & <PLAIN><end>\n2\nFalse");
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let source = "{{ messages | tojson }}";
        let expected = r#"[{"role": "system", "content": "short & <plain>"}, {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]"#;
        assert_eq!(render(source).unwrap(), expected);
        assert_eq!(
            render("{{ {'a': [1]} | tojson(indent=2) }}").unwrap(),
            "{\n  \"a\": [\n    1\n  ]\n}"
        );
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = render("one\n{{ raise_exception('no ' ~ messages[0].role) }}").unwrap_err();
        assert_eq!(
            error,
            "t.jinja: chat template line 2: invalid operation: no system"
        );
        let error = template("a\nb\n{% if %}").unwrap_err();
        assert!(
            error.starts_with("t.jinja: chat template line 3: syntax error"),
            "{error}"
        );
    }
}
