//! Everything that travels between coordinator and node.
//!
//! A node keeps one *control* stream open for as long as it is connected: it says [`FromNode::Hello`], and from then
//! on receives [`ToNode::Desired`] whenever what is wanted of it changes, and reports what it does. Bulk goes on
//! streams of its own, each opened by the node with a [`Request`]: fetching a blob by its hash, or delivering a table.

use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use crate::ids::{DatasetVersion, PolicyVersion, QueryId, RunId};
use crate::live::LiveCounts;

/// Newest version of the messages that this build speaks.
///
/// 2 added [`FromNode::Using`], [`FromNode::Live`], [`ToNode::Membership`] and [`Rejection::NotTakingPart`]; they are
/// not said to a peer that speaks 1.
pub const VERSION: u16 = 2;
/// Oldest version it still speaks.
pub const OLDEST_VERSION: u16 = 1;

/// A piece of content, named by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// BLAKE3 of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

impl BlobRef {
    /// Names `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes: bytes.len() as u64 }
    }
}

/// First words of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest message version the node speaks.
    pub oldest: u16,
    /// Newest message version the node speaks.
    pub newest: u16,
    /// What its operator calls it.
    pub name: String,
    /// Name and version of its software.
    pub software: String,
    /// Name and version of its engine.
    pub engine: String,
}

/// What a node says on its control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNode {
    /// Always first.
    Hello(Hello),
    /// What it is doing for a run; the latest word replaces earlier ones.
    Report {
        /// The run.
        run: RunId,
        /// What it is doing.
        activity: Activity,
    },
    /// It answers this query with no table, and says why.
    Decline {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// Why.
        refusal: Refusal,
    },
    /// It infers with this policy from now on; everything that belongs to it is in its folder.
    Using {
        /// The run the policy belongs to.
        run: RunId,
        /// Its version.
        policy: PolicyVersion,
    },
    /// What inference has done so far; the latest word about a policy replaces earlier ones.
    Live(Box<LiveCounts>),
}

/// Whether a node takes part, as the coordinator's operator decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Membership {
    /// It takes part.
    #[default]
    Active,
    /// It has joined, and takes part in nothing until it is approved.
    Pending,
    /// It is connected and keeps its policy, but is asked nothing and counted in nothing new.
    Quarantined,
}

impl Membership {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "waits for approval",
            Self::Quarantined => "quarantined",
        }
    }
}

/// What a node is doing for a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// Everything wanted is done.
    Idle,
    /// Getting the network, a query or a snapshot.
    Fetching,
    /// Answering a query.
    Computing {
        /// The query.
        query: QueryId,
        /// Samples done.
        done: u64,
        /// Samples to do.
        of: u64,
    },
    /// Delivering its answer.
    Sending {
        /// The query.
        query: QueryId,
    },
}

/// Why a node answers a query without a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Too few samples to say anything without saying it of someone.
    #[error("below_min_count: {found} samples, at least {needed} needed")]
    BelowMinCount {
        /// How many it holds.
        found: u64,
        /// The floor.
        needed: u64,
    },
    /// More than one in a thousand samples would not fit the scale.
    #[error("out_of_range: {left_out} of {samples} samples do not fit the scale")]
    OutOfRange {
        /// Samples left out.
        left_out: u64,
        /// Samples looked at.
        samples: u64,
    },
    /// The network does not do here what the run says.
    #[error("model_mismatch: {what}")]
    ModelMismatch {
        /// What differs.
        what: String,
    },
    /// The node cannot read its data as the run file says.
    #[error("bad_data: {what}")]
    BadData {
        /// What is wrong.
        what: String,
    },
    /// Anything else that keeps it from answering.
    #[error("failed: {what}")]
    Failed {
        /// What happened.
        what: String,
    },
}

/// Longest explanation of a node that is kept, in characters.
const MAX_WHAT: usize = 500;

impl Refusal {
    /// The same with an explanation of bounded length: what a node says is logged and sealed.
    #[must_use]
    pub fn clipped(mut self) -> Self {
        if let Self::ModelMismatch { what } | Self::BadData { what } | Self::Failed { what } = &mut self
            && let Some((end, _)) = what.char_indices().nth(MAX_WHAT)
        {
            what.truncate(end);
        }
        self
    }

