//! The coordinator without its sockets: the state machine and the store, driven by whoever owns the connections.
//!
//! [`Core::handle`] takes note of what happened; [`Core::work`] performs everything the machine wants of the store and
//! returns what must go out to peers, when all that was written is on the disk. All contributions that wait when it is
//! called are stored in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use exeunt_exits::PolicyRequest;
use exeunt_protocol::coordinator::{Coordinator, Input, Now, Output, RunError, Stored, Target, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Desired, Rejection};
use exeunt_protocol::{NodeId, PolicyVersion, QueryId, RunId};
use exeunt_stats::{Digest, packed};
use exeunt_store::{AuditEntry, NewContribution, Packed, PutOutcome, StageId, Store, StoreError, Traffic};

use crate::intake::{Delivered, Intake};
use crate::members::MemberError;
use crate::plan::PlanError;
use crate::runs::{ListedRun, RunEntry};
use crate::sealing::Question;

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
#[non_exhaustive]
pub enum CoreError {
    /// The store failed. Nothing that was acknowledged is lost; nothing more can be taken.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run cannot be made.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The wish does not fit the run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The decision does not fit the node.
    #[error(transparent)]
    Member(MemberError),
    /// No policy has that name.
    #[error("run '{run}' has no policy called '{name}'{}", known.first().map(|_| format!("; there are: {}", known.join(", "))).unwrap_or_default())]
    NoPolicy {
        /// The run.
        run: RunId,
        /// What was asked for.
        name: String,
        /// Names there are.
        known: Vec<String>,
    },
    /// No policy has that version, or none is in force.
    #[error("run '{run}' has no policy {}", version.map_or_else(|| "in force".to_owned(), |version| version.0.to_string()))]
    NoVersion {
        /// The run.
        run: RunId,
        /// What was asked for; the one in force, if none.
        version: Option<PolicyVersion>,
    },
    /// No snapshot has that version.
    #[error("run '{run}' has no snapshot {version}; it has {known}")]
    NoSnapshot {
        /// The run.
        run: RunId,
        /// What was asked for.
        version: u32,
        /// How many there are.
        known: usize,
    },
    /// Not a name for a policy.
    #[error("'{found}' is not a name for a policy: expected 1 to 64 characters without control characters")]
    Name {
        /// What was given.
        found: String,
    },
    /// Something in the store cannot be read.
    #[error("{what} in the store cannot be read: {why}")]
    Corrupt {
        /// What it is.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// How far the core got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is left to do.
    Done,
    /// What there is goes out first.
    More,
}

/// A contribution that arrived and waits for its commit.
#[derive(Debug)]
struct Staged {
    node: NodeId,
    contribution: Contribution,
    ticket: Ticket,
    packed: Packed,
}

/// The coordinator without its sockets: the state machine and the store, driven by whoever owns the connections.
#[derive(Debug)]
pub struct Core {
    pub(crate) machine: Coordinator,
    pub(crate) store: Box<dyn Store>,
    /// Every run.
    pub(crate) listed: BTreeMap<RunId, ListedRun>,
    /// The runs that do not rest.
    pub(crate) entries: BTreeMap<RunId, RunEntry>,
    connected: BTreeSet<NodeId>,
    arrived: BTreeMap<Ticket, Packed>,
    /// Staged tables that were not taken.
    refused: Vec<StageId>,
    /// A query that is to be sealed once whoever waits has had its acknowledgement.
    sealing: Option<Output>,
    publish_to: BTreeSet<NodeId>,
    traffic: BTreeMap<(RunId, QueryId, NodeId), Traffic>,
    /// Bytes of every node over all runs.
    pub(crate) totals: BTreeMap<NodeId, Traffic>,
    /// Runs that were stopped and are whole in memory nevertheless: the one that somebody looked at last is the last.
    pub(crate) woken: Vec<RunId>,
    pub(crate) revision: u64,
}

impl Core {
    /// Takes up where the store left off.
    ///
    /// # Errors
    /// [`CoreError`] when something in the store cannot be read.
    pub fn open(store: Box<dyn Store>, now: Now) -> Result<Self, CoreError> {
        let mut core = Self {
            machine: Coordinator::new(),
            store,
            listed: BTreeMap::new(),
            entries: BTreeMap::new(),
            connected: BTreeSet::new(),
            arrived: BTreeMap::new(),
            refused: Vec::new(),
            sealing: None,
            publish_to: BTreeSet::new(),
            traffic: BTreeMap::new(),
            totals: BTreeMap::new(),
            woken: Vec::new(),
            revision: 0,
        };
        for (node, record) in core.store.nodes()? {
            if !record.revoked {
                core.machine.handle(now, Input::Enrolled { node, name: record.name });
                core.machine.handle(now, Input::Member { node, membership: record.membership });
            }
        }
        for (run, record) in core.store.runs()? {
            for (_, node, traffic) in core.store.traffic(&run)? {
                add(core.totals.entry(node).or_default(), traffic);
            }
            core.take_up(now, run, &record)?;
        }
        core.work(now)?;
        Ok(core)
    }

