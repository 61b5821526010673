//! What a coordinator's shell keeps and does: blobs, contributions, seals, policies, removals.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use exeunt_exits::Query;
use exeunt_protocol::coordinator::{
    AskedBefore, Coordinator, Input, Now, Output, PolicyRecord, Removal, RunHistory, RunOptions, SealedQuery,
    Standing, Stored, Ticket,
};
use exeunt_protocol::message::{Ack, Contribution, Membership, Rejection};
use exeunt_protocol::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, Table, packed};

use super::is_over;
use crate::honest;

/// Why a query is not sealed.
const NO_SUM: &str = "a cell overflows";

/// What is kept of a query that was closed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seal {
    body: Digest,
    cohort: Vec<(NodeId, Digest)>,
    declined: Vec<(NodeId, String)>,
    merged: Option<Table>,
    reused: Option<QueryId>,
}

/// The store, and what must hold of what goes into it.
#[derive(Debug, Default)]
pub(super) struct Shop {
    pub(super) enrolled: BTreeMap<NodeId, Membership>,
    pub(super) revoked: BTreeSet<NodeId>,
    /// Nodes that once did not take part: whether they are counted depends on when.
    pub(super) troubled: BTreeSet<NodeId>,
    pub(super) runs: BTreeMap<RunId, RunOptions>,
    pub(super) stopped: BTreeSet<RunId>,
    pub(super) blobs: BTreeMap<Digest, Arc<[u8]>>,
    pub(super) tables: BTreeMap<Digest, Vec<u8>>,
    /// Contributions that arrived and were not answered.
    pub(super) waiting: BTreeMap<Ticket, (NodeId, Contribution)>,
    kept: BTreeMap<(RunId, QueryId, NodeId), (DatasetVersion, Contribution)>,
    /// Kept while their query was open.
    in_time: BTreeSet<(RunId, QueryId, NodeId)>,
    seals: BTreeMap<(RunId, QueryId), Seal>,
    policies: BTreeMap<(RunId, PolicyVersion), PolicyRecord>,
    removals: BTreeMap<RunId, Vec<Removal>>,
    over: BTreeSet<RunId>,
}

impl Shop {
    /// Performs everything the machine says, in order, until it says nothing more.
    pub(super) fn work(&mut self, machine: &mut Coordinator, now: Now) {
        loop {
            let mut staged = Vec::new();
            while let Some(output) = machine.poll_output() {
                self.perform(machine, now, output, &mut staged);
            }
            if staged.is_empty() {
                return;
            }
            let committed = staged.into_iter().map(|(node, contribution, ticket)| {
                let stored = self.put(machine, now, node, &contribution);
                Input::Committed { node, contribution, ticket, stored }
            });
            let committed: Vec<Input> = committed.collect();
            machine.handle_all(now, committed);
        }
    }

    fn perform(
        &mut self,
        machine: &mut Coordinator,
        now: Now,
        output: Output,
        staged: &mut Vec<(NodeId, Contribution, Ticket)>,
    ) {
        match output {
            Output::PutBlob { blob, bytes } => {
                assert_eq!((blob.digest, blob.bytes), (Digest::of(&bytes), bytes.len() as u64));
                self.blobs.insert(blob.digest, bytes);
            }
            Output::Commit { node, contribution, ticket } => {
                assert_eq!(self.waiting.get(&ticket), Some(&(node, contribution.clone())));
                staged.push((node, contribution, ticket));
            }
            Output::Acknowledge { ticket, ack } => self.acknowledge(ticket, &ack),
            Output::Seal { run, query, body, cohort, declined, cells } => {
                let merged = cells.map(|cells| self.merged(&run, query, &cohort, cells));
                if merged.is_some() {
                    self.check_nobody_is_lost(&run, query, &cohort);
                }
                let (merged, failed) = match merged {
                    Some(None) => (None, true),
                    Some(merged) => (merged, false),
                    None => (None, false),
                };
                if failed {
                    let why = NO_SUM.to_owned();
                    machine.handle(now, Input::NotSealed { run, query, why });
                    return;
                }
                let declined: Vec<_> =
                    declined.into_iter().map(|(node, why)| (node, why.to_string())).collect();
                let cohort = cohort.into_iter().map(|(node, _, table)| (node, table)).collect();
                let seal = Seal { body, cohort, declined, merged: merged.clone(), reused: None };
                self.seal(&run, query, seal);
                machine.handle(now, Input::Sealed { run, query, merged });
            }
            Output::Reseal { run, query, from, body, cohort, declined, cells } => {
                let before =
                    self.seals.get(&(run.clone(), from)).expect("what is used again was sealed").clone();
                assert_eq!(before.body, body, "another question was asked");
                let mut merged = before.merged.expect("what is used again was merged");
                assert_eq!(merged.len(), cells);
                let (stay, gone): (Vec<_>, Vec<_>) =
                    before.cohort.into_iter().partition(|(node, _)| cohort.contains(node));
                for (_, table) in gone {
                    merged.subtract(&self.table(table, cells)).expect("it was added before");
                }
                let reused = Some(before.reused.unwrap_or(from));
                let seal = Seal { body, cohort: stay, declined, merged: Some(merged.clone()), reused };
                assert_eq!(seal.cohort.len(), cohort.len());
                self.seal(&run, query, seal);
                machine.handle(now, Input::Sealed { run, query, merged: Some(merged) });
            }
            Output::SavePolicy { run, record } => {
                let json = serde_json::to_vec(&record).expect("a policy can be written");
                assert_eq!(serde_json::from_slice::<PolicyRecord>(&json).expect("and read"), record);
                self.policies.insert((run, record.version), record);
            }
            Output::SaveRemoval { run, removal } => self.removals.entry(run).or_default().push(removal),
            Output::Publish | Output::PublishTo { .. } => {}
            Output::Audit { text, .. } => assert!(!text.is_empty()),
        }
    }

