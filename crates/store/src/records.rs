//! What is stored, as plain values.

use exeunt_protocol::message::{BlobRef, Membership};
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

/// A node that enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// What it is called: as it said when it joined, until the coordinator's operator calls it something else.
    pub name: String,
    /// When it enrolled, in milliseconds since 1970.
    pub enrolled_ms: u64,
    /// Whether it was shut out.
    pub revoked: bool,
    /// Whether it takes part.
    pub membership: Membership,
}

/// A join token. Its secret is known by its digest alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// A note.
    pub label: String,
    /// When it stops being accepted, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Which node spent it.
    pub used_by: Option<NodeId>,
    /// Whether a node that joins with it has to be approved.
    pub approve: bool,
}

/// What became of a token that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenOutcome {
    /// It was good; the node is enrolled.
    Enrolled,
    /// The same node had spent it; it is enrolled already.
    EnrolledBefore,
    /// No such token was made here.
    Unknown,
    /// It is too old.
    Expired,
    /// Another node spent it.
    Used,
    /// The same node had spent it, and was shut out since.
    Revoked,
}

/// A contribution to store.
#[derive(Debug, Clone, Copy)]
pub struct NewContribution<'a> {
    /// The run.
    pub run: &'a RunId,
    /// The query.
    pub query: QueryId,
    /// The node.
    pub node: NodeId,
    /// Which edition of its data it answered from.
    pub dataset: DatasetVersion,
    /// Digest and length of the packed table.
    pub table: BlobRef,
    /// The packed table.
    pub packed: &'a Packed,
}

/// Where the packed table of a contribution is.
#[derive(Debug, Clone)]
pub enum Packed {
    /// Here.
    Whole(Vec<u8>),
    /// In the store, by [`Store::stage`](crate::Store::stage). It is not staged any more afterwards, whatever became of the
    /// contribution; unless the call failed, which changes nothing.
    Staged(StageId),
    /// In the store, with an earlier contribution of this node to this query.
    Kept,
}

/// Names the bytes of a table that came before its contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StageId(pub(crate) u64);

/// What became of a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is there now.
    Stored,
    /// The same answer was there.
    Duplicate,
    /// It took the place of an answer from an older edition of the data.
    Replaced {
        /// That edition.
        previous: DatasetVersion,
    },
    /// Another answer from the same edition is there, and stays.
    Conflict {
        /// Its digest.
        expected: Digest,
    },
    /// An answer from a newer edition is there, and stays.
    Stale {
        /// That edition.
        current: DatasetVersion,
    },
}

/// What is known of a stored contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContributionMeta {
    /// Which edition of its data the node answered from.
    pub dataset: DatasetVersion,
    /// Digest and length of the packed table.
    pub table: BlobRef,
    /// When it was stored, in milliseconds since 1970.
    pub stored_ms: u64,
}

/// A query that was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Whose tables were added up.
    pub cohort: Vec<(NodeId, DatasetVersion, Digest)>,
    /// Who declined, and why.
    pub declined: Vec<(NodeId, String)>,
    /// The sum, packed; none where the query was withdrawn for a wider scale.
    pub merged: Option<Vec<u8>>,
    /// Number of cells of the sum.
    pub cells: u64,
    /// Digest of the sum's cells.
    pub digest: Option<Digest>,
    /// When, in milliseconds since 1970.
    pub sealed_ms: u64,
    /// Digest of what was asked: its body is a blob. Seals of the store's first format do not say.
    pub asked: Option<Digest>,
    /// The earlier query under which the cohort's tables are stored, if nobody was asked again.
    pub reused: Option<QueryId>,
}

/// Bytes of one node for one query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// From the node.
    pub up: u64,
    /// To the node.
    pub down: u64,
}

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The run it belongs to.
    pub run: Option<RunId>,
    /// The node it belongs to.
    pub node: Option<NodeId>,
    /// What happened.
    pub text: String,
}
