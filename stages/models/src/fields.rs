//! Fields of a settings file: which are read, which no number depends on, and which may have one value alone.
//!
//! A file that somebody's tool wrote may ask for a computation that is not built here. A field that is in none of the
//! lists is therefore refused by its name, unless it is `null`.

use serde_json::{Map, Value};

/// What is known of the fields of a file.
pub(crate) struct Known {
    /// They have their effect, or are checked elsewhere.
    pub(crate) read: &'static [&'static [&'static str]],
    /// They change nothing that is computed here.
    pub(crate) idle: &'static [&'static [&'static str]],
    /// Each changes numbers; this is the value whose numbers are computed.
    pub(crate) only: &'static [&'static [(&'static str, Only)]],
    /// It is a section of a `config.json`: what each of them may have is known too.
    pub(crate) section: bool,
    /// Of a field that nothing is known of, also what switches nothing on counts as its default.
    pub(crate) off_is_default: bool,
}

/// The values of a field whose numbers are computed. `null` always counts as the default.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Only {
    /// This number.
    Number(f64),
    /// One of these texts.
    Text(&'static [&'static str]),
    /// `true`.
    True,
    /// Nothing: `false`, an empty text, list or object.
    Off,
}

impl Only {
    fn allows(self, value: &Value) -> bool {
        match self {
            Self::Number(number) => value.as_f64() == Some(number),
            Self::Text(texts) => value.as_str().is_some_and(|text| texts.contains(&text)),
            Self::True => value == &Value::Bool(true),
            Self::Off => is_off(value),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(texts) => texts
                .iter()
                .map(|text| format!("{text:?}"))
                .collect::<Vec<_>>()
                .join(" or "),
            Self::True => "true".into(),
            Self::Off => "false, null or empty".into(),
        }
    }
}

/// Whether a value switches nothing on.
pub(crate) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

impl Known {
    /// No field at all.
    pub(crate) const NOTHING: Self = Self {
        read: &[],
        idle: &[],
        only: &[],
        section: false,
        off_is_default: false,
    };

    /// What every section of a `config.json` may have.
    pub(crate) const SECTION: Self = Self {
        section: true,
        ..Self::NOTHING
    };

    fn is_free(&self, name: &str) -> bool {
        let generic: &[&[&str]] = if self.section {
            &[GENERIC, SAMPLING]
        } else {
            &[]
        };
        let lists = [self.read, self.idle, generic];
        let mut lists = lists.into_iter().flatten();
        lists.any(|list| list.contains(&name))
    }

    fn only(&self, name: &str) -> Option<Only> {
        let generic: &[&[_]] = match self.section {
            true => &[GENERIC_ONLY, GENERATION_ONLY],
            false => &[],
        };
        let mut fields = self.only.iter().chain(generic).copied().flatten();
        fields.find_map(|&(known, only)| (known == name).then_some(only))
    }

    /// Checks all fields; `prefix` stands before their names in errors.
    ///
    /// # Errors
    /// Names the first field that asks for something else than what is computed.
    pub(crate) fn check(&self, prefix: &str, fields: &Map<String, Value>) -> Result<(), String> {
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let name = name.as_str();
            if self.is_free(name) {
                continue;
            }
            match self.only(name) {
                Some(only) if only.allows(value) => {}
                Some(only) => {
                    return Err(format!(
                        "`{prefix}{name}` is {}, and only {} is supported",
                        short(value),
                        only.describe()
                    ));
                }
                None if self.off_is_default && is_off(value) => {}
                None => {
                    return Err(format!(
                        "`{prefix}{name}` is {}: no such setting is known, so it may ask for another computation; take \
                         it out if it does not",
                        short(value)
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A value in an error: the beginning of it.
pub(crate) fn short(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        None => text,
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Settings of Hugging Face's `PretrainedConfig` that every section of a `config.json` may have and that the forward
/// pass does not depend on.
const GENERIC: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "decoder_start_token_id",
    "dtype",
    "early_stopping",
    "eos_token_id",
    "finetuning_task",
    "id2label",
    "is_decoder",
    "label2id",
    "length_penalty",
    "model_name",
    "model_type",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "task_specific_params",
    "tf_legacy_loss",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Settings of `PretrainedConfig` that would change the forward pass.
const GENERIC_ONLY: &[(&str, Only)] = &[
    ("add_cross_attention", Only::Off),
    ("chunk_size_feed_forward", Only::Number(0.0)),
    ("cross_attention_hidden_size", Only::Off),
    ("is_encoder_decoder", Only::Off),
    ("pruned_heads", Only::Off),
    ("quantization_config", Only::Off),
    ("tie_encoder_decoder", Only::Off),
];

/// Settings of generation that stages have params for: what a checkpoint says of them is not used.
pub(crate) const SAMPLING: &[&str] = &[
    "do_sample",
    "max_length",
    "max_new_tokens",
    "num_return_sequences",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
];

/// Settings of generation that no stage has.
pub(crate) const GENERATION_ONLY: &[(&str, Only)] = &[
    ("bad_words_ids", Only::Off),
    ("begin_suppress_tokens", Only::Off),
    ("constraints", Only::Off),
    ("diversity_penalty", Only::Number(0.0)),
    ("dola_layers", Only::Off),
    ("encoder_no_repeat_ngram_size", Only::Number(0.0)),
    ("encoder_repetition_penalty", Only::Number(1.0)),
    ("epsilon_cutoff", Only::Number(0.0)),
    ("eta_cutoff", Only::Number(0.0)),
    ("exponential_decay_length_penalty", Only::Off),
    ("force_words_ids", Only::Off),
    ("forced_bos_token_id", Only::Off),
    ("forced_decoder_ids", Only::Off),
    ("forced_eos_token_id", Only::Off),
    ("guidance_scale", Only::Number(1.0)),
    ("min_length", Only::Number(0.0)),
    ("min_new_tokens", Only::Number(0.0)),
    ("min_p", Only::Number(0.0)),
    ("no_repeat_ngram_size", Only::Number(0.0)),
    ("num_beam_groups", Only::Number(1.0)),
    ("num_beams", Only::Number(1.0)),
    ("penalty_alpha", Only::Number(0.0)),
    ("sequence_bias", Only::Off),
    ("stop_strings", Only::Off),
    ("suppress_tokens", Only::Off),
    ("token_healing", Only::Off),
    ("top_h", Only::Off),
    ("typical_p", Only::Number(1.0)),
    ("watermarking_config", Only::Off),
];
