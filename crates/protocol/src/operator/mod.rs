//! What an operator may ask of a coordinator, from the command line or a window, here or elsewhere.
//!
//! One request and one response per stream, opened with [`Request::Operator`](crate::message::Request) by a peer
//! whose certificate says *operator*. Responses are JSON on the wire: they are what `--json` prints.

mod history;
mod live;
mod report;

use exeunt_exits::{PolicyRequest, Quantiles};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, PolicyVersion, RunId};
use crate::spec::RunFile;

pub use history::{ClassCounts, CostPoint, ExitShift, SnapshotDiff, SnapshotRow};
pub use live::{LiveMoment, NodeLive};
pub use report::{
    AuditLine, ContributionState, Coverage, LateAnswer, NamedPolicy, NodeContribution, NodeDetail, NodePoint,
    NodePolicy, NodePolicyState, NodeReport, NodeRow, NodeTimes, QueryTraffic, RunReport, RunRow,
    SnapshotNames, Withheld,
};

/// A wish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum OperatorRequest {
    /// A join token that works once.
    Token {
        /// How long it is valid, in seconds.
        valid_s: u64,
        /// A note for the list of tokens.
        label: String,
        /// Whether a node that joins with it takes part in nothing until it is approved; as the coordinator was
        /// started, if not said.
        #[serde(default)]
        approve: Option<bool>,
    },
    /// The nodes.
    Nodes,
    /// One node, with what it gave to a run and what was noted of it.
    Node {
        /// The node.
        node: NodeId,
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
    },
    /// Let a node take part that waits for it.
    Approve {
        /// The node.
        node: NodeId,
    },
    /// Call a node something else. Its id stays.
    Rename {
        /// The node.
        node: NodeId,
        /// Its new name.
        name: String,
    },
    /// Ask a node nothing more and count nothing new of it. It stays connected and keeps its policy.
    Quarantine {
        /// The node.
        node: NodeId,
    },
    /// Let a quarantined node take part again.
    Release {
        /// The node.
        node: NodeId,
    },
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
    /// Take everything a node gave out of a run, exactly, and ask again what followed from it.
    Remove {
        /// From which run; the newest, if none is named.
        run: Option<RunId>,
        /// The node.
        node: NodeId,
    },
    /// Put a policy in force.
    SetPolicy {
        /// For which run; the newest, if none is named.
        run: Option<RunId>,
        /// Which policy.
        wish: PolicyRequest,
        /// For this node alone, instead of the fleet's.
        #[serde(default)]
        node: Option<NodeId>,
    },
    /// Let a node infer with the fleet's policy again.
    ClearPolicy {
        /// In which run; the newest, if none is named.
        run: Option<RunId>,
        /// The node.
        node: NodeId,
    },
    /// Keep a policy under a name, in place of what had that name.
    SavePolicy {
        /// In which run; the newest, if none is named.
        run: Option<RunId>,
        /// The name.
        name: String,
        /// Which policy; the one in force, if none is named.
        version: Option<PolicyVersion>,
    },
    /// Forget a policy's name.
    ForgetPolicy {
        /// In which run; the newest, if none is named.
        run: Option<RunId>,
        /// The name.
        name: String,
    },
    /// Put a policy in force that was kept under a name.
    ApplyPolicy {
        /// In which run; the newest, if none is named.
        run: Option<RunId>,
        /// The name.
        name: String,
        /// For this node alone, instead of the fleet's.
        #[serde(default)]
        node: Option<NodeId>,
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
    /// Every snapshot of a run, oldest first.
    Snapshots {
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
    },
    /// What differs between two snapshots of a run.
    SnapshotDiff {
        /// Which run; the newest, if none is named.
        run: Option<RunId>,
        /// Version of the one.
        from: u32,
        /// Version of the other.
        to: u32,
    },
    /// Copy everything the coordinator must not lose into a new folder on its machine.
    Backup,
    /// What inference does at the nodes, with the policies of a run.
    Live {
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
    /// One node.
    Node(Box<NodeDetail>),
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
    /// Every snapshot, oldest first.
    Snapshots(Vec<SnapshotRow>),
    /// What differs between two snapshots.
    SnapshotDiff(Box<SnapshotDiff>),
    /// What inference does, by node.
    Live(Vec<NodeLive>),
    /// A backup is made.
    Backup {
        /// The folder, on the coordinator's machine.
        folder: String,
        /// Its files' bytes together.
        bytes: u64,
        /// How many files it has.
        files: u64,
        /// When it was made, in milliseconds since 1970.
        made_ms: u64,
    },
    /// The wish was not granted.
    Refused {
        /// Why.
        why: String,
    },
}
