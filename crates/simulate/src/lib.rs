//! Whole federations on one machine.
//!
//! [`in_memory`] hands messages over directly: the coordinator's core and every node's machine in one thread, on a
//! clock of its own. [`LocalFederation`] is the real thing on loopback: a coordinator that listens, and nodes that
//! join with tokens and talk QUIC, each in a task or, for the demo, in a process of its own. Both give the same
//! tables, bit for bit.

pub mod faults;
mod local;
mod memory;
mod plan;

pub use local::{LocalError, LocalFederation, NodePlace};
pub use memory::in_memory;
pub use plan::{Plan, PlanError, SimulateError, Simulated};
