//! What coordinator and node say to each other, and how each of them decides.
//!
//! * [`spec`] and [`run_file`]: what a run is, as written by a person and as nodes receive it.
//! * [`message`]: everything that travels.
//! * [`live`]: counters of what inference does, beside everything else.
//! * [`coordinator`] and [`node`]: two state machines, handed every event and the time; they own no socket, file,
//!   clock or randomness, so a whole federation can run in one thread on a virtual clock.
//!
//! Deliberately not here: how bytes travel (`exeunt-link`), what is on disk (`exeunt-store`), how a query is
//! answered (`exeunt-node`).

pub mod coordinator;
mod ids;
pub mod live;
pub mod message;
pub mod moment;
pub mod node;
pub mod operator;
pub mod run_file;
pub mod spec;

pub use ids::{DatasetVersion, IdError, NodeId, PolicyVersion, QueryId, RunId};