    /// What a store says: the first answer of an edition stays, a newer edition takes its place.
    fn put(&mut self, machine: &Coordinator, now: Now, node: NodeId, contribution: &Contribution) -> Stored {
        let Contribution { run, query, dataset, table } = contribution;
        let key = (run.clone(), *query, node);
        if let Some((version, kept)) = self.kept.get(&key) {
            let (found, expected) = (table.digest, kept.table.digest);
            if dataset == version && found != expected {
                return Stored::Refused(Rejection::ContributionConflict { found, expected });
            }
            if dataset < version {
                return Stored::Refused(Rejection::Stale { found: dataset.0, expected: version.0 });
            }
        }
        let standing = machine.run_status(now, run).map(|status| status.standing);
        if matches!(standing, Ok(Standing::Asking { query: open, .. }) if open == *query) {
            self.in_time.insert(key.clone());
        }
        self.kept.insert(key, (*dataset, contribution.clone()));
        Stored::Kept
    }

    fn acknowledge(&mut self, ticket: Ticket, ack: &Ack) {
        let (node, contribution) =
            self.waiting.remove(&ticket).expect("acknowledged twice, or out of nothing");
        if *ack == Ack::Stored {
            let key = (contribution.run.clone(), contribution.query, node);
            let (version, _) = self.kept.get(&key).expect("acknowledged before it was kept");
            assert!(*version >= contribution.dataset);
        }
    }

    fn table(&self, digest: Digest, cells: usize) -> Table {
        let bytes = self.tables.get(&digest).expect("it arrived");
        Table::from_cells(packed::decode(bytes, cells).expect("it has this shape"))
    }

    /// Whether the sum of a query is kept, or that it was withdrawn.
    pub(super) fn is_sealed(&self, run: &RunId, query: QueryId) -> bool {
        self.seals.contains_key(&(run.clone(), query))
    }

    /// Whether a run ended because the answers to its query have no sum.
    pub(super) fn has_no_sum(machine: &Coordinator, now: Now, run: &RunId) -> bool {
        let status = machine.run_status(now, run).expect("it was started");
        matches!(status.standing, Standing::Failed { why } if why == NO_SUM)
    }

    /// The sum over the cohort; none where it overflows.
    fn merged(
        &self,
        run: &RunId,
        query: QueryId,
        cohort: &[(NodeId, DatasetVersion, Digest)],
        cells: usize,
    ) -> Option<Table> {
        let mut total = Table::zeros(cells);
        let mut counted = BTreeSet::new();
        for (node, version, digest) in cohort {
            assert!(counted.insert(*node), "counted twice");
            let kept = self.kept.get(&(run.clone(), query, *node)).expect("counted and not kept");
            assert!(kept.0 >= *version);
            if total.merge(&self.table(*digest, cells)).is_err() {
                return None;
            }
        }
        Some(total)
    }

