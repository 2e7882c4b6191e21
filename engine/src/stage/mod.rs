//! What stage authors and workers see: the interface between the engine and whatever computes.
//!
//! | module | what |
//! |---|---|
//! | `ports` | what goes in and out: [`ArtifactType`], [`InputDecl`], [`OutputDecl`] |
//! | `field` | the path of a field |
//! | `params` | typed params, mistakes in them, the user's files that they name |
//! | `text` | params as they are kept |
//! | `input` | an artifact that a stage reads, where it comes from, and results like the stage's own |
//! | `error` | why a stage fails |
//! | `summary` | what a stage says of itself once it is done |
//! | `cost`, `usage` | what work took |
//! | `protocol` | what worker and run say to each other |
//! | `context` | what a running stage is given |
//! | `shard` | a part of a stage's samples that is an attempt of its own |
//! | `forecast` | what is expected of a stage before it runs |
//! | `numerics` | the arithmetic that results depend on |
//! | `kind` | [`Stage`], as its author writes it, [`Kind`], as the engine sees it, and the [`Registry`] |

mod context;
mod cost;
mod error;
mod field;
mod forecast;
mod input;
mod kind;
mod numerics;
mod params;
mod ports;
mod protocol;
mod shard;
mod summary;
mod text;
pub(crate) mod usage;

pub use context::{ContextParts, StageContext};
pub use cost::Cost;
pub use error::StageError;
pub use field::FieldPath;
pub use forecast::{Fact, Forecast, Memory, Prospect};
pub use input::{Evaluated, Input, Label, Origin, Relative, STEP, step_in, step_value};
pub(crate) use kind::parse;
pub use kind::{Family, Kind, KindDecl, Registry, Stage};
pub use numerics::Numerics;
pub use params::{FileParam, ParamProblem, ResolvedParams};
pub use ports::{ArtifactType, Cardinality, InputDecl, OutputDecl};
pub use protocol::{Event, Job, Progress};
pub use shard::Shard;
pub use summary::{LeftOut, Summary, SummaryResult, scalars};
pub use text::Params;
pub use usage::Usage;
