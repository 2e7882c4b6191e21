//! `generation_config.json`: which tokens end an answer, and what else it asks for.

use std::path::Path;

use dcsft_vlm::error::VlmError;
use serde_json::{Map, Value};

use crate::fields::{GENERATION_ONLY, Known, SAMPLING};
use crate::folder::{fault, is_there, read_json};

/// The file's name.
pub(crate) const FILE: &str = "generation_config.json";

/// How a generation is organised, not what it draws.
const ORGANISATION: &[&str] = &[
    "_from_model_config",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "cache_implementation",
    "compile_config",
    "decoder_start_token_id",
    "disable_compile",
    "early_stopping",
    "is_assistant",
    "length_penalty",
    "low_memory",
    "max_matching_ngram_size",
    "max_time",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "remove_invalid_values",
    "renormalize_logits",
    "return_dict_in_generate",
    "return_legacy_cache",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_model_defaults",
];

const KNOWN: Known = Known {
    read: &[&["eos_token_id"]],
    idle: &[SAMPLING, ORGANISATION],
    only: &[GENERATION_ONLY],
    ..Known::NOTHING
};

/// What the file says.
#[derive(Default)]
pub(crate) struct Generation {
    fields: Option<Map<String, Value>>,
}

impl Generation {
    /// Reads it, if it is there.
    ///
    /// # Errors
    /// [`VlmError`] names a field that asks for what no stage does, or the file where it is none.
    pub(crate) fn load(dir: &Path) -> Result<Self, VlmError> {
        let path = dir.join(FILE);
        if !is_there(&path) {
            return Ok(Self::default());
        }
        let fields: Map<String, Value> = read_json(&path)?;
        KNOWN
            .check("", &fields)
            .map_err(|problem| fault(&path, problem))?;
        let fields = Some(fields);
        Ok(Self { fields })
    }

    /// The tokens that end an answer: those that the file names, or `config.json` where there is no such file, and the
    /// tokenizer's own.
    ///
    /// # Errors
    /// [`VlmError::Weights`] for what is neither a token nor a list of tokens.
    pub(crate) fn stops(
        &self,
        dir: &Path,
        of_config: &[u32],
        eos: u32,
    ) -> Result<Vec<u32>, VlmError> {
        let mut stops = vec![eos];
        match &self.fields {
            None => stops.extend(of_config),
            Some(fields) => stops.extend(tokens(fields.get("eos_token_id")).ok_or_else(|| {
                fault(
                    &dir.join(FILE),
                    "`eos_token_id` must be a token id or a list of them",
                )
            })?),
        }
        stops.sort_unstable();
        stops.dedup();
        Ok(stops)
    }

    /// Settings of sampling in the file, which stages have params for and do not take from here.
    pub(crate) fn sampling(&self) -> Vec<(String, Value)> {
        let fields = self.fields.iter().flatten();
        fields
            .filter(|(name, value)| SAMPLING.contains(&name.as_str()) && !value.is_null())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn tokens(value: Option<&Value>) -> Option<Vec<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(token).collect(),
        Some(one) => token(one).map(|id| vec![id]),
    }
}
