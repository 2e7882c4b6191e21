//! Vision-language models on burn: the micro VLM, its processor, generation and trainers.

pub mod error;
pub mod generate;
pub mod image;
pub mod lora;
pub mod memory;
pub mod micro;
pub mod model;
pub mod tokenizer;
pub mod train;
pub mod weights;
