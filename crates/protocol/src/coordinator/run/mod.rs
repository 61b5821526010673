//! One run at the coordinator: which query is open, who has answered, when it closes, what comes next.

mod history;
mod policies;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{Program, ProgramError, Query, RunContext};
use exeunt_stats::{Digest, Table};
use serde::{Deserialize, Serialize};

pub use history::{AskedBefore, Removal, RunHistory, SealedQuery};
pub use policies::{PolicyRecord, Purpose, Target};

use super::{Now, Output};
use crate::ids::{DatasetVersion, NodeId, QueryId, RunId};
use crate::message::{Activity, BlobRef, DesiredPolicy, DesiredQuery, DesiredRun, Refusal, Rejection};

/// How long a query for times waits at most: nothing is built on its answer, and whatever is asked next waits behind
/// it.
const TIMINGS_DEADLINE: Duration = Duration::from_secs(60);

/// What the coordinator must know of a run beside its program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOptions {
    /// The specification nodes receive.
    pub spec: BlobRef,
    /// The network.
    pub network: BlobRef,
    /// A query closes with at least this many tables.
    pub quorum: u32,
    /// How long a query waits for nodes beyond the quorum.
    pub deadline: Duration,
    /// Means are published only over at least this many nodes.
    pub min_nodes: u32,
}

/// A query that is open or being sealed.
#[derive(Debug)]
pub(super) struct OpenQuery {
    pub(super) id: QueryId,
    pub(super) name: &'static str,
    pub(super) asked: Query,
    pub(super) wanted: DesiredQuery,
    pub(super) cells: usize,
    pub(super) opened: Duration,
    pub(super) stored: BTreeMap<NodeId, (DatasetVersion, BlobRef)>,
    pub(super) declined: BTreeMap<NodeId, Refusal>,
    /// Where nobody is asked: what is used again instead.
    pub(super) reused: Option<Reused>,
}

/// What an earlier query brought, as far as it still counts.
#[derive(Debug, Clone)]
pub(super) struct Reused {
    /// The query under which the tables are stored.
    pub(super) origin: QueryId,
    /// Whose are counted.
    pub(super) cohort: Vec<NodeId>,
    /// Who had declined, and why.
    pub(super) declined: Vec<(NodeId, String)>,
}

/// A query that was closed. What it asked is a blob, and not kept in memory: a run asks for a megabyte or two.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    /// Whether the store has a seal of it. One whose answers have no sum has none.
    sealed: bool,
    pub(super) id: QueryId,
    pub(super) name: &'static str,
    pub(super) cells: usize,
    pub(super) body: Digest,
    pub(super) withdrawn: bool,
    pub(super) cohort: Vec<NodeId>,
    pub(super) declined: Vec<(NodeId, String)>,
    /// The earlier query whose tables were counted.
    pub(super) reused: Option<QueryId>,
}

/// An answer that was not taken.
#[derive(Debug, Clone)]
pub(super) struct Turned {
    pub(super) query: QueryId,
    pub(super) reason: String,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for answers.
    Asking(OpenQuery),
    /// Waiting for the store to merge and seal.
    Sealing(OpenQuery),
    /// Every query is answered; a policy may be set.
    Ready,
    /// The program cannot go on.
    Failed { why: String },
    /// The operator ended it.
    Stopped,
}

#[derive(Debug)]
pub(super) struct RunState {
    pub(super) id: RunId,
    pub(super) options: RunOptions,
    pub(super) program: Program,
    pub(super) phase: Phase,
    pub(super) history: Vec<Closed>,
    /// What was asked before the last contribution was removed. It counts no more, but for what it is reused.
    pub(super) superseded: Vec<Closed>,
    pub(super) removed: Vec<Removal>,
    /// Nodes whose answers are not counted for now.
    pub(super) quarantined: BTreeSet<NodeId>,
    pub(super) activity: BTreeMap<NodeId, Activity>,
    pub(super) turned_away: BTreeMap<NodeId, Turned>,
    pub(super) policies: Vec<PolicyRecord>,
    /// How many of the policies of this generation have been handed to the program for measuring.
    pub(super) measured: usize,
    heads: Option<BlobRef>,
    /// The fleet's policy, and those of nodes that have their own.
    in_force: BTreeMap<Option<NodeId>, DesiredPolicy>,
    /// Whether policies from before the last removal have been chosen again.
    renewed: bool,
}

