//! One run at the coordinator: which query is open, who has answered, when it closes, what comes next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{Part, Policy, PolicyRequest, Program, ProgramError, Query, RunContext};
use exeunt_stats::{Digest, Table};
use serde::{Deserialize, Serialize};

use super::{Now, Output, RunError, RunHistory, SealedQuery};
use crate::ids::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use crate::message::{Activity, BlobRef, DesiredPolicy, DesiredQuery, DesiredRun, Refusal};

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

/// A policy that was put in force, or only tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// Its version.
    pub version: PolicyVersion,
    /// The policy.
    pub policy: Policy,
    /// The wish it came from, for people.
    pub asked: String,
    /// When, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// Whether it was only to be measured.
    #[serde(default)]
    pub purpose: Purpose,
}

/// What a policy was recorded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It was put in force, and is measured on the evaluation part.
    #[default]
    Force,
    /// It was tried: measured on the calibration part, and never sent to a node to infer with. Choosing among drafts on
    /// the evaluation part would spoil the figures that are read there.
    Trial,
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
}

/// A query that was closed.
#[derive(Debug, Clone)]
pub(super) struct Closed {
    pub(super) id: QueryId,
    pub(super) name: &'static str,
    pub(super) asked: Query,
    pub(super) cells: usize,
    pub(super) withdrawn: bool,
    pub(super) cohort: Vec<NodeId>,
    pub(super) declined: Vec<(NodeId, String)>,
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
    pub(super) activity: BTreeMap<NodeId, Activity>,
    pub(super) policies: Vec<PolicyRecord>,
    /// How many of `policies` have been handed to the program for measuring.
    pub(super) measured: usize,
    heads: Option<BlobRef>,
    in_force: Option<DesiredPolicy>,
}

