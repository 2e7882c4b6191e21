//! The chat template: a Jinja file of the checkpoint, rendered as transformers renders it.

use std::path::{Path, PathBuf};

use dcsft_vlm::error::VlmError;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

use super::files::Files;
use super::{Message, Part};

/// The environment's name for the one template it has.
const NAME: &str = "chat_template";

/// A parsed chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The file it came from.
    path: PathBuf,
    /// `eos_token` and the like, from `tokenizer_config.json`.
    tokens: Vec<(String, String)>,
}

impl ChatTemplate {
    /// Finds the template as transformers does: `chat_template.jinja`, else `chat_template` in
    /// `chat_template.json`, else in `tokenizer_config.json` (there it may be a list of named templates, of
    /// which `default` is taken).
    ///
    /// # Errors
    /// [`VlmError::Config`]: no template in any of the files, or one that is no Jinja, with its line.
    pub(super) fn find(files: &Files) -> Result<Self, VlmError> {
        let tokens = special_tokens(files)?;
        if let Some(source) = files.text("chat_template.jinja")? {
            let path = files.path("chat_template.jinja");
            return Self::new(path, source.to_owned(), tokens);
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            if let Some(json) = files.json(name)?
                && let Some(source) = template_of(&json["chat_template"])
            {
                return Self::new(files.path(name), source.to_owned(), tokens);
            }
        }
        Err(VlmError::Config(format!(
            "{}: no chat template in chat_template.jinja, chat_template.json or tokenizer_config.json",
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
        let mut environment = Environment::new();
        environment.set_syntax(syntax().map_err(|error| problem(&path, &error))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        environment
            .add_template_owned(NAME, source)
            .map_err(|error| problem(&path, &error))?;
        Ok(Self {
            environment,
            path,
            tokens,
        })
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
        let messages: Value = messages.iter().map(message).collect();
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

/// transformers' settings: a block's own line leaves nothing behind.
fn syntax() -> Result<SyntaxConfig, Error> {
    let mut builder = SyntaxConfig::builder();
    builder.trim_blocks(true).lstrip_blocks(true).build()
}

/// A message as templates know it: text alone is a string, else a list of parts.
fn message(message: &Message) -> Value {
    let part = |part: &Part| match part {
        Part::Text(text) => context! { type => "text", text },
        Part::Image => context! { type => "image" },
    };
    let content = match message.text() {
        Some(text) => Value::from(text),
        None => message.content.iter().map(part).collect(),
    };
    context! { role => message.role.name(), content }
}

fn problem(path: &Path, error: &Error) -> VlmError {
    let line = error.line().map(|line| format!(" line {line}"));
    let mut text = format!(
        "{}: chat template{}: {}",
        path.display(),
        line.unwrap_or_default(),
        error.kind()
    );
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
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, formatter);
    value
        .serialize(&mut serializer)
        .map_err(|error| fail(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| fail(error.to_string()))
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
