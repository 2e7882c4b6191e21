//! What a vision-language model is to everybody else: a conversation in, tokens out; the loop that writes answers, the
//! trainers, and what all of this takes of memory. Which family a model is of is not known here.

pub mod beside;
pub mod error;
pub mod generate;
pub mod lora;
pub mod memory;
pub mod model;
pub mod train;
