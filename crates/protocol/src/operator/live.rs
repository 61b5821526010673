//! What inference does at the nodes, with what follows from the counters.

use exeunt_exits::Drift;
use serde::{Deserialize, Serialize};

use crate::ids::NodeId;
use crate::live::LiveCounts;

/// What inference does at one node with one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeLive {
    /// The node.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// When the node last said so, in milliseconds since 1970.
    pub at_ms: u64,
    /// The counters.
    pub counts: LiveCounts,
    /// Mean cost of a sample, a share of the bare network's multiply-accumulates.
    pub cost: Option<f64>,
    /// Share of the sampled samples for which the whole network said the same.
    pub agreement: Option<f64>,
    /// Mean milliseconds per sample.
    pub mean_ms: Option<f64>,
    /// Energy that inference took, in joules.
    pub joules: Option<f64>,
    /// Energy that leaving early saved, in joules, if energy follows multiply-accumulates.
    pub joules_saved: Option<f64>,
    /// Where samples leave, compared with where they left when the policy was measured on the evaluation part. None
    /// before it was.
    pub drift: Option<Drift>,
    /// Margins of the sampled share at each exit, compared with the calibration part's. None at exits that are off.
    pub margin_drift: Vec<Option<Drift>>,
    /// Counters at moments past, oldest first: kept since the coordinator started, bounded, thinned out with age.
    pub history: Vec<LiveMoment>,
}

/// Counters at one moment; they only grow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveMoment {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Samples by the exit they left at; the network's own output is last.
    pub left: Vec<u64>,
    /// Samples for which the whole network was run.
    pub sampled: u64,
    /// Those of them for which it said the same.
    pub agreed: u64,
}
