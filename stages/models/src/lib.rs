//! The model families, and what all of them share: checkpoints in Hugging Face's layout, processors, chat templates,
//! adapters in PEFT's format, generation, export.
//!
//! [`open`] gives the model of a folder as trainers, rollouts and evaluations take it, of whichever family it is.
//! `docs/adding-a-model-family.md` walks through a family.

mod adapter;
mod axial;
mod batch;
pub mod checkpoint;
pub mod decoder;
#[cfg(test)]
mod example;
pub mod export;
pub mod family;
mod fields;
mod files;
mod folder;
mod generate;
mod generation;
mod interface;
mod lora;
mod memory;
pub mod micro;
mod model;
pub mod modules;
pub mod names;
mod open;
mod packing;
pub mod pass;
mod peft;
pub mod processor;
mod quantize;
pub mod qwen2_5_vl;
pub mod qwen3_vl;
mod registry;
mod rope;
mod section;
mod settings;
pub mod smolvlm;
mod stored;
pub mod tower;
mod training;

pub use batch::Sequence;
pub use files::{Imported, check_quantize, import, inspect, load_adapter};
pub use folder::CONFIG;
pub use memory::{HubFootprint, Texts};
pub use model::HubModel;
pub use open::{is_micro, open};
pub use registry::{Config, FAMILIES, by_name};
pub use settings::{Precision, Quantize, SETTINGS, Settings};
