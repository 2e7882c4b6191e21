//! Qwen2.5-VL on burn.

pub mod config;
pub mod processor;
