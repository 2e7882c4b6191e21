//! Names of tensors. A weight is known here by the name of its module in Transformers
//! (`model.language_model.layers.0...`, `model.visual...`), which PEFT's adapters and gradients use too; published
//! files say `model.layers.0...` and `visual...`.

const DECODER: &str = "model.language_model.";
const VISION: &str = "model.visual.";
/// PEFT's name of the wrapped model.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// The module's name of a tensor in a file of either layout.
pub fn module_of(name: &str) -> String {
    if name.starts_with(DECODER) || name.starts_with(VISION) {
        return name.to_owned();
    }
    if let Some(rest) = name.strip_prefix("visual.") {
        return format!("{VISION}{rest}");
    }
    match name.strip_prefix("model.") {
        Some(rest) => format!("{DECODER}{rest}"),
        None => name.to_owned(),
    }
}

/// The name of a module's tensor in the published layout.
pub fn published(name: &str) -> String {
    if let Some(rest) = name.strip_prefix(DECODER) {
        return format!("model.{rest}");
    }
    match name.strip_prefix(VISION) {
        Some(rest) => format!("visual.{rest}"),
        None => name.to_owned(),
    }
}

/// Whether AdamW decays the weight: Hugging Face's Trainer leaves out biases and what its patterns take for the scale
/// of a normalisation (`transformers.trainer_pt_utils.get_parameter_names`). `norm1.weight`, `norm2.weight` and
/// `ln_q.weight` of the vision tower are not among these, and are decayed.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let forbidden = ["bias", "layernorm", "rmsnorm"];
    let norm = |part: &str| part == "norm" || part.ends_with("_norm");
    !forbidden.iter().any(|part| name.contains(part)) && !name.split('.').any(norm)
}

#[cfg(test)]
mod tests {
    use super::{decays, module_of, published};

    #[test]
    fn both_layouts_name_the_same_module() {
        for (file, module) in [
            (
                "visual.blocks.0.attn.qkv.weight",
                "model.visual.blocks.0.attn.qkv.weight",
            ),
            (
                "model.layers.3.mlp.up_proj.weight",
                "model.language_model.layers.3.mlp.up_proj.weight",
            ),
            (
                "model.embed_tokens.weight",
                "model.language_model.embed_tokens.weight",
            ),
            ("lm_head.weight", "lm_head.weight"),
        ] {
            assert_eq!(module_of(file), module);
            assert_eq!(module_of(module), module);
            assert_eq!(published(module), file);
        }
    }

    #[test]
    fn biases_and_norms_of_the_decoder_are_not_decayed() {
        for name in [
            "model.language_model.norm.weight",
            "a.input_layernorm.weight",
            "a.q_proj.bias",
            "a.q_norm.weight",
        ] {
            assert!(!decays(name), "{name}");
        }
        for name in [
            "model.visual.blocks.0.norm1.weight",
            "model.visual.merger.ln_q.weight",
            "lm_head.weight",
        ] {
            assert!(decays(name), "{name}");
        }
    }
}
