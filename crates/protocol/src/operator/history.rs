//! The snapshots of a run, and what differs between two of them.

use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, QueryId, RunId};

/// A snapshot: class means over one cohort.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRow {
    /// 1, 2, 3, … in the order in which they were made; the last is in force.
    pub version: u32,
    /// When its moments were sealed, in milliseconds since 1970.
    pub at_ms: u64,
    /// The query whose answers were added up.
    pub query: QueryId,
    /// Nodes whose answers were.
    pub cohort: Vec<NodeId>,
    /// Samples they are over.
    pub samples: u64,
    /// BLAKE3 of the merged moments.
    pub digest: Digest,
    /// Why there is one: the run's first, or whose contribution was removed.
    pub reason: String,
}

/// What differs between two snapshots of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotDiff {
    /// The run.
    pub run: RunId,
    /// The one.
    pub from: SnapshotRow,
    /// The other.
    pub to: SnapshotRow,
    /// Nodes that are in `to` and not in `from`.
    pub joined: Vec<NodeId>,
    /// Nodes that are in `from` and not in `to`.
    pub left: Vec<NodeId>,
    /// Samples of each class, in the order of the classes.
    pub classes: Vec<ClassCounts>,
    /// How far class means moved at each exit.
    pub exits: Vec<ExitShift>,
    /// What the fleet's front scores at the same cost, on the evaluation part; empty while one of them is not measured.
    pub accuracy_at_cost: Vec<CostPoint>,
}

/// Samples of a class in two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCounts {
    /// The class.
    pub class: String,
    /// Samples in the one.
    pub from: u64,
    /// Samples in the other.
    pub to: u64,
}

/// How far class means moved at an exit, in standard deviations within a class: the root of the mean square over the
/// exit's numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExitShift {
    /// ONNX value name.
    pub tap: String,
    /// Over classes that both have; none where there are none.
    pub mean: Option<f64>,
    /// The class that moved farthest.
    pub farthest: Option<String>,
    /// How far that one did.
    pub most: Option<f64>,
}

/// Two accuracies at one cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostPoint {
    /// Share of the bare network's multiply-accumulates.
    pub cost: f64,
    /// Accuracy with the one; none where its front has nothing that cheap.
    pub from: Option<f64>,
    /// Accuracy with the other.
    pub to: Option<f64>,
}
