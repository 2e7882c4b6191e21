//! Qwen2.5-VL on burn.