    /// Takes note of something that happened. Call [`Core::work`] when nothing else is waiting.
    pub fn handle(&mut self, now: Now, input: Input) {
        match &input {
            Input::Connected { node, .. } => {
                self.connected.insert(*node);
            }
            Input::Disconnected { node } | Input::Revoked { node } => {
                self.connected.remove(node);
            }
            _ => {}
        }
        self.revision += 1;
        self.machine.handle(now, input);
    }

    /// Notes that something changed that an operator may see, beside what the machine hears of.
    pub(crate) fn changed(&mut self) {
        self.revision += 1;
    }

    /// A number that is another one after anything has changed that an operator may see.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes note of a contribution whose bytes arrived whole, with the right hash.
    pub fn arrived(
        &mut self,
        now: Now,
        node: NodeId,
        contribution: Contribution,
        bytes: Vec<u8>,
        ticket: Ticket,
    ) {
        match self.expects(node, &contribution.run, contribution.query) {
            Ok(cells) => {
                let mut intake = Intake::new(cells);
                intake.push(&bytes);
                self.delivered(now, node, contribution, intake.whole(bytes), ticket);
            }
            Err(rejection) => self.refuse(node, &contribution, rejection, ticket),
        }
    }

    /// Takes note of a contribution whose bytes were looked at as they came, for the number of cells that
    /// [`Core::wanted`] says, and had the right hash.
    pub fn delivered(
        &mut self,
        now: Now,
        node: NodeId,
        contribution: Contribution,
        table: Delivered,
        ticket: Ticket,
    ) {
        // No sum over the fleet may overflow; half is left for nodes that join before the query closes.
        let most = i64::MAX as u64 / (2 * self.machine.members().max(1) as u64);
        let expected = self.expects(node, &contribution.run, contribution.query);
        if let Err(rejection) = expected.and_then(|cells| table.check(cells, most)) {
            self.put_back(Some(table.packed));
            return self.refuse(node, &contribution, rejection, ticket);
        }
        self.revision += 1;
        self.arrived.insert(ticket, table.packed);
        self.machine.handle(now, Input::Arrived { node, contribution, ticket });
    }

    fn refuse(&mut self, node: NodeId, contribution: &Contribution, why: Rejection, ticket: Ticket) {
        self.revision += 1;
        self.machine.refuse(&contribution.run, node, ticket, contribution.query, why);
    }

    /// A table that came is not taken: what is staged of it has no use any more.
    fn put_back(&mut self, table: Option<Packed>) {
        if let Some(Packed::Staged(staged)) = table {
            self.refused.push(staged);
        }
    }

    /// Whether a contribution is wanted at all, before its bytes are; and how many cells it has.
    ///
    /// # Errors
    /// The [`Rejection`] to answer with.
    pub fn wanted(&self, node: NodeId, contribution: &Contribution) -> Result<usize, Rejection> {
        let cells = self.expects(node, &contribution.run, contribution.query)?;
        let (found, most) = (contribution.table.bytes, packed::max_len(cells) as u64);
        if found > most {
            let what = format!("a table of {found} bytes, expected at most {most} for {cells} cells");
            return Err(Rejection::Malformed { what });
        }
        Ok(cells)
    }

    /// Cells of a node's answer to a query, if one is wanted.
    pub(crate) fn expects(&self, node: NodeId, run: &RunId, query: QueryId) -> Result<usize, Rejection> {
        self.machine.expected_cells(node, run, query)
    }

    /// Performs what the machine wants of the store until nothing is left, and returns what must go out.
    ///
    /// # Errors
    /// [`CoreError::Store`]; what was not acknowledged must then be considered lost.
    pub fn work(&mut self, now: Now) -> Result<Vec<Effect>, CoreError> {
        self.flush_traffic()?;
        let mut effects = Vec::new();
        while self.step(now, &mut effects)? == Step::More {}
        Ok(effects)
    }

