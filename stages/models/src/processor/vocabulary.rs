//! What a checkpoint's files say of its tokenizer beside `tokenizer.json`: that they all mean the same one, and that
//! nothing in them makes texts into other tokens.

use dcsft_vlm::error::VlmError;
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use super::files::Files;
use super::template::token_text;
use crate::fields::{Known, Only, short};

/// `tokenizer_config.json`.
const SETTINGS: &str = "tokenizer_config.json";

/// Texts are never cut or filled up, so what is said about that has no effect; what special tokens are called is looked
/// up in the vocabulary.
const KNOWN: Known = Known {
    read: &[&[
        "added_tokens_decoder",
        "chat_template",
        "eos_token",
        "pad_token",
    ]],
    idle: &[&[
        "_name_or_path",
        "additional_special_tokens",
        "audio_token",
        "backend",
        "bos_token",
        "cls_token",
        "device_map",
        "end_of_utterance_token",
        "extra_special_tokens",
        "fake_image_token",
        "global_image_token",
        "image_token",
        "is_local",
        "legacy",
        "local_files_only",
        "mask_token",
        "max_length",
        "model_input_names",
        "model_max_length",
        "model_specific_special_tokens",
        "name_or_path",
        "pad_to_multiple_of",
        "pad_token_type_id",
        "padding",
        "padding_side",
        "processor_class",
        "sep_token",
        "special_tokens_map_file",
        "stride",
        "tokenizer_file",
        "trust_remote_code",
        "truncation",
        "truncation_side",
        "truncation_strategy",
        "unk_token",
        "use_fast",
        "verbose",
        "video_token",
        "vocab_size",
        "vision_bos_token",
        "vision_eos_token",
    ]],
    only: &[&[
        ("add_bos_token", Only::Off),
        ("add_eos_token", Only::Off),
        ("add_prefix_space", Only::Off),
        ("clean_up_tokenization_spaces", Only::Off),
        ("do_lower_case", Only::Off),
        ("errors", Only::Text(&["replace"])),
        ("split_special_tokens", Only::Off),
        (
            "tokenizer_class",
            Only::Text(&[
                "GPT2Tokenizer",
                "GPT2TokenizerFast",
                "Qwen2Tokenizer",
                "Qwen2TokenizerFast",
                "PreTrainedTokenizerFast",
                "TokenizersBackend",
            ]),
        ),
    ]],
    ..Known::NOTHING
};

/// Normalisers that make a text hardly longer. Qwen2.5 has NFC.
const NORMALISERS: [&str; 7] = [
    "Lowercase",
    "NFC",
    "NFD",
    "NFKC",
    "NFKD",
    "Strip",
    "StripAccents",
];

/// Checks the fields of `tokenizer_config.json`.
pub(super) fn check_settings(files: &Files) -> Result<(), VlmError> {
    let Some(settings) = object(files, SETTINGS)? else {
        return Ok(());
    };
    KNOWN
        .check("", &settings)
        .map_err(|problem| fail(files, SETTINGS, &problem))
}

/// Checks `tokenizer.json` itself before a tokenizer is made of it: byte-level pairs, as all checkpoints of these families
/// have them. Others could make texts of any length of a few characters.
pub(super) fn check_parts(tokenizer: &Value) -> Result<(), String> {
    let kind = |value: &Value| value["type"].as_str().unwrap_or("none").to_owned();
    check_normaliser(&tokenizer["normalizer"])?;
    let model = &tokenizer["model"];
    if let Some(other) = model["type"].as_str().filter(|kind| *kind != "BPE") {
        return Err(format!(
            "its model is {other:?}, and only \"BPE\" is supported"
        ));
    }
    if !matches!(model["dropout"].as_f64(), None | Some(0.0)) {
        return Err(format!(
            "`model.dropout` is {}: the same text would become other tokens each time",
            model["dropout"]
        ));
    }
    let decoder = kind(&tokenizer["decoder"]);
    if decoder != "ByteLevel" {
        return Err(format!(
            "its decoder is {decoder:?}, and only \"ByteLevel\" is supported"
        ));
    }
    let splitters = &tokenizer["pre_tokenizer"];
    let parts = splitters["pretokenizers"].as_array();
    let parts = parts.map_or(std::slice::from_ref(splitters), Vec::as_slice);
    let other = parts.iter().map(kind).find(|kind| {
        !matches!(
            kind.as_str(),
            "ByteLevel" | "Split" | "Digits" | "Punctuation" | "Whitespace"
        )
    });
    match other {
        Some(other) => Err(format!("its pre-tokenizer {other:?} is not supported")),
        None => Ok(()),
    }
}

