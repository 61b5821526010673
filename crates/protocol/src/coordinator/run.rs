//! One run at the coordinator: which query is open, who has answered, when it closes, what comes next.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{ChooseError, Part, Policy, PolicyRequest, Program, ProgramError, Query, RunContext};
use exeunt_stats::{Digest, Table};
use serde::{Deserialize, Serialize};

use super::{AskedBefore, Now, Output, RunError, RunHistory, SealedQuery};
use crate::ids::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
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
    /// The node it was set for alone; none where it is the fleet's.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Whether it was set for one node and taken back.
    #[serde(default)]
    pub cleared: bool,
    /// The wish it came from, so that it can be chosen again with another snapshot.
    #[serde(default)]
    pub wish: Option<PolicyRequest>,
    /// The snapshot it decides with.
    #[serde(default)]
    pub heads: Option<BlobRef>,
    /// How many contributions had been removed from the run when it was chosen.
    #[serde(default)]
    pub generation: usize,
}

/// A node whose contribution was taken out of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// The node.
    pub node: NodeId,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The first query that was asked, or answered from what is stored, without it.
    pub first: QueryId,
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

/// For whom a policy is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// For every node that has none of its own.
    Fleet,
    /// For one node alone.
    Node(NodeId),
    /// For nobody: it is only tried. See [`Purpose::Trial`].
    Nobody,
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

    /// The query before the last removal that asked the same and was answered, and who is counted of those who did,
    /// if they are enough.
    fn answered_before(&self, open: &OpenQuery) -> Option<(QueryId, Reused)> {
        let same = |closed: &&Closed| closed.body == open.wanted.body.digest && !closed.withdrawn;
        let before = self.superseded.iter().rev().find(same)?;
        let remain = before.cohort.iter().copied().filter(|node| self.removed_at(*node).is_none());
        let cohort: Vec<NodeId> = remain.collect();
        let declined = before.declined.iter().filter(|(node, _)| self.removed_at(*node).is_none());
        let (origin, declined) = (before.reused.unwrap_or(before.id), declined.cloned().collect());
        let enough = cohort.len() >= self.needed(open);
        enough.then_some((before.id, Reused { origin, cohort, declined }))
    }

    /// Whenever the program rests, the oldest policy that was not measured yet is.
    fn measure_next_policy(&mut self) {
        let generation = self.generation();
        let mut of_this = self.policies.iter().filter(|record| record.generation == generation);
        if self.program.query().is_none()
            && let Some(record) = of_this.nth(self.measured)
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

    /// Goes through the history again. See [`super::Coordinator::restore_run`].
    pub(super) fn replay(
        &mut self,
        now: Now,
        history: RunHistory,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), ProgramError> {
        self.policies = history.policies;
        self.removed = history.removed;
        self.renewed = self.removed.is_empty();
        for before in history.superseded {
            let (name, cells) = (before.asked.name(), before.asked.layout(self.program.context()).cells());
            let AskedBefore { query, asked, withdrawn, cohort, declined, reused } = before;
            let body = Digest::of(&asked.encode());
            let closed =
                Closed { sealed: true, id: query, name, cells, body, withdrawn, cohort, declined, reused };
            self.superseded.push(closed);
        }
        let mut failed = None;
        for SealedQuery { query, merged, cohort, declined, reused } in history.seals {
            self.measure_next_policy();
            let Some(asked) = self.program.query().cloned() else { break };
            let (name, cells) = (asked.name(), asked.layout(self.program.context()).cells());
            let (body, withdrawn) = (Digest::of(&asked.encode()), merged.is_none());
            let closed =
                Closed { sealed: true, id: query, name, cells, body, withdrawn, cohort, declined, reused };
            self.history.push(closed);
            if let Err(error) = self.advance(merged.as_ref()) {
                failed = Some(error);
                break;
            }
        }
        self.publish_heads(outputs);
        for record in self.in_force_records() {
            self.put_in_force(&record, outputs);
        }
        match failed {
            Some(error) => self.fail(error.to_string(), outputs),
            None if history.stopped => {}
            None => self.open_next(now, outputs),
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
        target: Target,
        outputs: &mut VecDeque<Output>,
    ) -> Result<PolicyVersion, RunError> {
        if self.is_stopped() {
            return Err(RunError::Stopped { run: self.id.clone() });
        }
        let version = self.record_policy(now, request, target, outputs)?;
        if matches!(self.phase, Phase::Ready) {
            self.open_next(now, outputs);
        }
        outputs.push_back(Output::Publish);
        Ok(version)
    }

    fn record_policy(
        &mut self,
        now: Now,
        request: &PolicyRequest,
        target: Target,
        outputs: &mut VecDeque<Output>,
    ) -> Result<PolicyVersion, ChooseError> {
        let policy = self.program.choose(request)?;
        self.publish_heads(outputs);
        let version = PolicyVersion(self.policies.last().map_or(0, |last| last.version.0) + 1);
        let (purpose, node) = match target {
            Target::Fleet => (Purpose::Force, None),
            Target::Node(node) => (Purpose::Force, Some(node)),
            Target::Nobody => (Purpose::Trial, None),
        };
        let record = PolicyRecord {
            version,
            policy,
            asked: request.to_string(),
            set_at_ms: now.unix_ms,
            purpose,
            node,
            cleared: false,
            wish: Some(request.clone()),
            heads: self.heads,
            generation: self.generation(),
        };
        outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
        if purpose == Purpose::Force {
            self.put_in_force(&record, outputs);
        }
        self.policies.push(record);
        Ok(version)
    }

    /// Lets a node infer with the fleet's policy again. False when it has none of its own.
    pub(super) fn clear_policy(&mut self, node: NodeId, outputs: &mut VecDeque<Output>) -> bool {
        let own = |record: &&mut PolicyRecord| {
            record.purpose == Purpose::Force && record.node == Some(node) && !record.cleared
        };
        let mut found = false;
        for record in self.policies.iter_mut().filter(own) {
            found = true;
            record.cleared = true;
            outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
        }
        self.in_force.remove(&Some(node));
        if found {
            outputs.push_back(Output::Publish);
        }
        found
    }

    /// The policy of the fleet and those of nodes that have their own.
    fn in_force_records(&self) -> Vec<PolicyRecord> {
        let mut newest: BTreeMap<Option<NodeId>, &PolicyRecord> = BTreeMap::new();
        for record in
            self.policies.iter().filter(|record| record.purpose == Purpose::Force && !record.cleared)
        {
            newest.insert(record.node, record);
        }
        newest.into_values().cloned().collect()
    }

    /// The policy that a node is to infer with: its own, or else the fleet's.
    pub(super) fn record_in_force(&self, node: NodeId) -> Option<&PolicyRecord> {
        let forced = |record: &&PolicyRecord| record.purpose == Purpose::Force && !record.cleared;
        let of = |node: Option<NodeId>| self.policies.iter().filter(forced).rfind(|r| r.node == node);
        of(Some(node)).or_else(|| of(None))
    }

    /// When the policy of a node was put in force, in milliseconds since 1970.
    pub(super) fn forced_at(&self, node: NodeId) -> Option<u64> {
        self.record_in_force(node).map(|record| record.set_at_ms)
    }

    fn put_in_force(&mut self, record: &PolicyRecord, outputs: &mut VecDeque<Output>) {
        let heads = record.heads.or(self.heads);
        let (Some(heads), Ok(json)) = (heads, serde_json::to_vec(&record.policy)) else { return };
        let bytes: Arc<[u8]> = json.into();
        let body = BlobRef::of(&bytes);
        outputs.push_back(Output::PutBlob { blob: body, bytes });
        self.in_force.insert(record.node, DesiredPolicy { version: record.version, body, heads });
    }

    /// Chooses the policies in force anew with the snapshot that lacks what was removed, by the wishes they came from.
    /// Until then nodes keep those they have. Whether there is something new to measure.
    fn renew_policies(&mut self, now: Now, outputs: &mut VecDeque<Output>) -> bool {
        if std::mem::replace(&mut self.renewed, true) {
            return false;
        }
        let generation = self.generation();
        let mut any = false;
        for old in self.in_force_records().into_iter().filter(|record| record.generation < generation) {
            let request = old.wish.clone().unwrap_or_else(|| PolicyRequest::Thresholds(old.policy.clone()));
            let target = old.node.map_or(Target::Fleet, Target::Node);
            let text = match self.record_policy(now, &request, target, outputs) {
                Ok(version) => {
                    any = true;
                    format!("policy {} takes the place of {} with the new snapshot", version.0, old.version.0)
                }
                Err(error) => format!("policy {} stays with the old snapshot: {error}", old.version.0),
            };
            outputs.push_back(Output::Audit { run: Some(self.id.clone()), node: old.node, text });
        }
        any
    }

    /// Takes everything a node gave out of the run: begins the program anew, with what is stored of the others as far
    /// as the same is asked.
    ///
    /// # Errors
    /// [`RunError::Stopped`], [`RunError::NoContribution`].
    pub(super) fn remove(
        &mut self,
        now: Now,
        node: NodeId,
        outputs: &mut VecDeque<Output>,
    ) -> Result<(), RunError> {
        if self.is_stopped() {
            return Err(RunError::Stopped { run: self.id.clone() });
        }
        let counted = self.history.iter().any(|closed| closed.cohort.contains(&node));
        let stored = self.open_query().is_some_and(|open| open.stored.contains_key(&node));
        if self.removed_at(node).is_some() || !(counted || stored) {
            return Err(RunError::NoContribution { run: self.id.clone(), node });
        }
        // Policies that were set before snapshots were noted with them decide with the one that is there now.
        for record in &mut self.policies {
            if record.purpose == Purpose::Force && record.heads.is_none() && self.heads.is_some() {
                record.heads = self.heads;
                outputs.push_back(Output::SavePolicy { run: self.id.clone(), record: record.clone() });
            }
        }
        let open = u32::from(self.open_query().is_some());
        let removal =
            Removal { node, at_ms: now.unix_ms, first: QueryId(self.next_query().0.saturating_add(open)) };
        self.removed.push(removal);
        outputs.push_back(Output::SaveRemoval { run: self.id.clone(), removal });
        // A restart knows nothing of what has no seal.
        self.superseded.extend(self.history.drain(..).filter(|closed| closed.sealed));
        self.program = Program::new(self.program.context().clone());
        self.turned_away.clear();
        (self.measured, self.heads, self.renewed) = (0, None, false);
        self.open_next(now, outputs);
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.phase = Phase::Stopped;
    }

    /// A run that was stopped, with no more of it than decides anything yet: which policy was set last. The rest is in the
    /// store.
    pub(super) fn resting(
        id: RunId,
        context: RunContext,
        options: RunOptions,
        policies: Vec<PolicyRecord>,
        removed: Vec<Removal>,
    ) -> Self {
        Self { phase: Phase::Stopped, policies, removed, ..Self::new(id, context, options) }
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