    /// Performs what the machine wants until nothing is left, or until a query is to be sealed while somebody could be
    /// told that a contribution is stored: adding up takes longer than they need to wait. Nothing must be handled in
    /// between, or the query could be sealed although it is not asked any more. Leaves the counts of bytes to
    /// [`Core::flush_traffic`].
    ///
    /// # Errors
    /// As [`Core::work`].
    pub(crate) fn step(&mut self, now: Now, effects: &mut Vec<Effect>) -> Result<Step, CoreError> {
        let (mut audit, mut acknowledges) = (Vec::new(), false);
        let mut step = Step::Done;
        'working: loop {
            let mut staged = Vec::new();
            while let Some(output) = self.sealing.take().or_else(|| self.machine.poll_output()) {
                if acknowledges && staged.is_empty() && matches!(output, Output::Seal { .. }) {
                    self.sealing = Some(output);
                    step = Step::More;
                    break 'working;
                }
                match output {
                    Output::PutBlob { blob, bytes } => self.store.put_blob(blob.digest, &bytes)?,
                    Output::Publish => self.publish_to.extend(self.connected.iter().copied()),
                    Output::PublishTo { node } => {
                        self.publish_to.insert(node);
                    }
                    Output::Commit { node, contribution, ticket } => {
                        // What the machine has committed has arrived, and nothing else has taken its bytes.
                        let packed = self.arrived.remove(&ticket).unwrap_or(Packed::Kept);
                        staged.push(Staged { node, contribution, ticket, packed });
                    }
                    Output::Acknowledge { ticket, ack } => {
                        let table = self.arrived.remove(&ticket);
                        self.put_back(table);
                        effects.push(Effect::Acknowledge { ticket, ack });
                        acknowledges = true;
                    }
                    Output::Seal { run, query, body, cohort, declined, cells } => {
                        self.seal(now, Question { run, query, body }, cohort, declined, cells)?;
                    }
                    Output::Reseal { run, query, from, body, cohort, declined, cells } => {
                        self.reseal(now, Question { run, query, body }, from, &cohort, declined, cells)?;
                    }
                    Output::SaveRemoval { run, removal } => {
                        let mut entry = self.entry(&run)?.clone();
                        entry.removed.push(removal);
                        self.save_entry(now, &run, entry)?;
                    }
                    Output::SavePolicy { run, record } => {
                        let bytes = serde_json::to_vec(&record).map_err(|error| CoreError::Corrupt {
                            what: "a new policy".to_owned(),
                            why: error.to_string(),
                        })?;
                        self.store.save_policy(&run, record.version, &bytes, now.unix_ms)?;
                    }
                    Output::Audit { run, node, text } => {
                        audit.push(AuditEntry { at_ms: now.unix_ms, run, node, text });
                    }
                }
            }
            if staged.is_empty() {
                break;
            }
            self.commit(now, staged)?;
        }
        if !audit.is_empty() {
            self.store.append_audit(&audit)?;
        }
        for staged in self.refused.drain(..) {
            self.store.discard(staged)?;
        }
        // What failed may have been a wish that the machine has no part in: it was refused, and nobody else has noticed.
        self.store.health()?;
        self.store.sync()?;
        for AuditEntry { run, node, text, .. } in &audit {
            tracing::info!(?run, ?node, "{text}");
        }
        if step == Step::Done {
            self.rest();
            let publish_to = std::mem::take(&mut self.publish_to);
            let connected = publish_to.intersection(&self.connected);
            effects.extend(
                connected.map(|node| Effect::Send { node: *node, desired: self.machine.desired(*node) }),
            );
        }
        Ok(step)
    }

    fn commit(&mut self, now: Now, staged: Vec<Staged>) -> Result<(), CoreError> {
        let new: Vec<NewContribution<'_>> = staged
            .iter()
            .map(|s| NewContribution {
                run: &s.contribution.run,
                query: s.contribution.query,
                node: s.node,
                dataset: s.contribution.dataset,
                table: s.contribution.table,
                packed: &s.packed,
            })
            .collect();
        let outcomes = self.store.put_contributions(&new, now.unix_ms)?;
        let mut committed = Vec::with_capacity(staged.len());
        for (Staged { node, contribution, ticket, .. }, outcome) in staged.into_iter().zip(outcomes) {
            let stored = match outcome {
                PutOutcome::Stored | PutOutcome::Duplicate | PutOutcome::Replaced { .. } => Stored::Kept,
                PutOutcome::Conflict { expected } => {
                    let found = contribution.table.digest;
                    Stored::Refused(Rejection::ContributionConflict { found, expected })
                }
                PutOutcome::Stale { current } => {
                    Stored::Refused(Rejection::Stale { found: contribution.dataset.0, expected: current.0 })
                }
            };
            committed.push(Input::Committed { node, contribution, ticket, stored });
        }
        // All at once: a query that one of them completes must not close with what another has just replaced.
        self.machine.handle_all(now, committed);
        Ok(())
    }

