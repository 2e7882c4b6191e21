//! Text to token ids and back: `tokenizer.json`.

use dcsft_vlm::error::VlmError;
use dcsft_vlm::model::Tokenizer;

use super::files::Files;
use super::template::token_text;
use super::vocabulary;

/// A checkpoint's tokenizer. Special tokens written out in a text become special tokens, as in transformers.
#[derive(Clone, Debug)]
pub struct HubTokenizer {
    inner: tokenizers::Tokenizer,
    eos: u32,
    pad: u32,
    rows: usize,
    /// What the chat template puts between its generation prompt and an answer.
    lead: String,
}

impl HubTokenizer {
    /// Reads `tokenizer.json`, and the end and padding token from `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`VlmError::Config`]: no such file or one that cannot be read, an end token that the vocabulary does not
    /// have, a vocabulary that is larger than the model's.
    pub(crate) fn load(files: &Files, rows: usize, lead: String) -> Result<Self, VlmError> {
        let path = files.path("tokenizer.json");
        let fail = |problem: String| VlmError::Config(format!("{}: {problem}", path.display()));
        let bytes = files.get("tokenizer.json").ok_or_else(|| {
            fail("no such file; vocab.json and merges.txt do not replace it".into())
        })?;
        let raw = files.json("tokenizer.json")?.unwrap_or_default();
        vocabulary::check_settings(files)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| fail(format!("no tokenizer: {error}")))?;
        vocabulary::check_parts(&raw).map_err(fail)?;
        inner
            .with_truncation(None)
            .map_err(|error| fail(error.to_string()))?
            .with_padding(None);
        let vocabulary = inner.get_vocab(true);
        if let Some((token, id)) = vocabulary.iter().max_by_key(|(_, id)| **id)
            && *id as usize >= rows
        {
            return Err(fail(format!(
                "{token:?} is token {id}, and the model's vocabulary has {rows} rows"
            )));
        }
        vocabulary::check_agreement(files, &inner)?;
        check_processing(&inner).map_err(fail)?;
        let settings = files.json("tokenizer_config.json")?.unwrap_or_default();
        let id = |field: &str, default: &str| {
            let token = token_text(&settings[field]).unwrap_or(default);
            inner
                .token_to_id(token)
                .ok_or_else(|| fail(format!("`{field}` {token:?} is not in the vocabulary")))
        };
        let eos = id("eos_token", "<|im_end|>")?;
        let pad = id("pad_token", "<|endoftext|>").unwrap_or(eos);
        Ok(Self {
            eos,
            pad,
            rows,
            lead,
            inner,
        })
    }

    /// What the chat template puts between its generation prompt and an answer: white space, or nothing.
    pub fn lead(&self) -> &str {
        &self.lead
    }

    /// The padding token.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The text of `tokens`, special tokens written out.
    pub fn decode_with_special(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// The text of one token, special or not.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

/// Transformers' processor lets `post_processor` add tokens to a text. Here none are added, so it must not have any.
fn check_processing(tokenizer: &tokenizers::Tokenizer) -> Result<(), String> {
    let count = |special| {
        let encoded = tokenizer.encode_fast("a", special);
        encoded.map(|encoding| encoding.get_ids().to_vec()).ok()
    };
    match count(true) == count(false) {
        true => Ok(()),
        false => {
            Err("its `post_processor` adds tokens to every text, which is not supported".into())
        }
    }
}

impl Tokenizer for HubTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|error| {
            VlmError::Config(format!("the tokenizer cannot encode {text:?}: {error}"))
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    fn decode(&self, tokens: &[u32]) -> String {
        // The byte-level decoder has no failing case: bytes that are no UTF-8 become replacement characters.
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    fn eos(&self) -> u32 {
        self.eos
    }

    fn vocab_size(&self) -> usize {
        self.rows
    }

    fn encode_answer(&self, text: &str) -> Result<Vec<u32>, VlmError> {
        let mut tokens = self.encode(&format!("{}{text}", self.lead))?;
        tokens.push(self.eos);
        Ok(tokens)
    }

    fn decode_answer(&self, tokens: &[u32]) -> String {
        let text = self.decode(tokens);
        match text.strip_prefix(self.lead.as_str()) {
            Some(text) => text.to_owned(),
            None => text,
        }
    }
}
