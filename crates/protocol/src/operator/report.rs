//! Nodes and runs, as an operator sees them.

use exeunt_exits::{Policy, Times};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use super::NodeLive;
use crate::coordinator::{NodeStatus, RunStatus};
use crate::ids::{NodeId, PolicyVersion, QueryId, RunId};

/// A node in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    /// Its short id, as both ends show it.
    pub short: String,
    /// What the coordinator knows of it.
    #[serde(flatten)]
    pub status: NodeStatus,
    /// Whether it was shut out.
    pub revoked: bool,
    /// When it enrolled, in milliseconds since 1970.
    pub enrolled_ms: u64,
    /// Bytes it sent and received for every run so far, payload and framing.
    #[serde(default)]
    pub bytes_up: u64,
    /// See [`bytes_up`](Self::bytes_up).
    #[serde(default)]
    pub bytes_down: u64,
}

/// One node, as closely as the coordinator knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDetail {
    /// As in the list.
    #[serde(flatten)]
    pub row: NodeRow,
    /// What it gave to the run; none where there is no run or it took no part.
    pub report: Option<NodeReport>,
    /// What its inference does, if it has said so.
    pub live: Option<NodeLive>,
    /// Last lines of the audit log about it, oldest first, at most [`NodeDetail::LINES`].
    pub log: Vec<AuditLine>,
}

impl NodeDetail {
    /// Lines of the audit log that are shown.
    pub const LINES: usize = 50;
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRow {
    /// The run.
    pub run: RunId,
    /// Where it stands, in words.
    pub standing: String,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
}

/// Everything there is to see of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Where it stands and what was measured.
    #[serde(flatten)]
    pub status: RunStatus,
    /// BLAKE3 over the merged tables sealed so far, in order.
    pub digest: Digest,
    /// Bytes and samples of every node.
    pub nodes: Vec<NodeReport>,
    /// Answers that came after their query had closed: stored, and in no sum of this run so far.
    #[serde(default)]
    pub late: Vec<LateAnswer>,
    /// Policies that were kept under a name, by name.
    #[serde(default)]
    pub named: Vec<NamedPolicy>,
}

/// A policy that was kept under a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedPolicy {
    /// The name.
    pub name: String,
    /// The version it was kept from.
    pub version: PolicyVersion,
    /// The policy.
    pub policy: Policy,
    /// When it was kept, in milliseconds since 1970.
    pub saved_ms: u64,
}

/// An answer that came too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateAnswer {
    /// The query.
    pub query: QueryId,
    /// Who answered.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// When it was stored, in milliseconds since 1970.
    pub stored_ms: u64,
}

/// What a node kept back, and the floor that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// What, in words. Which classes they are stays at the node: their names would tell who has few of what.
    pub what: String,
    /// The floor, what was found and what was needed.
    pub why: String,
}

/// What one node has given to a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// Samples per part: statistics, calibration, evaluation.
    pub samples: Option<[u64; 3]>,
    /// Classes it withheld because they have too few samples.
    pub withheld_classes: Option<u64>,
    /// Exits, by number from 0, for which it sent no second moments though they were asked for.
    pub without_second_moments: Vec<usize>,
    /// The same in words, with the floor that made it keep them.
    #[serde(default)]
    pub withheld: Vec<Withheld>,
    /// Accuracy of the network on its evaluation part.
    pub network_accuracy: Option<f64>,
    /// The policy in force and the one tried last, on its samples, once measured.
    pub policies: Vec<NodePolicy>,
    /// Its own curve over the fleet's policies: cost and accuracy on its evaluation part.
    pub curve: Vec<NodePoint>,
    /// What samples cost on its clock, once it has measured that.
    #[serde(default)]
    pub times: Option<NodeTimes>,
    /// Bytes it sent and received for each query.
    pub traffic: Vec<QueryTraffic>,
    /// What became of its answer to the query that is open, or else to the last one.
    #[serde(default)]
    pub contribution: Option<NodeContribution>,
    /// Which policy of this run it is to infer with, and does.
    #[serde(default)]
    pub policy: NodePolicyState,
}

/// What became of a node's answer to a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeContribution {
    /// The query.
    pub query: QueryId,
    /// What became of it.
    #[serde(flatten)]
    pub state: ContributionState,
}

/// How far a node's answer to a query is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "contribution")]
pub enum ContributionState {
    /// Nothing was heard of it yet; what keeps the node, in words.
    Waiting {
        /// What keeps it.
        reason: String,
    },
    /// It is being computed.
    Computing {
        /// Samples done.
        done: u64,
        /// Samples to do.
        of: u64,
    },
    /// It is on its way.
    Sending,
    /// It is on disk and will be counted when the query closes.
    Stored,
    /// It is in the sum.
    Counted,
    /// It came after the query had closed: stored, and in no sum.
    Late,
    /// The node declined.
    Declined {
        /// Why.
        reason: String,
    },
    /// The coordinator did not take it.
    Rejected {
        /// Why.
        reason: String,
    },
    /// The query closed without it.
    Missing,
    /// The node is not asked.
    LeftOut {
        /// Why: it waits for approval, is quarantined, or its contribution was removed.
        reason: String,
    },
}

/// Which policy of a run a node is to infer with, and does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodePolicyState {
    /// The version that is wanted of it; none before a policy is set.
    pub wanted: Option<PolicyVersion>,
    /// Whether that is its own, set for it alone.
    pub overridden: bool,
    /// The version it has said it infers with.
    pub using: Option<PolicyVersion>,
}

/// What samples cost on one node's clock, batch 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeTimes {
    /// The network in one piece, its segments, and deciding at each exit. `nodes` is 1.
    #[serde(flatten)]
    pub times: Times,
    /// Mean milliseconds of a sample, for every point of the node's `curve`, in its order.
    pub curve_ms: Vec<f64>,
}

/// One point of a node's curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NodePoint {
    /// Share of the bare network's MACs.
    pub cost: f64,
    /// Share of its evaluation samples that were right.
    pub accuracy: f64,
}

/// What a policy does on one node's samples: of the evaluation part if it was set, of the calibration part if it was
/// only tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodePolicy {
    /// The policy's version.
    pub version: PolicyVersion,
    /// Mean cost, a share of the bare network's MACs.
    pub cost: f64,
    /// Share of the samples that were right.
    pub accuracy: f64,
    /// Share of the samples that left at each exit; the network's own output is last.
    pub left: Vec<f64>,
}

/// Samples of the statistics part per class and node. Classes that a node withheld are 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Class names in order.
    pub classes: Vec<String>,
    /// Nodes with a count per class.
    pub nodes: Vec<(NodeId, Vec<u64>)>,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditLine {
    /// Its number.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// The node it belongs to.
    pub node: Option<NodeId>,
    /// What happened.
    pub text: String,
}

/// Bytes of one query on one node's connection, payload and framing, without QUIC's own headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryTraffic {
    /// The query.
    pub query: QueryId,
    /// From the node.
    pub up: u64,
    /// To the node: the query, snapshots, and (charged to the first query) the network.
    pub down: u64,
}

/// The blobs of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotNames {
    /// The run.
    pub run: RunId,
    /// Its specification, as nodes receive it.
    pub spec: Digest,
    /// The heads: class means, spreads, whitened weights.
    pub heads: Digest,
    /// Class names in order.
    pub classes: Vec<String>,
    /// Taps in order.
    pub taps: Vec<String>,
    /// Samples per class and exit.
    pub counts: Vec<Vec<u64>>,
    /// BLAKE3 of the network.
    pub network: Digest,
    /// BLAKE3 over the merged tables.
    pub digest: Digest,
}
