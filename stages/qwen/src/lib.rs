//! Qwen2.5-VL on burn: checkpoints in Hugging Face's layout, the processor, the model, generation and export.
//!
//! [`model::QwenVl`] implements [`dcsft_vlm::model::VisionLanguageModel`], so trainers, rollouts and evaluations take
//! it as they take the micro model.

pub mod checkpoint;
pub mod config;
pub mod export;
mod fields;
mod folder;
pub mod model;
pub mod names;
pub mod processor;