    fn check_nobody_is_lost(&self, run: &RunId, query: QueryId, cohort: &[(NodeId, DatasetVersion, Digest)]) {
        let counted: BTreeSet<NodeId> = cohort.iter().map(|(node, ..)| *node).collect();
        let removed = self.removals.get(run).into_iter().flatten().map(|removal| removal.node);
        let removed: BTreeSet<NodeId> = removed.collect();
        assert!(counted.is_disjoint(&removed), "counted although it was removed");
        for (of, asked, node) in &self.in_time {
            if of == run && *asked == query && !self.troubled.contains(node) && !removed.contains(node) {
                assert!(counted.contains(node), "{node} answered {query} in time and is not counted");
            }
        }
    }

    fn seal(&mut self, run: &RunId, query: QueryId, seal: Seal) {
        assert!(!self.stopped.contains(run), "a run that was stopped goes on");
        let last = self.seals.range((run.clone(), QueryId(0))..=(run.clone(), QueryId(u32::MAX))).next_back();
        assert!(last.is_none_or(|((_, last), _)| *last < query), "sealed before, or out of order");
        assert!(self.blobs.contains_key(&seal.body), "nobody knows what was asked");
        self.seals.insert((run.clone(), query), seal);
    }

    /// What must hold at any moment.
    pub(super) fn check(&mut self, machine: &Coordinator) {
        for run in self.runs.keys() {
            let status = machine.run_status(Now::default(), run).expect("it was started");
            if is_over(&status.standing) {
                self.over.insert(run.clone());
            }
            assert_eq!(self.over.contains(run), is_over(&status.standing), "a run that ended goes on");
            assert_eq!(self.over.contains(run), self.stopped.contains(run));
            let json = serde_json::to_vec(&status).expect("a status can be written");
            let read = serde_json::from_slice::<exeunt_protocol::coordinator::RunStatus>(&json);
            assert!(read.is_ok(), "{read:?}: {}", String::from_utf8_lossy(&json));
            let _ = machine.live(run).expect("it was started");
        }
        for node in self.enrolled.keys().chain(&self.revoked) {
            let desired = machine.desired(*node);
            let membership = self.enrolled.get(node);
            if matches!(membership, None | Some(Membership::Pending)) {
                assert!(desired.runs.is_empty(), "wants something of a stranger");
            }
            assert!(desired.runs.iter().all(|run| !self.stopped.contains(&run.run)));
            assert!(
                desired.runs.iter().filter(|run| run.policy.is_some()).count() <= 1,
                "two policies at once"
            );
            if membership == Some(&Membership::Quarantined) {
                assert!(desired.runs.iter().all(|run| run.query.is_none()), "asks who is quarantined");
            }
        }
    }

    /// Another coordinator, from what is kept.
    pub(super) fn rebuilt(&self, now: Now) -> Coordinator {
        let mut machine = Coordinator::new();
        for (node, membership) in &self.enrolled {
            machine.handle(now, Input::Enrolled { node: *node, name: node.to_string() });
            machine.handle(now, Input::Member { node: *node, membership: *membership });
        }
        for (run, options) in &self.runs {
            let history = self.history(run);
            let context = honest::context();
            machine.restore_run(now, run.clone(), context, options.clone(), history);
            if let Some(open) = machine.open_query(run) {
                let of = (run.clone(), open, NodeId::from_bytes([0; 16]))
                    ..=(run.clone(), open, NodeId::from_bytes([255; 16]));
                let stored = self.kept.range(of);
                let stored = stored.map(|((_, _, node), (version, kept))| (*node, *version, kept.table));
                machine.restore_stored(now, run, stored.collect());
            }
        }
        machine
    }

    fn history(&self, run: &RunId) -> RunHistory {
        let removed = self.removals.get(run).cloned().unwrap_or_default();
        let first = removed.last().map_or(QueryId(0), |removal| removal.first);
        let mut history =
            RunHistory { stopped: self.stopped.contains(run), removed, ..RunHistory::default() };
        for ((_, query), seal) in self.seals.iter().filter(|((of, _), _)| of == run) {
            let (query, Seal { body, declined, merged, reused, .. }) = (*query, seal.clone());
            let cohort = seal.cohort.iter().map(|(node, _)| *node).collect();
            if query < first {
                let asked = Query::decode(&self.blobs[&body]).expect("what was encoded");
                let withdrawn = merged.is_none();
                history.superseded.push(AskedBefore { query, asked, withdrawn, cohort, declined, reused });
            } else {
                history.seals.push(SealedQuery { query, merged, cohort, declined, reused });
            }
        }
        let policies = self.policies.iter().filter(|((of, _), _)| of == run);
        history.policies = policies.map(|(_, record)| record.clone()).collect();
        history
    }
}
