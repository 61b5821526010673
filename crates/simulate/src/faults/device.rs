//! A node of the simulation: the real state machine, and around it what a device keeps and loses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use exeunt_protocol::message::{BlobRef, Contribution, DesiredPolicy, DesiredQuery, DesiredRun};
use exeunt_protocol::node::Node;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::Digest;

use super::samples::{Holding, ROOM};
use super::scenario::{Change, Millis, NodePlan};

/// First wait before connecting again; doubled up to [`LONGEST_WAIT`].
const FIRST_WAIT: Millis = 500;
const LONGEST_WAIT: Millis = 30_000;

/// A device: what survives its crashes, and the process, if it runs.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) id: NodeId,
    pub(crate) plan: NodePlan,
    pub(crate) joined: bool,
    /// The coordinator has shut it out; its process has ended for good.
    pub(crate) shut_out: bool,
    pub(crate) edition: Edition,
    /// Blobs in its cache.
    pub(crate) cache: BTreeMap<Digest, Arc<[u8]>>,
    /// The policy that applications on it infer with.
    pub(crate) policy: Option<(RunId, DesiredPolicy)>,
    /// What becomes of its data when it dies in its next delivery.
    pub(crate) relapse: Option<Change>,
    /// How often it has started: what belongs to an earlier life reaches nobody.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
}

/// What it answers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Edition {
    pub(crate) version: u64,
    pub(crate) samples: usize,
}

/// What is gone with a crash.
#[derive(Debug, Default)]
pub(crate) struct Process {
    pub(crate) machine: Node,
    /// The connection, from the first word sent on it.
    pub(crate) connection: Option<u64>,
    /// Counts attempts, so that an old one does not end a new one.
    pub(crate) attempt: u64,
    pub(crate) wait: Millis,
    /// Fetches and deliveries that wait for an answer, by the number of their stream.
    pub(crate) streams: BTreeMap<u64, Stream>,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) computing: bool,
    /// Packed tables until they are acknowledged.
    pub(crate) answers: BTreeMap<(RunId, QueryId), Arc<[u8]>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Stream {
    Fetch(BlobRef),
    Deliver(Contribution),
}

/// A query in the worker's hands.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) run: DesiredRun,
    pub(crate) query: DesiredQuery,
    pub(crate) cancelled: bool,
}

impl Device {
    pub(crate) fn new(number: usize, plan: NodePlan) -> Self {
        let mut id = [0; 16];
        id[0] = u8::try_from(number + 1).unwrap_or(u8::MAX);
        Self {
            id: NodeId::from_bytes(id),
            plan,
            joined: false,
            shut_out: false,
            edition: Edition { version: 1, samples: plan.samples },
            cache: BTreeMap::new(),
            policy: None,
            relapse: None,
            life: 0,
            process: None,
        }
    }

    /// The place of a node in the fleet.
    pub(crate) fn place(id: NodeId) -> usize {
        usize::from(id.as_bytes()[0]).saturating_sub(1)
    }

    pub(crate) fn start(&mut self) {
        self.life += 1;
        let machine = Node::new(self.cache.keys().copied());
        self.process = Some(Process { machine, wait: FIRST_WAIT, ..Process::default() });
    }

    pub(crate) fn holding(&self) -> Holding {
        Holding {
            node: Self::place(self.id),
            samples: self.edition.samples,
            needs_wider: self.plan.needs_wider,
            shy: self.plan.shy,
        }
    }

    pub(crate) fn dataset(&self) -> DatasetVersion {
        DatasetVersion(self.edition.version)
    }

    pub(crate) fn change(&mut self, change: Change) {
        match change {
            Change::Grow | Change::GrowSilently if self.edition.samples == ROOM => {}
            Change::Grow => {
                self.edition =
                    Edition { version: self.edition.version + 1, samples: self.edition.samples + 1 };
            }
            Change::GrowSilently => self.edition.samples += 1,
            Change::RollBack => self.edition = Edition { version: 1, samples: self.plan.samples },
        }
    }
}

impl Process {
    /// How long to wait before the next attempt to connect.
    pub(crate) fn back_off(&mut self) -> Millis {
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST_WAIT);
        wait
    }

    /// The connection stands.
    pub(crate) fn welcomed(&mut self) {
        self.wait = FIRST_WAIT;
    }
}
