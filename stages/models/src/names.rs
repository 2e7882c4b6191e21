//! Names of tensors. A weight is known here by the name of its module in Transformers, which PEFT's adapters and
//! gradients use too. Files of some families have older names, which begin otherwise.

/// PEFT's name of the wrapped model.
pub const PEFT_PREFIX: &str = "base_model.model.";

/// How the names in published files begin, and how those of the modules do; the first that fits counts. Empty for a
/// family whose files name the modules.
#[derive(Clone, Copy, Debug)]
pub struct Names(pub &'static [(&'static str, &'static str)]);

impl Names {
    /// Files name the modules.
    pub const SAME: Self = Self(&[]);

    /// The module's name of a tensor in a file of either layout.
    pub fn module_of(&self, name: &str) -> String {
        if self.0.iter().any(|(_, module)| name.starts_with(module)) {
            return name.to_owned();
        }
        self.renamed(name, |(published, module)| (published, module))
    }

    /// The name of a module's tensor in the published layout.
    pub fn published(&self, name: &str) -> String {
        self.renamed(name, |(published, module)| (module, published))
    }

    fn renamed(
        &self,
        name: &str,
        pair: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
    ) -> String {
        let mut pairs = self.0.iter().map(|&each| pair(each));
        pairs
            .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
            .unwrap_or_else(|| name.to_owned())
    }
}

/// Whether a weight of this name is an adapter's.
pub(crate) fn is_adapter(name: &str) -> bool {
    name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight")
}

/// Whether AdamW decays a weight of this name: Hugging Face's Trainer leaves out biases and what its patterns take for
/// the scale of a normalisation (`transformers.trainer_pt_utils.get_parameter_names`). It leaves out every weight of a
/// `LayerNorm` besides; those of other normalisations go by their names: `norm1.weight`, `norm2.weight` and
/// `ln_q.weight` of Qwen2.5-VL's vision tower are decayed.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let forbidden = ["bias", "layernorm", "rmsnorm"];
    let norm = |part: &str| part == "norm" || part.ends_with("_norm");
    !forbidden.iter().any(|part| name.contains(part)) && !name.split('.').any(norm)
}

#[cfg(test)]
mod tests {
    use super::{Names, decays};
    use crate::qwen2_5_vl::NAMES;

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
            assert_eq!(NAMES.module_of(file), module);
            assert_eq!(NAMES.module_of(module), module);
            assert_eq!(NAMES.published(module), file);
            assert_eq!(Names::SAME.module_of(file), file);
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
