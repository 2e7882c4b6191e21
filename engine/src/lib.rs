//! The engine: specs, axes, DAG, plan, keys, scheduler, worker processes, run journal.
//!
//! It knows nothing of images, rewards or tensors: what computes is a [`kind::Stage`].

pub mod context;
pub mod cost;
pub mod diagnostic;
pub mod done;
pub mod executed;
pub mod forecast;
pub mod graph;
pub mod journal;
pub mod keep;
pub mod key;
pub mod kind;
pub mod left_out;
pub mod lockfile;
pub mod params;
pub mod plan;
pub mod protocol;
pub mod provenance;
pub mod results;
pub mod run;
pub mod schema;
pub mod spec;
mod spent;
pub mod study;
pub mod study_id;
pub mod text;
mod turn;
pub mod usage;
pub mod why;
pub mod worker;