impl RunState {
    pub(super) fn new(id: RunId, context: RunContext, options: RunOptions) -> Self {
        Self {
            id,
            options,
            program: Program::new(context),
            phase: Phase::Ready,
            history: Vec::new(),
            superseded: Vec::new(),
            removed: Vec::new(),
            quarantined: BTreeSet::new(),
            activity: BTreeMap::new(),
            turned_away: BTreeMap::new(),
            policies: Vec::new(),
            measured: 0,
            heads: None,
            in_force: BTreeMap::new(),
            renewed: true,
        }
    }

    /// Contributions that have been removed so far. What is asked between two removals belongs together.
    pub(super) fn generation(&self) -> usize {
        self.removed.len()
    }

    /// The first query of this generation.
    pub(super) fn first_query(&self) -> QueryId {
        self.removed.last().map_or(QueryId(0), |removal| removal.first)
    }

    fn next_query(&self) -> QueryId {
        QueryId(self.first_query().0.saturating_add(u32::try_from(self.history.len()).unwrap_or(u32::MAX)))
    }

    /// Why a node is asked nothing here, if so.
    pub(super) fn removed_at(&self, node: NodeId) -> Option<&Removal> {
        self.removed.iter().find(|removal| removal.node == node)
    }

    /// Opens the program's next query, or rests.
    pub(super) fn open_next(&mut self, now: Now, outputs: &mut VecDeque<Output>) {
        self.measure_next_policy();
        self.publish_heads(outputs);
        self.phase = match self.program.query() {
            None => Phase::Ready,
            Some(query) => {
                let bytes: Arc<[u8]> = query.encode().into();
                let body = BlobRef::of(&bytes);
                let heads = query.heads().and(self.heads);
                let name = query.name();
                let cells = query.layout(self.program.context()).cells();
                let asked = query.clone();
                outputs.push_back(Output::PutBlob { blob: body, bytes });
                let id = self.next_query();
                let open = OpenQuery {
                    id,
                    name,
                    asked,
                    wanted: DesiredQuery { id, body, heads },
                    cells,
                    opened: now.monotonic,
                    stored: BTreeMap::new(),
                    declined: BTreeMap::new(),
                    reused: None,
                };
                match self.answered_before(&open) {
                    None => Phase::Asking(open),
                    Some((from, reused)) => {
                        outputs.push_back(Output::Reseal {
                            run: self.id.clone(),
                            query: id,
                            from,
                            body: body.digest,
                            cohort: reused.cohort.clone(),
                            declined: reused.declined.clone(),
                            cells,
                        });
                        Phase::Sealing(OpenQuery { reused: Some(reused), ..open })
                    }
                }
            }
        };
        outputs.push_back(Output::Publish);
        if matches!(self.phase, Phase::Ready) && self.renew_policies(now, outputs) {
            self.open_next(now, outputs);
        }
    }

    fn publish_heads(&mut self, outputs: &mut VecDeque<Output>) {
        let Some(heads) = self.program.heads() else { return };
        let bytes: Arc<[u8]> = heads.encode().into();
        let blob = BlobRef::of(&bytes);
        if self.heads != Some(blob) {
            self.heads = Some(blob);
            outputs.push_back(Output::PutBlob { blob, bytes });
        }
    }

