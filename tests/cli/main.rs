//! The binary from end to end: real specs, real stages, real processes.

mod cache;
mod documents;
mod errors;
mod export;
mod faults;
mod identity;
mod interrupt;
mod leases;
mod lock;
mod memory;
mod paper;
mod planning;
mod remote;
mod results;
mod reuse;
mod running;
mod self_description;
mod shards;
mod support;
mod yaml;
