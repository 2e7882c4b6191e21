//! Vision-language models on burn: the micro VLM, its processor, generation and trainers.

pub mod error;
pub mod model;
pub mod params;
pub mod rng;
