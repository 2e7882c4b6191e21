//! Vision-language models on burn: the micro VLM, its processor, generation and trainers.

pub mod device;
pub mod error;
pub mod generate;
pub mod image;
mod kernels;
pub mod lora;
pub mod memory;
pub mod micro;
pub mod model;
pub mod ops;
pub mod params;
pub mod rng;
pub mod tokenizer;
pub mod train;
pub mod weights;