    /// Charges bytes to a query. They are written now and then; a crash may lose the last few.
    pub fn charge(&mut self, run: RunId, query: QueryId, node: NodeId, up: u64, down: u64) {
        let traffic = self.traffic.entry((run, query, node)).or_default();
        add(traffic, Traffic { up, down });
        add(self.totals.entry(node).or_default(), Traffic { up, down });
    }

    /// Whether something was charged that is not written.
    pub(crate) fn owes_traffic(&self) -> bool {
        !self.traffic.is_empty()
    }

    /// Writes down what was charged.
    ///
    /// # Errors
    /// [`CoreError::Store`].
    pub(crate) fn flush_traffic(&mut self) -> Result<(), CoreError> {
        if !self.traffic.is_empty() {
            let traffic: Vec<_> = std::mem::take(&mut self.traffic).into_iter().collect();
            self.store.add_traffic(&traffic)?;
        }
        Ok(())
    }

    /// When to call [`Core::work`] again even if nothing happens, on the monotonic clock.
    pub fn timeout(&self) -> Option<std::time::Duration> {
        self.machine.poll_timeout()
    }

    /// Puts a policy in force, or has it tried.
    ///
    /// # Errors
    /// [`CoreError::Run`] when no policy fits the wish.
    pub fn set_policy(
        &mut self,
        now: Now,
        run: &RunId,
        wish: &PolicyRequest,
        target: Target,
    ) -> Result<PolicyVersion, CoreError> {
        self.revision += 1;
        Ok(self.machine.set_policy(now, run, wish, target)?)
    }

    /// Lets a node infer with the fleet's policy again.
    ///
    /// # Errors
    /// [`CoreError::Run`] when it has none of its own.
    pub fn clear_policy(&mut self, run: &RunId, node: NodeId) -> Result<(), CoreError> {
        self.revision += 1;
        Ok(self.machine.clear_policy(run, node)?)
    }

    /// Takes everything a node gave out of a run, exactly.
    ///
    /// # Errors
    /// [`CoreError::Run`] when there is nothing to take out.
    pub fn remove_contribution(&mut self, now: Now, run: &RunId, node: NodeId) -> Result<(), CoreError> {
        self.revision += 1;
        Ok(self.machine.remove_contribution(now, run, node)?)
    }

    /// The state machine, to look at.
    pub fn machine(&self) -> &Coordinator {
        &self.machine
    }

    /// The store, to read from.
    pub fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    /// The store, for what the state machine has no part in: tokens and enrolment.
    pub fn store_mut(&mut self) -> &mut dyn Store {
        self.store.as_mut()
    }

    /// A blob's length, when nodes may have it.
    ///
    /// # Errors
    /// [`CoreError::Store`].
    pub fn blob(&self, digest: Digest) -> Result<Option<BlobRef>, CoreError> {
        Ok(self.store.blob_len(digest)?.map(|bytes| BlobRef { digest, bytes }))
    }
}

fn add(total: &mut Traffic, more: Traffic) {
    total.up = total.up.saturating_add(more.up);
    total.down = total.down.saturating_add(more.down);
}

#[cfg(test)]
mod tests {
    use exeunt_exits::Query;
    use exeunt_protocol::coordinator::Standing;
    use exeunt_protocol::message::Refusal;

    use super::*;
    use crate::testing::Fleet;

    fn asks_for_times(fleet: &Fleet) -> bool {
        matches!(fleet.open(), Some((_, Query::Timings { .. }, _)))
    }

    fn until_times_are_asked_for(nodes: u8) -> Fleet {
        let mut fleet = Fleet::new(nodes);
        while !asks_for_times(&fleet) {
            fleet.all_answer();
        }
        fleet
    }

    /// The coordinator with the same store, as if it had been started again.
    fn restarted(mut fleet: Fleet) -> Fleet {
        let Core { store, .. } = fleet.core;
        fleet.core = Core::open(store, fleet.now).unwrap();
        for node in &fleet.nodes {
            let name = node.to_string();
            let (software, engine) = ("test".to_owned(), "none".to_owned());
            let hello = exeunt_protocol::message::Hello { oldest: 1, newest: 1, name, software, engine };
            fleet.core.handle(fleet.now, Input::Connected { node: *node, hello });
        }
        fleet.core.work(fleet.now).unwrap();
        fleet
    }

