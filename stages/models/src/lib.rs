//! The model families, and what all of them share: checkpoints in Hugging Face's layout, processors, chat templates,
//! adapters in PEFT's format, export.
//!
//! [`qwen2_5_vl::QwenVl`] implements [`dcsft_vlm::model::VisionLanguageModel`], so trainers, rollouts and evaluations
//! take it as they take the micro model.

pub mod checkpoint;
pub mod export;
mod fields;
mod folder;
pub mod names;
mod peft;
pub mod processor;
pub mod qwen2_5_vl;
mod section;
