//! Folders of other writers: what is read as Transformers and PEFT read it, and what is refused by its name.

mod adapters;
mod folders;
mod limits;
mod made;
#[path = "../support/mod.rs"]
mod support;