    /// Closes the open query when nobody is left to wait for, or its deadline has passed with a quorum.
    pub(super) fn close_if_complete(
        &mut self,
        now: Now,
        members: impl Iterator<Item = NodeId>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Phase::Asking(open) = &self.phase else { return };
        let out_of_range = |(node, why): (&NodeId, &Refusal)| {
            matches!(why, Refusal::OutOfRange { .. }) && self.counts(*node)
        };
        let withdrawn = self.program.may_widen() && open.declined.iter().any(out_of_range);
        let mut asked = members.filter(|node| self.removed_at(*node).is_none()).peekable();
        let somebody = asked.peek().is_some();
        let all = asked.all(|node| open.stored.contains_key(&node) || open.declined.contains_key(&node));
        let late = now.monotonic >= self.closes(open);
        if !withdrawn && !(((somebody && all) || late) && self.has_quorum(open)) {
            return;
        }
        let mut left_out: BTreeSet<NodeId> =
            open.stored.keys().chain(open.declined.keys()).copied().collect();
        left_out.retain(|node| !self.counts(*node));
        let Phase::Asking(mut open) = std::mem::replace(&mut self.phase, Phase::Ready) else { return };
        open.stored.retain(|node, _| !left_out.contains(node));
        open.declined.retain(|node, _| !left_out.contains(node));
        let cohort =
            open.stored.iter().map(|(node, (version, table))| (*node, *version, table.digest)).collect();
        outputs.push_back(Output::Seal {
            run: self.id.clone(),
            query: open.id,
            body: open.wanted.body.digest,
            cohort: if withdrawn { Vec::new() } else { cohort },
            declined: open.declined.iter().map(|(node, why)| (*node, why.clone())).collect(),
            cells: (!withdrawn).then_some(open.cells),
        });
        self.phase = Phase::Sealing(open);
        outputs.push_back(Output::Publish);
    }

    /// Tables a query needs before it may close. Means are published only over `min_nodes`; times are welcome and not
    /// needed.
    pub(super) fn needed(&self, open: &OpenQuery) -> usize {
        let floor = match &open.asked {
            Query::Timings { .. } => return 0,
            Query::Moments { .. } => self.options.min_nodes,
            _ => 1,
        };
        // Whoever was taken out, or is quarantined, cannot be waited for.
        let excused = u32::try_from(self.removed.len() + self.quarantined.len()).unwrap_or(u32::MAX);
        self.options.quorum.saturating_sub(excused).max(floor).max(1) as usize
    }

    /// Whether what a node stored is counted.
    fn counts(&self, node: NodeId) -> bool {
        !self.quarantined.contains(&node) && self.removed_at(node).is_none()
    }

    fn has_quorum(&self, open: &OpenQuery) -> bool {
        open.stored.keys().filter(|node| self.counts(**node)).count() >= self.needed(open)
    }

    /// When a query closes with the answers it needs, on the monotonic clock.
    pub(super) fn closes(&self, open: &OpenQuery) -> Duration {
        let patience = match &open.asked {
            Query::Timings { .. } => self.options.deadline.min(TIMINGS_DEADLINE),
            _ => self.options.deadline,
        };
        open.opened.saturating_add(patience)
    }

    /// A seal is stored: the program goes on.
    pub(super) fn sealed(
        &mut self,
        now: Now,
        query: QueryId,
        merged: Option<&Table>,
        outputs: &mut VecDeque<Output>,
    ) {
        let Phase::Sealing(open) = &self.phase else { return };
        if open.id != query {
            return;
        }
        self.history.push(Closed {
            sealed: true,
            id: open.id,
            name: open.name,
            cells: open.cells,
            body: open.wanted.body.digest,
            withdrawn: merged.is_none(),
            cohort: match (&open.reused, merged) {
                (Some(reused), _) => reused.cohort.clone(),
                (None, Some(_)) => open.stored.keys().copied().collect(),
                (None, None) => Vec::new(),
            },
            declined: match &open.reused {
                Some(reused) => reused.declined.clone(),
                None => open.declined.iter().map(|(node, why)| (*node, why.to_string())).collect(),
            },
            reused: open.reused.as_ref().map(|reused| reused.origin),
        });
        match self.advance(merged) {
            Ok(()) => self.open_next(now, outputs),
            Err(error) => self.fail(error.to_string(), outputs),
        }
    }