fn check_normaliser(normaliser: &Value) -> Result<(), String> {
    let Some(kind) = normaliser["type"].as_str() else {
        return Ok(());
    };
    if kind == "Sequence" {
        let parts = normaliser["normalizers"].as_array();
        return parts.into_iter().flatten().try_for_each(check_normaliser);
    }
    match NORMALISERS.contains(&kind) {
        true => Ok(()),
        false => Err(format!(
            "its normaliser {kind:?} is not supported: it could make a text of any length of a short one"
        )),
    }
}

/// Checks that the other files know the tokens that `tokenizer.json` has.
pub(super) fn check_agreement(files: &Files, tokenizer: &Tokenizer) -> Result<(), VlmError> {
    if let Some(settings) = object(files, SETTINGS)? {
        check_added(&settings, tokenizer).map_err(|problem| fail(files, SETTINGS, &problem))?;
        check_map(files, &settings)?;
    }
    let name = "added_tokens.json";
    for (token, id) in object(files, name)?.into_iter().flatten() {
        let known = tokenizer.token_to_id(&token).map(u64::from);
        if id.as_u64() != known {
            let problem = format!(
                "it gives {token:?} the id {}, and tokenizer.json {}",
                short(&id),
                known.map_or("none".into(), |id| id.to_string())
            );
            return Err(fail(files, name, &problem));
        }
    }
    Ok(())
}

/// `added_tokens_decoder`: Transformers adds what is in it to the tokens of `tokenizer.json`.
fn check_added(settings: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<(), String> {
    let Some(Value::Object(added)) = settings.get("added_tokens_decoder") else {
        return Ok(());
    };
    let known = tokenizer.get_added_tokens_decoder();
    for (id, token) in added {
        let own = id.parse().ok().and_then(|id: u32| known.get(&id));
        let Some(own) = own.filter(|own| token["content"] == own.content) else {
            return Err(format!(
                "`added_tokens_decoder` calls token {id} {}, and tokenizer.json {}",
                short(&token["content"]),
                own.map_or("has no added token of this id".into(), |own| format!(
                    "{:?}",
                    own.content
                ))
            ));
        };
        for (flag, here) in [
            ("lstrip", own.lstrip),
            ("normalized", own.normalized),
            ("rstrip", own.rstrip),
            ("single_word", own.single_word),
            ("special", own.special),
        ] {
            if token[flag].as_bool().is_some_and(|there| there != here) {
                return Err(format!(
                    "`added_tokens_decoder.{id}.{flag}` is {}, and tokenizer.json has {here} for {:?}",
                    token[flag], own.content
                ));
            }
        }
    }
    Ok(())
}

/// `special_tokens_map.json` names the same end and padding token.
fn check_map(files: &Files, settings: &Map<String, Value>) -> Result<(), VlmError> {
    let name = "special_tokens_map.json";
    let Some(map) = object(files, name)? else {
        return Ok(());
    };
    for field in ["eos_token", "pad_token"] {
        let there = map.get(field).and_then(token_text);
        let here = settings.get(field).and_then(token_text);
        if let (Some(there), Some(here)) = (there, here)
            && there != here
        {
            let problem = format!("`{field}` is {there:?}, and {here:?} in {SETTINGS}");
            return Err(fail(files, name, &problem));
        }
    }
    Ok(())
}

fn object(files: &Files, name: &str) -> Result<Option<Map<String, Value>>, VlmError> {
    match files.json(name)? {
        None => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(fields)),
        Some(_) => Err(fail(files, name, "must be a JSON object")),
    }
}

fn fail(files: &Files, name: &str, problem: &str) -> VlmError {
    VlmError::Config(format!("{}: {problem}", files.path(name).display()))
}
