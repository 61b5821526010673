//! What coordinator and node say to each other, and how each of them decides.

pub mod ids;
pub mod spec;

pub use ids::{DatasetVersion, IdError, NodeId, PolicyVersion, QueryId, RunId};
