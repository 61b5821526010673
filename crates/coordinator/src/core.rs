//! The coordinator without its sockets: the state machine and the store, driven by whoever owns the connections.
//!
//! [`Core::handle`] takes what happened, performs everything the machine wants of the store, and returns what must go
//! out to peers. All contributions that are waiting when it is called are committed in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_protocol::coordinator::{
    Coordinator, Input, Now, Output, PolicyRecord, RunError, RunHistory, SealedQuery, Stored, Ticket,
};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Desired, Rejection};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};
use exeunt_store::{AuditEntry, ContributionKey, NewContribution, PutOutcome, Seal, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::plan::{PlanError, RunPlan};

/// Something for the owner of the connections to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell a node what is wanted of it.
    Send {
        /// The node.
        node: NodeId,
        /// What is wanted.
        desired: Desired,
    },
    /// Answer a contribution.
    Acknowledge {
        /// Names the exchange.
        ticket: Ticket,
        /// The answer.
        ack: Ack,
    },
}

/// Why the coordinator cannot go on, or a wish was not granted.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The store failed. Nothing that was acknowledged is lost; nothing more can be.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The wish does not fit the run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Something in the store cannot be read.
    #[error("{what} in the store cannot be read: {why}")]
    Corrupt {
        /// What it is.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// What the store remembers of a run beside its tables.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunEntry {
    pub(crate) file: RunFile,
    pub(crate) context: exeunt_exits::RunContext,
    pub(crate) options: exeunt_protocol::coordinator::RunOptions,
    pub(crate) started_ms: u64,
    pub(crate) stopped: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Core {
    pub(crate) machine: Coordinator,
    pub(crate) store: Box<dyn Store>,
    pub(crate) connected: BTreeSet<NodeId>,
    arriving: BTreeMap<Ticket, Vec<u8>>,
}
