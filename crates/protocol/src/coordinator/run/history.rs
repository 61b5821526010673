//! A run from what is stored of it: rebuilt after a restart, and begun anew without what was removed.

use std::collections::VecDeque;

use exeunt_exits::{Program, Query, RunContext};
use exeunt_stats::{Digest, Table};
use serde::{Deserialize, Serialize};

use super::policies::{PolicyRecord, Purpose};
use super::{Closed, OpenQuery, Reused, RunState};
use crate::coordinator::{Now, Output, RunError};
use crate::ids::{NodeId, QueryId};

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

/// What the store knows of a run that is being rebuilt.
#[derive(Debug, Default)]
pub struct RunHistory {
    /// Whether it was stopped.
    pub stopped: bool,
    /// Every seal since the last contribution was removed, in order.
    pub seals: Vec<SealedQuery>,
    /// Every policy, in order of its version.
    pub policies: Vec<PolicyRecord>,
    /// Contributions that were removed, in that order.
    pub removed: Vec<Removal>,
    /// What was asked before the last of them, in order.
    pub superseded: Vec<AskedBefore>,
}

/// A query that was closed before a contribution was removed.
#[derive(Debug)]
pub struct AskedBefore {
    /// Which.
    pub query: QueryId,
    /// What was asked.
    pub asked: Query,
    /// Whether it was withdrawn for a wider scale.
    pub withdrawn: bool,
    /// Nodes whose tables were counted.
    pub cohort: Vec<NodeId>,
    /// Nodes that declined, with the reason's text.
    pub declined: Vec<(NodeId, String)>,
    /// The still earlier query whose tables were counted.
    pub reused: Option<QueryId>,
}

/// A query that was closed for good.
#[derive(Debug)]
pub struct SealedQuery {
    /// Which.
    pub query: QueryId,
    /// The merged table; none where it was withdrawn for a wider scale.
    pub merged: Option<Table>,
    /// Nodes whose tables were counted.
    pub cohort: Vec<NodeId>,
    /// Nodes that declined, with the reason's text.
    pub declined: Vec<(NodeId, String)>,
    /// The earlier query whose tables were counted.
    pub reused: Option<QueryId>,
}

impl RunState {
    /// The query before the last removal that asked the same and was answered, and who is counted of those who did,
    /// if they are enough.
    pub(super) fn answered_before(&self, open: &OpenQuery) -> Option<(QueryId, Reused)> {
        let same = |closed: &&Closed| closed.body == open.wanted.body.digest && !closed.withdrawn;
        let before = self.superseded.iter().rev().find(same)?;
        let remain = before.cohort.iter().copied().filter(|node| self.removed_at(*node).is_none());
        let cohort: Vec<NodeId> = remain.collect();
        let declined = before.declined.iter().filter(|(node, _)| self.removed_at(*node).is_none());
        let (origin, declined) = (before.reused.unwrap_or(before.id), declined.cloned().collect());
        let enough = cohort.len() >= self.needed(open);
        enough.then_some((before.id, Reused { origin, cohort, declined }))
    }

    /// Goes through the history again. See [`crate::coordinator::Coordinator::restore_run`].
    pub(in crate::coordinator) fn replay(
        &mut self,
        now: Now,
        history: RunHistory,
        outputs: &mut VecDeque<Output>,
    ) {
        self.policies = history.policies;
        self.removed = history.removed;
        self.renewed = self.removed.is_empty();
        for before in history.superseded {
            self.superseded.push(stored(before, self.program.context()));
        }
        let mut failed = None;
        for SealedQuery { query, merged, cohort, declined, reused } in history.seals {
            self.measure_next_policy();
            let Some(asked) = self.program.query().cloned() else { break };
            let withdrawn = merged.is_none();
            let before = AskedBefore { query, asked, withdrawn, cohort, declined, reused };
            self.history.push(stored(before, self.program.context()));
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
    }

    /// Takes everything a node gave out of the run: begins the program anew, with what is stored of the others as far
    /// as the same is asked.
    ///
    /// # Errors
    /// [`RunError::Stopped`], [`RunError::NoContribution`].
    pub(in crate::coordinator) fn remove(
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
}

/// A query whose seal is in the store.
fn stored(before: AskedBefore, context: &RunContext) -> Closed {
    let AskedBefore { query, asked, withdrawn, cohort, declined, reused } = before;
    Closed {
        sealed: true,
        id: query,
        name: asked.name(),
        cells: asked.layout(context).cells(),
        body: Digest::of(&asked.encode()),
        withdrawn,
        cohort,
        declined,
        reused,
    }
}
