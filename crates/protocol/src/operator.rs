//! What an operator may ask of a coordinator, from the command line or a window, here or elsewhere.
//!
//! One request and one response per stream, opened with [`Request::Operator`](crate::message::Request) by a peer
//! whose certificate says *operator*. Responses are JSON on the wire: they are what `--json` prints.

use exeunt_exits::{PolicyRequest, Quantiles, Times};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use crate::coordinator::{NodeStatus, RunStatus};
use crate::ids::{NodeId, PolicyVersion, QueryId, RunId};
use crate::spec::RunFile;

/// A wish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OperatorRequest {
    /// A join token that works once.
    Token {
        /// How long it is valid, in seconds.
        valid_s: u64,
        /// A note for the list of tokens.
        label: String,
    },
    /// The nodes.
    Nodes,
    /// Shut a node out for good.
    Revoke {
        /// The node.
        node: NodeId,
    },
    /// Whether the coordinator has a blob, so that a network is sent once.
    HasBlob {
        /// Its hash.
        blob: Digest,
    },
    /// The bytes of a blob follow this request.
    PutBlob {
        /// Its hash.
        blob: Digest,
        /// Its length.
        bytes: u64,
    },
    /// Start a run; its network must be there.
    StartRun {
        /// The run file.
        file: Box<RunFile>,
        /// BLAKE3 of the network.
        network: Digest,
    },
    /// The runs.
    Runs,
    /// One run. The newest, if none is named.
    Show {
        /// Which.
        run: Option<RunId>,
    },
    /// End a run.
    Stop {
        /// Which.
        run: RunId,
    },
    /// Put a policy in force.
    SetPolicy {
        /// For which run; the newest, if none is named.
        run: Option<RunId>,
        /// Which policy.
        wish: PolicyRequest,
    },
    /// Have a policy measured on the calibration part without putting it in force.
    TryPolicy {
        /// For which run; the newest, if none is named.
        run: Option<RunId>,
        /// Which policy.
        wish: PolicyRequest,
    },
    /// Wait until something has changed since a revision, or for half a minute.
    Watch {
        /// The revision that is known.
        seen: u64,
    },
    /// Margins at every exit on the calibration part, so that shares can be turned into thresholds.
    Margins {
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
    },
    /// How many samples of each class every node counted.
    Coverage {
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
    },
    /// Lines of the audit log.
    Audit {
        /// Number of the first line wanted.
        from: u64,
    },
    /// The merged tables and fitted heads of a run.
    Snapshot {
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
    },
}

/// The answer to a wish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperatorResponse {
    /// A token.
    Token {
        /// As a node's operator types it.
        token: String,
        /// When it expires, in seconds since 1970.
        expires: u64,
    },
    /// The nodes.
    Nodes(Vec<NodeRow>),
    /// Whether the blob is there.
    HasBlob(bool),
    /// Done.
    Done,
    /// A run was started.
    Started {
        /// Its id.
        run: RunId,
    },
    /// The runs, oldest first.
    Runs(Vec<RunRow>),
    /// One run.
    Show(Box<RunReport>),
    /// A policy is in force.
    Policy {
        /// The run.
        run: RunId,
        /// Its version.
        version: PolicyVersion,
    },
    /// The revision now. Revisions only tell "as before" from "changed"; a restarted coordinator counts anew.
    Changed {
        /// The revision.
        now: u64,
    },
    /// Margins; none before they are known.
    Margins(Option<Box<Quantiles>>),
    /// Samples per class and node; none before they are counted.
    Coverage(Option<Box<Coverage>>),
    /// Lines of the audit log, oldest first.
    Audit(Vec<AuditLine>),
    /// Names of the blobs that make up a snapshot; they can be fetched.
    Snapshot(Box<SnapshotNames>),
    /// The wish was not granted.
    Refused {
        /// Why.
        why: String,
    },
}

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