    #[test]
    fn a_run_from_before_there_were_timings_is_rebuilt_without_them() {
        let mut fleet = until_times_are_asked_for(2);
        let digest = fleet.core.report(fleet.now, &fleet.run).unwrap().digest;
        let runs = fleet.core.store().runs().unwrap();
        let (run, record) = &runs[0];
        let mut record: serde_json::Value = serde_json::from_slice(record).unwrap();
        assert_eq!(record["context"].as_object_mut().unwrap().remove("timings"), Some(true.into()));
        let record = serde_json::to_vec(&record).unwrap();
        fleet.core.store_mut().save_run(run, &record, 2).unwrap();
        let mut fleet = restarted(fleet);
        assert_eq!(fleet.standing(), Standing::Ready);
        let wish = PolicyRequest::MaxDrop(5.0);
        fleet.core.set_policy(fleet.now, &fleet.run, &wish, Target::Fleet).unwrap();
        fleet.core.work(fleet.now).unwrap();
        fleet.run_until_ready();
        let report = fleet.core.report(fleet.now, &fleet.run).unwrap();
        assert!(report.status.queries.iter().all(|query| query.name != "timings"));
        assert_eq!((report.status.times, report.status.policies[0].mean_ms), (None, None));
        assert!(report.nodes.iter().all(|node| node.policies.len() == 1 && node.times.is_none()));
        assert_ne!(report.digest, digest, "the policy was measured");
    }

    #[test]
    fn times_are_the_mean_of_the_nodes_and_no_part_of_the_digest() {
        let fleet = restarted(until_times_are_asked_for(3));
        assert!(asks_for_times(&fleet), "they are asked for again after a restart");
        let digest = fleet.core.report(fleet.now, &fleet.run).unwrap().digest;
        let mut fleet = restarted(fleet);
        fleet.run_until_ready();
        let fleet = restarted(fleet);
        assert_eq!(fleet.standing(), Standing::Ready);
        let report = fleet.core.report(fleet.now, &fleet.run).unwrap();
        assert_eq!(report.digest, digest);
        let (times, result) = (report.status.times.unwrap(), report.status.result.unwrap());
        // The nodes take 1, 2 and 3 ms for everything.
        assert_eq!((times.times.nodes, times.times.network_ms), (3, 4.0));
        assert_eq!(times.times.segments_ms, [2.0; 3]);
        assert_eq!(times.curve_ms.len(), result.curve.points().len());
        assert_eq!(times.curve_ms.last(), Some(&4.0), "the curve ends with the bare network");
        assert_eq!(times.static_line_ms.len(), result.static_line.points().len());
        let nodes: Vec<f64> =
            report.nodes.iter().map(|node| node.times.as_ref().unwrap().times.network_ms).collect();
        assert_eq!(nodes, [2.0, 4.0, 6.0]);
    }

    #[test]
    fn who_cannot_measure_disturbs_nobody() {
        let mut fleet = until_times_are_asked_for(2);
        let (query, ..) = fleet.open().unwrap();
        for node in fleet.nodes.clone() {
            let refusal = Refusal::Failed { what: "no clock".to_owned() };
            let word = exeunt_protocol::message::FromNode::Decline { run: fleet.run.clone(), query, refusal };
            fleet.core.handle(fleet.now, Input::Said { node, word });
        }
        fleet.core.work(fleet.now).unwrap();
        assert_eq!(fleet.standing(), Standing::Ready);
        let report = fleet.core.report(fleet.now, &fleet.run).unwrap();
        assert!(report.status.times.is_none() && report.status.result.is_some());
    }

    #[test]
    fn whoever_is_away_is_not_waited_for_long() {
        let mut fleet = until_times_are_asked_for(2);
        let (query, ..) = fleet.open().unwrap();
        let table = fleet.answer(0);
        fleet.send(0, query, &table);
        assert_eq!(fleet.core.timeout(), Some(std::time::Duration::from_secs(60)));
        fleet.now.monotonic = std::time::Duration::from_secs(60);
        fleet.core.handle(fleet.now, Input::Tick);
        fleet.core.work(fleet.now).unwrap();
        assert_eq!(fleet.standing(), Standing::Ready);
        let times = fleet.core.report(fleet.now, &fleet.run).unwrap().status.times.unwrap();
        assert_eq!(times.times.nodes, 1);
    }
}
