//! One module per command. Each takes the resolved command line and says how the program ends.

pub(crate) mod cache;
pub(crate) mod cancel;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod graph;
pub(crate) mod lock;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod results;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod score;
pub(crate) mod stages;
pub(crate) mod status;
pub(crate) mod why;
pub(crate) mod worker;