    /// The tables of a query do not add up. It is noted with its cohort, so that a contribution can be removed, and as
    /// withdrawn, so that nothing is used again of what has no sum.
    pub(super) fn not_sealed(&mut self, query: QueryId, why: String, outputs: &mut VecDeque<Output>) {
        let Phase::Sealing(open) = &self.phase else { return };
        if open.id != query {
            return;
        }
        self.history.push(Closed {
            sealed: false,
            id: open.id,
            name: open.name,
            cells: open.cells,
            body: open.wanted.body.digest,
            withdrawn: true,
            cohort: match &open.reused {
                Some(reused) => reused.cohort.clone(),
                None => open.stored.keys().copied().collect(),
            },
            declined: open.declined.iter().map(|(node, why)| (*node, why.to_string())).collect(),
            reused: None,
        });
        self.fail(why, outputs);
    }

    fn advance(&mut self, merged: Option<&Table>) -> Result<(), ProgramError> {
        match merged {
            Some(table) => self.program.absorb(table),
            None => self.program.widen(),
        }
    }

    /// Ends with what there is: a snapshot that was made is not lost.
    fn fail(&mut self, why: String, outputs: &mut VecDeque<Output>) {
        self.publish_heads(outputs);
        outputs.push_back(Output::Audit {
            run: Some(self.id.clone()),
            node: None,
            text: format!("run failed: {why}"),
        });
        outputs.push_back(Output::Publish);
        self.phase = Phase::Failed { why };
    }

    pub(super) fn stop(&mut self) {
        self.phase = Phase::Stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(self.phase, Phase::Stopped)
    }

    /// What is wanted of `node`; a query only while its answer is missing.
    pub(super) fn desired(&self, node: NodeId) -> Option<DesiredRun> {
        if self.is_stopped() {
            return None;
        }
        let query = match &self.phase {
            Phase::Asking(open)
                if !open.stored.contains_key(&node)
                    && !open.declined.contains_key(&node)
                    && self.removed_at(node).is_none() =>
            {
                Some(open.wanted.clone())
            }
            _ => None,
        };
        let policy = self.in_force.get(&Some(node)).or_else(|| self.in_force.get(&None));
        Some(DesiredRun {
            run: self.id.clone(),
            spec: self.options.spec,
            network: self.options.network,
            query,
            policy: policy.cloned(),
        })
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Asking(open) if self.has_quorum(open) => Some(self.closes(open)),
            _ => None,
        }
    }

    pub(super) fn open_query(&self) -> Option<&OpenQuery> {
        match &self.phase {
            Phase::Asking(open) | Phase::Sealing(open) => Some(open),
            _ => None,
        }
    }

    pub(super) fn is_open(&self, query: QueryId) -> bool {
        matches!(&self.phase, Phase::Asking(open) if open.id == query)
    }

    /// Cells of a query that is open or was.
    pub(super) fn cells(&self, query: QueryId) -> Option<usize> {
        match self.open_query() {
            Some(open) if open.id == query => Some(open.cells),
            _ => self
                .history
                .iter()
                .find(|closed| closed.id == query && !closed.withdrawn)
                .map(|closed| closed.cells),
        }
    }

    pub(super) fn stored(&mut self, node: NodeId, version: DatasetVersion, table: BlobRef) {
        if let Phase::Asking(open) = &mut self.phase {
            open.declined.remove(&node);
            open.stored.insert(node, (version, table));
            self.turned_away.remove(&node);
        }
    }

    pub(super) fn turned_away(&mut self, node: NodeId, query: QueryId, rejection: &Rejection) {
        self.turned_away.insert(node, Turned { query, reason: rejection.to_string() });
    }

    /// Notes a refusal. True when it is the node's first word on the open query: what it says after that replaces the
    /// reason, and is not worth a line of the log each time.
    pub(super) fn decline(&mut self, node: NodeId, query: QueryId, refusal: Refusal) -> bool {
        match &mut self.phase {
            Phase::Asking(open) if open.id == query && !open.stored.contains_key(&node) => {
                open.declined.insert(node, refusal).is_none()
            }
            _ => false,
        }
    }

    pub(super) fn report(&mut self, node: NodeId, activity: Activity) {
        self.activity.insert(node, activity);
    }

    pub(super) fn forget_activity(&mut self, node: NodeId) {
        self.activity.remove(&node);
    }

    /// Digest over every merged table so far is kept by the store; this names the snapshot in force.
    pub(super) fn snapshot(&self) -> Option<Digest> {
        self.heads.map(|blob| blob.digest)
    }
}
