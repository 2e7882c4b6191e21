//! Where in a text the answer stands: inside the tags and boxes that prompts ask for.

use std::sync::LazyLock;

use regex::Regex;

static TAGGED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?is)<answer>(.*?)</answer>").expect("a constant pattern"));

/// LaTeX commands that only change the type.
static STYLED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|boldsymbol)\s*\{([^{}]*)\}")
        .expect("a constant pattern")
});

const BOX: &str = "\\boxed{";

/// What stands between the last `<answer>` and `</answer>`, in the last `\boxed{}`, or after the last `####`, in this
/// order; else the whole text.
pub(super) fn scope(text: &str) -> &str {
    if let Some(tagged) = TAGGED.captures_iter(text).last() {
        return tagged
            .get(1)
            .map_or("", |inner| scope_of_box(inner.as_str()));
    }
    scope_of_box(text)
}

fn scope_of_box(text: &str) -> &str {
    if let Some(inner) = text
        .rfind(BOX)
        .and_then(|start| balanced(&text[start + BOX.len()..]))
    {
        return inner;
    }
    text.rfind("####").map_or(text, |start| &text[start + 4..])
}

/// The text up to the brace that closes it.
fn balanced(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (index, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[..index]);
        }
    }
    None
}

/// Without LaTeX's type styles: `\text{ cm}` is ` cm`.
pub(super) fn unstyled(text: &str) -> String {
    STYLED.replace_all(text, " $1 ").into_owned()
}