    /// The name by which it is counted and searched for.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::BelowMinCount { .. } => "below_min_count",
            Self::OutOfRange { .. } => "out_of_range",
            Self::ModelMismatch { .. } => "model_mismatch",
            Self::BadData { .. } => "bad_data",
            Self::Failed { .. } => "failed",
        }
    }
}

/// What the coordinator says on a node's control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNode {
    /// Answer to the hello: the version both speak.
    Welcome {
        /// The version.
        version: u16,
    },
    /// Everything that is wanted of the node, replacing what was said before.
    Desired(Desired),
    /// Whether the node takes part; said first after the welcome, and whenever it changes.
    Membership(Membership),
}

/// Everything that is wanted of a node. It compares this with what it has, and acts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Desired {
    /// The active runs, in the order of their ids.
    pub runs: Vec<DesiredRun>,
}

/// What is wanted for one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredRun {
    /// The run.
    pub run: RunId,
    /// Its [`RunSpec`](crate::spec::RunSpec), as JSON.
    pub spec: BlobRef,
    /// Its network.
    pub network: BlobRef,
    /// The query that is open, if any.
    pub query: Option<DesiredQuery>,
    /// The policy to infer with, if one was set and none later for another run.
    pub policy: Option<DesiredPolicy>,
}

/// A query that waits for this node's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredQuery {
    /// Which.
    pub id: QueryId,
    /// Its [`Query`](exeunt_exits::Query), encoded.
    pub body: BlobRef,
    /// The snapshot it refers to, if it does.
    pub heads: Option<BlobRef>,
}

/// The policy in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPolicy {
    /// Its version.
    pub version: PolicyVersion,
    /// Its [`Policy`](exeunt_exits::Policy), as JSON.
    pub body: BlobRef,
    /// The snapshot it decides with.
    pub heads: BlobRef,
}

/// First frame of a stream that a node opens beside its control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// This is the control stream.
    Control,
    /// Send the bytes of a blob from an offset on.
    Fetch {
        /// Which blob.
        blob: Digest,
        /// Where to begin.
        offset: u64,
        /// For which query, so that its bytes are charged to it.
        purpose: Option<(RunId, QueryId)>,
    },
    /// Here comes a contribution.
    Contribute(Contribution),
    /// An operator's wish; only with an operator's certificate.
    Operator,
}

/// Answer to [`Request::Fetch`], before the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchReply {
    /// The rest of the blob follows.
    Begin {
        /// Length of the whole blob.
        bytes: u64,
    },
    /// No blob of that name is wanted of this node.
    Unknown,
}

/// Header of a contribution; its packed table follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// The run.
    pub run: RunId,
    /// The query it answers.
    pub query: QueryId,
    /// Which edition of its data the node answered from.
    pub dataset: DatasetVersion,
    /// The packed table: its hash and length.
    pub table: BlobRef,
}

/// Answer to a contribution's header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContributeReply {
    /// Send the bytes from here on.
    Begin {
        /// Offset of the first byte wanted.
        offset: u64,
    },
    /// No need to send them.
    Done(Ack),
}

/// What became of a contribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ack {
    /// It is on disk, and will be counted or has been.
    Stored,
    /// It is not wanted.
    Rejected(Rejection),
}

/// Why a contribution was not taken. The names are the ones in logs and in `run show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Rejection {
    /// Another answer for the same dataset version is already there.
    #[error("contribution_conflict: found table {found}, expected {expected} for the same dataset version")]
    ContributionConflict {
        /// The new answer.
        found: Digest,
        /// The one that is kept.
        expected: Digest,
    },
    /// An answer from a newer dataset version is already there.
    #[error("stale: dataset version {found}, expected at least {expected}")]
    Stale {
        /// The version of this answer.
        found: u64,
        /// The version that is kept.
        expected: u64,
    },
    /// There is no such run, or it was stopped.
    #[error("unknown_run: {run}")]
    UnknownRun {
        /// The run.
        run: RunId,
    },
    /// The run has not asked this.
    #[error("unknown_query: {query}")]
    UnknownQuery {
        /// The query.
        query: QueryId,
    },
    /// The bytes are not what the header said, or not a table of this query's shape.
    #[error("malformed: {what}")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// The node's certificate was revoked.
    #[error("revoked")]
    Revoked,
    /// The node does not take part in this run.
    #[error("not_taking_part: {why}")]
    NotTakingPart {
        /// Why: it waits for approval, is quarantined, or its contribution was removed.
        why: String,
    },
}