impl RunState {
    pub(super) fn new(id: RunId, context: RunContext, options: RunOptions) -> Self {
        Self {
            id,
            options,
            program: Program::new(context),
            phase: Phase::Ready,
            history: Vec::new(),
            activity: BTreeMap::new(),
            policies: Vec::new(),
            measured: 0,
            heads: None,
            in_force: None,
        }
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
                let id = QueryId(u32::try_from(self.history.len()).unwrap_or(u32::MAX));
                Phase::Asking(OpenQuery {
                    id,
                    name,
                    asked,
                    wanted: DesiredQuery { id, body, heads },
                    cells,
                    opened: now.monotonic,
                    stored: BTreeMap::new(),
                    declined: BTreeMap::new(),
                })
            }
        };
        outputs.push_back(Output::Publish);
    }

    /// Whenever the program rests, the oldest policy that was not measured yet is.
    fn measure_next_policy(&mut self) {
        if self.program.query().is_none()
            && let Some(record) = self.policies.get(self.measured)
        {
            let part = match record.purpose {
                Purpose::Force => Part::Evaluation,
                Purpose::Trial => Part::Calibration,
            };
            self.program.preview(part, vec![record.policy.clone()]);
            self.measured += 1;
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
        let withdrawn = self.program.may_widen()
            && open.declined.values().any(|why| matches!(why, Refusal::OutOfRange { .. }));
        let mut members = members.peekable();
        let somebody = members.peek().is_some();
        let all = members.all(|node| open.stored.contains_key(&node) || open.declined.contains_key(&node));
        let quorum = open.stored.len() >= self.needed(open);
        let late = now.monotonic >= self.closes(open);
        if !withdrawn && !(quorum && ((somebody && all) || late)) {
            return;
        }
        let Phase::Asking(open) = std::mem::replace(&mut self.phase, Phase::Ready) else { return };
        let cohort =
            open.stored.iter().map(|(node, (version, table))| (*node, *version, table.digest)).collect();
        outputs.push_back(Output::Seal {
            run: self.id.clone(),
            query: open.id,
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
        self.options.quorum.max(floor).max(1) as usize
    }

    /// When a query closes with the answers it needs, on the monotonic clock.
    pub(super) fn closes(&self, open: &OpenQuery) -> Duration {
        let patience = match &open.asked {
            Query::Timings { .. } => self.options.deadline.min(TIMINGS_DEADLINE),
            _ => self.options.deadline,
        };
        open.opened.saturating_add(patience)
    }

    /// A seal is durable: the program goes on.
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
            id: open.id,
            name: open.name,
            asked: open.asked.clone(),
            cells: open.cells,
            withdrawn: merged.is_none(),
            cohort: if merged.is_some() { open.stored.keys().copied().collect() } else { Vec::new() },
            declined: open.declined.iter().map(|(node, why)| (*node, why.to_string())).collect(),
        });
        match self.advance(merged) {
            Ok(()) => self.open_next(now, outputs),
            Err(error) => self.fail(&error, outputs),
        }
    }

    fn advance(&mut self, merged: Option<&Table>) -> Result<(), ProgramError> {
        match merged {
            Some(table) => self.program.absorb(table),
            None => self.program.widen(),
        }
    }

    fn fail(&mut self, error: &ProgramError, outputs: &mut VecDeque<Output>) {
        let why = error.to_string();
        outputs.push_back(Output::Audit {
            run: Some(self.id.clone()),
            node: None,
            text: format!("run failed: {why}"),
        });
        outputs.push_back(Output::Publish);
        self.phase = Phase::Failed { why };
    }

    /// Goes through the history again. See [`super::Coordinator::restore_run`].
    pub(super) fn replay(
        &mut self,
        now: Now,
        history: RunHistory,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), ProgramError> {
        self.policies = history.policies;
        let mut failed = None;
        for SealedQuery { query, merged, cohort, declined } in history.seals {
            self.measure_next_policy();
            let Some(asked) = self.program.query().cloned() else { break };
            let (name, cells) = (asked.name(), asked.layout(self.program.context()).cells());
            let withdrawn = merged.is_none();
            self.history.push(Closed { id: query, name, asked, cells, withdrawn, cohort, declined });
            if let Err(error) = self.advance(merged.as_ref()) {
                failed = Some(error);
                break;
            }
        }
        match failed {
            Some(error) => self.fail(&error, outputs),
            None => self.open_next(now, outputs),
        }
        if let Some(record) = self.policies.iter().rfind(|record| record.purpose == Purpose::Force).cloned() {
            self.put_in_force(&record, outputs);
        }
        if history.stopped {
            self.stop();
        }
        Ok(())
    }

    pub(super) fn set_policy(
        &mut self,
        now: Now,
        request: &PolicyRequest,
        purpose: Purpose,
        outputs: &mut VecDeque<Output>,
    ) -> Result<PolicyVersion, RunError> {
        if self.is_stopped() {
            return Err(RunError::Stopped { run: self.id.clone() });
        }
        let policy = self.program.choose(request)?;
        let version = PolicyVersion(self.policies.last().map_or(0, |last| last.version.0) + 1);
        let record =
            PolicyRecord { version, policy, asked: request.to_string(), set_at_ms: now.unix_ms, purpose };
        outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
        if purpose == Purpose::Force {
            self.put_in_force(&record, outputs);
        }
        self.policies.push(record);
        if matches!(self.phase, Phase::Ready) {
            self.open_next(now, outputs);
        }
        outputs.push_back(Output::Publish);
        Ok(version)
    }

    /// When a policy was last put in force, in milliseconds since 1970.
    pub(super) fn forced_at(&self) -> Option<u64> {
        let forced = self.policies.iter().rev().find(|record| record.purpose == Purpose::Force);
        forced.map(|record| record.set_at_ms)
    }

    fn put_in_force(&mut self, record: &PolicyRecord, outputs: &mut VecDeque<Output>) {
        self.publish_heads(outputs);
        let (Some(heads), Ok(json)) = (self.heads, serde_json::to_vec(&record.policy)) else { return };
        let bytes: Arc<[u8]> = json.into();
        let body = BlobRef::of(&bytes);
        outputs.push_back(Output::PutBlob { blob: body, bytes });
        self.in_force = Some(DesiredPolicy { version: record.version, body, heads });
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
            Phase::Asking(open) if !open.stored.contains_key(&node) && !open.declined.contains_key(&node) => {
                Some(open.wanted.clone())
            }
            _ => None,
        };
        Some(DesiredRun {
            run: self.id.clone(),
            spec: self.options.spec,
            network: self.options.network,
            query,
            policy: self.in_force.clone(),
        })
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Asking(open) if open.stored.len() >= self.needed(open) => Some(self.closes(open)),
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
        }
    }

    /// Notes a refusal; false when the query is not open or the node has already answered it.
    pub(super) fn decline(&mut self, node: NodeId, query: QueryId, refusal: Refusal) -> bool {
        match &mut self.phase {
            Phase::Asking(open) if open.id == query && !open.stored.contains_key(&node) => {
                open.declined.insert(node, refusal.clone()) != Some(refusal)
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
