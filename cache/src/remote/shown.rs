//! What may be shown: addresses without secrets, and what services say in one line.

use std::error::Error;

use url::Url;

/// Longer messages are cut.
const LONGEST: usize = 300;
/// What the names of variables with secrets have in them.
const SECRET: [&str; 6] = ["key", "secret", "token", "password", "sas", "credential"];
/// The first letters of variables that configure the services.
const SERVICES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
/// Shorter values would be found in ordinary words.
const SHORTEST: usize = 4;

/// A URL without user, password, query and fragment, which may be or hold a secret.
pub(super) fn address(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        // The part with a user cannot be told from others in what is no URL.
        let text = text.split(['?', '#']).next().unwrap_or_default();
        return match text.rsplit_once('@') {
            Some((_, rest)) => format!("...@{rest}"),
            None => text.to_owned(),
        };
    };
    // They cannot be set on every kind of URL, and then they are not there.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string().trim_end_matches('/').to_owned()
}

/// What must not be shown.
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// The secrets of this process's environment.
    pub(super) fn of_environment() -> Self {
        let secret = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            let (name, value) = (name.to_str()?, value.to_str()?);
            let of_a_service = SERVICES.iter().any(|start| name.starts_with(start));
            let name = name.to_ascii_lowercase();
            let secret = of_a_service && SECRET.iter().any(|part| name.contains(part));
            (secret && value.len() >= SHORTEST).then(|| value.to_owned())
        };
        let mut secrets: Vec<String> = std::env::vars_os().filter_map(secret).collect();
        // One may be the beginning of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self(secrets)
    }

    /// What is wrong, in one line: what the service or the system said at last.
    pub(super) fn message(&self, error: &object_store::Error) -> String {
        let whole = error.to_string();
        let mut last: &dyn Error = error;
        while let Some(source) = last.source() {
            last = source;
        }
        let last = last.to_string();
        // Of a request's error the outer text says nothing of why; of a file's, the inner one does not say which.
        self.line(if whole.contains(&last) { &whole } else { &last })
    }

    /// Text in one line, not too long, without secrets and without the queries of URLs, which may hold signatures.
    pub(super) fn line(&self, text: &str) -> String {
        let mut text = match service(text) {
            Some(said) => said,
            None => text
                .split_once(" error: ")
                .map_or(text, |(head, rest)| {
                    if head.starts_with("Generic ") {
                        rest
                    } else {
                        text
                    }
                })
                .to_owned(),
        };
        for secret in &self.0 {
            text = text.replace(secret.as_str(), "...");
        }
        let words = text
            .split_whitespace()
            .map(|word| match word.split_once('?') {
                Some((before, _)) if before.contains("://") => before,
                _ => word,
            });
        let mut line = words.collect::<Vec<_>>().join(" ");
        if line.chars().count() > LONGEST {
            line = line.chars().take(LONGEST).chain(['…']).collect();
        }
        line
    }
}

/// `AccessDenied: ...` from the XML that S3 and Azure answer with.
fn service(text: &str) -> Option<String> {
    let part = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (part, _) = rest.split_once(&format!("</{name}>"))?;
        Some(part.trim().to_owned())
    };
    let code = part("Code")?;
    Some(match part("Message") {
        Some(message) => format!("{code}: {message}"),
        None => code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        let shown = [
            (
                "https://me:secret@host.example/box/v?sig=secret#secret",
                "https://host.example/box/v",
            ),
            ("s3://bucket/folder/", "s3://bucket/folder"),
            ("s3://id:secret@bucket", "s3://bucket"),
            ("//me:secret@host/x", "...@host/x"),
            ("folder/of mine", "folder/of mine"),
        ];
        for (text, wanted) in shown {
            assert_eq!(address(text), wanted);
        }
    }

    #[test]
    fn a_message_is_one_line_without_secrets_and_queries() {
        let secrets = Secrets(vec!["hush-hush".to_owned(), "hush".to_owned()]);
        let lines = [
            (
                "Generic S3 error: sending to https://host.example/a?sig=x (refused)",
                "sending to https://host.example/a (refused)",
            ),
            (
                "status 403: <?xml?>\n<Error><Code>AccessDenied</Code><Message>no hush-hush\nhere</Message><Resource>r</Resource></Error>",
                "AccessDenied: no ... here",
            ),
        ];
        for (text, wanted) in lines {
            assert_eq!(secrets.line(text), wanted);
        }
        assert!(secrets.line(&"x".repeat(5000)).chars().count() < 400);
    }
}
