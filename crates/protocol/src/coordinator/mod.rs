//! How the coordinator decides: a state machine without sockets, files, clocks or randomness.
//!
//! [`Coordinator::handle`] takes an [`Input`] with the time, [`Coordinator::poll_output`] gives what is to be done.
//! A shell owns the connections and the store; it must
//!
//! * perform outputs in order,
//! * store what comes with [`Output::Commit`] before it feeds [`Input::Committed`], and answer the node only with
//!   [`Output::Acknowledge`],
//! * on [`Output::Seal`] merge the tables of the named cohort, store the seal, and feed [`Input::Sealed`], or
//!   [`Input::NotSealed`] where they do not add up,
//! * have everything on the disk that was stored before an output leaves for a node, or an answer for the operator,
//! * call with [`Input::Tick`] when [`Coordinator::poll_timeout`] has passed.
//!
//! Control is level-triggered: the machine never sends commands, it publishes what it wants of each node
//! ([`Coordinator::desired`]) whenever that changes, and whoever connects gets the latest.
//!
//! A run is event-sourced: its program is a function of the tables that were sealed and the policies that were set,
//! so [`Coordinator::restore_run`] rebuilds it from what the store holds.

mod live;
mod resting;
mod run;
mod status;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{ChooseError, PolicyRequest, Quantiles, RunContext};
use exeunt_stats::{Digest, Table};

use crate::ids::{DatasetVersion, NodeId, PolicyVersion, QueryId, RunId};
use crate::message::{
    Ack, Activity, BlobRef, Contribution, Desired, DesiredRun, FromNode, Hello, Membership, Refusal,
    Rejection,
};
use live::LiveBook;
use resting::RestingRun;
use run::RunState;
pub use run::{AskedBefore, PolicyRecord, Purpose, Removal, RunHistory, RunOptions, SealedQuery, Target};
pub use status::{
    ExitStatus, NodeAnswer, NodeStatus, PolicyStatus, QueryStatus, RunStatus, RunTimes, Standing, UsedPolicy,
    Waiting,
};

/// A moment, as the shell tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Now {
    /// Since some fixed instant; never runs backwards. Deadlines are measured with it.
    pub monotonic: Duration,
    /// Milliseconds since 1970, for records that people read.
    pub unix_ms: u64,
}

/// A contribution that waits for its acknowledgement; chosen by the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What the store said of a contribution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// It is there now, or was already: the same version and digest.
    Kept,
    /// Refused, with the reason.
    Refused(Rejection),
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A node that may join the work is known: enrolled now or earlier.
    Enrolled {
        /// The node.
        node: NodeId,
        /// What its operator calls it.
        name: String,
    },
    /// A node was shut out for good.
    Revoked {
        /// The node.
        node: NodeId,
    },
    /// The operator decided whether a node takes part. One that has just enrolled does.
    Member {
        /// The node.
        node: NodeId,
        /// Whether it does.
        membership: Membership,
    },
    /// A node connected with a certificate, or was given another.
    Certified {
        /// The node.
        node: NodeId,
        /// When it expires, in milliseconds since 1970.
        expires_ms: u64,
    },
    /// A node's control stream is up.
    Connected {
        /// The node.
        node: NodeId,
        /// Its first words.
        hello: Hello,
    },
    /// A node's control stream is down.
    Disconnected {
        /// The node.
        node: NodeId,
    },
    /// A word on a control stream.
    Said {
        /// The node.
        node: NodeId,
        /// The word.
        word: FromNode,
    },
    /// A contribution's bytes arrived whole, with the right hash and shape.
    Arrived {
        /// The node.
        node: NodeId,
        /// Its header.
        contribution: Contribution,
        /// Names the exchange.
        ticket: Ticket,
    },
    /// A contribution is stored, or was refused by the store.
    Committed {
        /// The node.
        node: NodeId,
        /// Its header.
        contribution: Contribution,
        /// Names the exchange.
        ticket: Ticket,
        /// What the store said.
        stored: Stored,
    },
    /// A seal is stored. `merged` is the sum over its cohort; none where the query was withdrawn for a wider scale.
    Sealed {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// The merged table.
        merged: Option<Table>,
    },
    /// The tables of the cohort do not add up: a cell left the range of its numbers. Nothing was sealed, and the run cannot
    /// go on until the contribution that is to blame is removed.
    NotSealed {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// Whose contribution is to blame, and what is wrong with it.
        why: String,
    },
    /// Time has passed.
    Tick,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Keep these bytes under their hash.
    PutBlob {
        /// Name and length.
        blob: BlobRef,
        /// The bytes.
        bytes: Arc<[u8]>,
    },
    /// Send [`Coordinator::desired`] to every connected node.
    Publish,
    /// Send [`Coordinator::desired`] to one node.
    PublishTo {
        /// The node.
        node: NodeId,
    },
    /// Store a contribution.
    Commit {
        /// The node.
        node: NodeId,
        /// Its header.
        contribution: Contribution,
        /// Names the exchange.
        ticket: Ticket,
    },
    /// Answer a node.
    Acknowledge {
        /// Names the exchange.
        ticket: Ticket,
        /// The answer.
        ack: Ack,
    },
    /// Merge and seal a query.
    Seal {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// Digest of what was asked.
        body: Digest,
        /// What each counted node contributed.
        cohort: Vec<(NodeId, DatasetVersion, Digest)>,
        /// Who declined, and why.
        declined: Vec<(NodeId, Refusal)>,
        /// Number of cells of a table; none when the query is withdrawn for a wider scale.
        cells: Option<usize>,
    },
    /// Seal a query with what is stored for an earlier one that asked the same: the sum over part of its cohort. Answer
    /// with [`Input::Sealed`].
    Reseal {
        /// The run.
        run: RunId,
        /// The query.
        query: QueryId,
        /// The earlier one.
        from: QueryId,
        /// Digest of what both asked.
        body: Digest,
        /// Who is counted.
        cohort: Vec<NodeId>,
        /// Who had declined, and why.
        declined: Vec<(NodeId, String)>,
        /// Number of cells of a table.
        cells: usize,
    },
    /// Remember a policy that was set, in place of what is known of its version.
    SavePolicy {
        /// The run.
        run: RunId,
        /// The policy.
        record: PolicyRecord,
    },
    /// Remember that a node's contribution was taken out of a run.
    SaveRemoval {
        /// The run.
        run: RunId,
        /// Whose, and from which query on.
        removal: Removal,
    },
    /// Something a person may want to know later.
    Audit {
        /// The run it belongs to.
        run: Option<RunId>,
        /// The node it belongs to.
        node: Option<NodeId>,
        /// One line.
        text: String,
    },
}

/// Why a wish about a run was not granted.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No such run.
    #[error("there is no run '{run}'{}", known.first().map(|k| format!("; the newest is '{k}'")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        run: String,
        /// Runs there are, newest first.
        known: Vec<RunId>,
    },
    /// No run was named, and there is none.
    #[error("there are no runs yet; `exeunt run start RUN.toml` starts one")]
    None,
    /// The run was stopped.
    #[error("run '{run}' was stopped")]
    Stopped {
        /// The run.
        run: RunId,
    },
    /// No policy fits the wish.
    #[error(transparent)]
    Choose(#[from] ChooseError),
    /// There is no such node, or it was shut out.
    #[error("there is no node {node}")]
    NoNode {
        /// What was asked for.
        node: NodeId,
    },
    /// There is nothing to take out.
    #[error("run '{run}' has no contribution of node {node}")]
    NoContribution {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
    },
    /// There is nothing to clear.
    #[error("node {node} has no policy of its own in run '{run}'")]
    NoOverride {
        /// The run.
        run: RunId,
        /// The node.
        node: NodeId,
    },
}

/// What is known of a node.
#[derive(Debug, Clone)]
struct NodeState {
    name: String,
    hello: Option<Hello>,
    last_seen_ms: Option<u64>,
    connected: bool,
    membership: Membership,
    using: Option<UsedPolicy>,
    certificate_expires_ms: Option<u64>,
    live: LiveBook,
}

impl NodeState {
    fn new(name: String) -> Self {
        Self {
            name,
            hello: None,
            last_seen_ms: None,
            connected: false,
            membership: Membership::default(),
            using: None,
            certificate_expires_ms: None,
            live: LiveBook::default(),
        }
    }

    fn takes_part(&self) -> bool {
        self.membership == Membership::Active
    }

    /// Whether it speaks a version of the messages.
    fn speaks(&self, version: u16) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.newest >= version)
    }
}

/// The coordinator's state. See the [module](self) for the contract.
#[derive(Debug, Default)]
pub struct Coordinator {
    nodes: BTreeMap<NodeId, NodeState>,
    runs: BTreeMap<RunId, RunState>,
    /// Runs that were stopped and are not among `runs`.
    resting: BTreeMap<RunId, RestingRun>,
    outputs: VecDeque<Output>,
}

impl Coordinator {
    /// An empty federation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.handle_all(now, [input]);
    }

    /// Takes note of things that happened at once, such as commits in one transaction: no query closes in between.
    pub fn handle_all(&mut self, now: Now, inputs: impl IntoIterator<Item = Input>) {
        for input in inputs {
            self.take_in(now, input);
        }
        self.close_what_is_complete(now);
    }

    fn take_in(&mut self, now: Now, input: Input) {
        match input {
            Input::Enrolled { node, name } => self.enrolled(node, name),
            Input::Revoked { node } => self.revoked(node),
            Input::Member { node, membership } => self.member(node, membership),
            Input::Certified { node, expires_ms } => {
                if let Some(state) = self.nodes.get_mut(&node) {
                    state.certificate_expires_ms = Some(expires_ms);
                }
            }
            Input::Connected { node, hello } => self.connected(now, node, hello),
            Input::Disconnected { node } => self.disconnected(now, node),
            Input::Said { node, word } => self.said(now, node, word),
            Input::Arrived { node, contribution, ticket } => self.arrived(node, contribution, ticket),
            Input::Committed { node, contribution, ticket, stored } => {
                self.committed(node, &contribution, ticket, stored);
            }
            Input::Sealed { run, query, merged } => {
                if let Some(state) = self.runs.get_mut(&run) {
                    state.sealed(now, query, merged.as_ref(), &mut self.outputs);
                }
            }
            Input::NotSealed { run, query, why } => {
                if let Some(state) = self.runs.get_mut(&run) {
                    state.not_sealed(query, why, &mut self.outputs);
                }
            }
            Input::Tick => {}
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back with [`Input::Tick`] at the latest, on the monotonic clock.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.runs.values().filter_map(RunState::deadline).min()
    }

    /// Starts a run. `number` makes the id unique; the caller counts.
    pub fn start_run(&mut self, now: Now, id: RunId, context: RunContext, options: RunOptions) {
        let mut state = RunState::new(id.clone(), context, options);
        state.quarantined = self.quarantined();
        state.open_next(now, &mut self.outputs);
        self.audit(Some(&id), None, "run started".to_owned());
        self.runs.insert(id, state);
        self.close_what_is_complete(now);
    }

    /// Rebuilds a run from the store: what was sealed (in order; none for a query withdrawn for a wider scale), the
    /// policies that were set, and what has been stored for the query that is open. One whose sealed tables do not fit its
    /// program has failed.
    pub fn restore_run(
        &mut self,
        now: Now,
        id: RunId,
        context: RunContext,
        options: RunOptions,
        history: RunHistory,
    ) {
        let mut state = RunState::new(id.clone(), context, options);
        state.quarantined = self.quarantined();
        let mut outputs = VecDeque::new();
        state.replay(now, history, &mut outputs);
        // What a run that was stopped once wanted is nothing to do any more.
        if !state.is_stopped() {
            self.outputs.append(&mut outputs);
        }
        self.resting.remove(&id);
        self.runs.insert(id, state);
        self.close_what_is_complete(now);
    }

    /// What the store still has to tell [`Coordinator::restore_run`]: contributions already stored for the query
    /// that is open.
    pub fn restore_stored(&mut self, now: Now, run: &RunId, stored: Vec<(NodeId, DatasetVersion, BlobRef)>) {
        if let Some(state) = self.runs.get_mut(run) {
            for (node, version, table) in stored {
                state.stored(node, version, table);
            }
        }
        self.close_what_is_complete(now);
    }

    /// Stops a run for good. Its tables stay.
    ///
    /// # Errors
    /// [`RunError::Unknown`].
    pub fn stop_run(&mut self, run: &RunId) -> Result<(), RunError> {
        match self.run_mut(run) {
            Ok(state) => state.stop(),
            Err(RunError::Stopped { .. }) => return Ok(()),
            Err(unknown) => return Err(unknown),
        }
        self.take_back_seal(run);
        self.audit(Some(run), None, "run stopped".to_owned());
        self.outputs.push_back(Output::Publish);
        Ok(())
    }

    /// Puts a policy in force and has it measured on the evaluation part, or only tries it on the calibration part.
    ///
    /// # Errors
    /// [`RunError`]: no such run, or no policy fits the request.
    pub fn set_policy(
        &mut self,
        now: Now,
        run: &RunId,
        request: &PolicyRequest,
        target: Target,
    ) -> Result<PolicyVersion, RunError> {
        let node = match target {
            Target::Node(node) => Some(node),
            Target::Fleet | Target::Nobody => None,
        };
        self.known(node)?;
        let now = self.after_every_policy(now);
        let state = self.run_mut(run)?;
        let mut outputs = VecDeque::new();
        let version = state.set_policy(now, request, target, &mut outputs)?;
        self.outputs.append(&mut outputs);
        let word = match target {
            Target::Fleet => "set",
            Target::Node(_) => "set for this node alone",
            Target::Nobody => "tried",
        };
        self.audit(Some(run), node, format!("policy {} {word}: {request}", version.0));
        self.close_what_is_complete(now);
        Ok(version)
    }

    /// Lets a node infer with the fleet's policy again.
    ///
    /// # Errors
    /// [`RunError::Unknown`], [`RunError::NoOverride`]; [`RunError::Stopped`] when the run rests.
    pub fn clear_policy(&mut self, run: &RunId, node: NodeId) -> Result<(), RunError> {
        let mut outputs = VecDeque::new();
        if !self.run_mut(run)?.clear_policy(node, &mut outputs) {
            return Err(RunError::NoOverride { run: run.clone(), node });
        }
        self.outputs.append(&mut outputs);
        self.audit(Some(run), Some(node), "policy for this node alone cleared".to_owned());
        Ok(())
    }

    /// Takes everything a node gave out of a run, exactly. What was asked before is answered from what is stored of the
    /// others; what differs without the node is asked again. The node takes no part in the run any more.
    ///
    /// # Errors
    /// [`RunError::Unknown`], [`RunError::Stopped`], [`RunError::NoContribution`].
    pub fn remove_contribution(&mut self, now: Now, run: &RunId, node: NodeId) -> Result<(), RunError> {
        let mut outputs = VecDeque::new();
        self.run_mut(run)?.remove(now, node, &mut outputs)?;
        self.take_back_seal(run);
        self.outputs.append(&mut outputs);
        self.audit(Some(run), Some(node), "contribution removed from the run".to_owned());
        self.close_what_is_complete(now);
        Ok(())
    }

    /// A seal that nobody has written yet, of a query that is not asked any more. Were it written, a restart would find a
    /// query that this run never closed.
    fn take_back_seal(&mut self, run: &RunId) {
        self.outputs.retain(|output| match output {
            Output::Seal { run: of, .. } | Output::Reseal { run: of, .. } => of != run,
            _ => true,
        });
    }

    fn known(&self, node: Option<NodeId>) -> Result<(), RunError> {
        match node {
            Some(node) if !self.nodes.contains_key(&node) => Err(RunError::NoNode { node }),
            _ => Ok(()),
        }
    }

    /// The wall clock, or the millisecond after the last policy of any run where it has not got further: it may have been
    /// set back, and which policy was set last decides which one nodes infer with.
    fn after_every_policy(&self, now: Now) -> Now {
        let set = self.runs.values().flat_map(|run| &run.policies).map(|record| record.set_at_ms);
        let last = set.chain(self.resting.values().filter_map(RestingRun::last_set_ms)).max();
        let earliest = last.map_or(0, |last| last.saturating_add(1));
        Now { unix_ms: now.unix_ms.max(earliest), ..now }
    }

    /// What is wanted of `node` at this moment.
    pub fn desired(&self, node: NodeId) -> Desired {
        let membership = match self.nodes.get(&node) {
            Some(state) if state.membership != Membership::Pending => state.membership,
            _ => return Desired::default(),
        };
        // A node infers with one policy: the one that was set last, whichever run it belongs to.
        let whole = self.runs.iter().filter_map(|(id, run)| Some((run.forced_at(node)?, id)));
        let resting = self.resting.iter().filter_map(|(id, run)| Some((run.forced_at(node)?, id)));
        let newest = whole.chain(resting).max();
        let mut runs: Vec<DesiredRun> = self.runs.values().filter_map(|run| run.desired(node)).collect();
        for run in &mut runs {
            if newest.is_none_or(|(_, id)| *id != run.run) {
                run.policy = None;
            }
            if membership == Membership::Quarantined {
                run.query = None;
            }
        }
        Desired { runs }
    }

    /// Turns a contribution away whose bytes are not what was asked for.
    pub fn refuse(
        &mut self,
        run: &RunId,
        node: NodeId,
        ticket: Ticket,
        query: QueryId,
        rejection: Rejection,
    ) {
        self.audit(Some(run), Some(node), format!("contribution to {query} rejected: {rejection}"));
        if let Some(state) = self.runs.get_mut(run) {
            state.turned_away(node, query, &rejection);
        }
        self.outputs.push_back(Output::Acknowledge { ticket, ack: Ack::Rejected(rejection) });
    }

    /// How many cells a contribution to this query has.
    ///
    /// # Errors
    /// The [`Rejection`] to answer with, when it is not wanted.
    pub fn expected_cells(&self, node: NodeId, run: &RunId, query: QueryId) -> Result<usize, Rejection> {
        let Some(member) = self.nodes.get(&node) else { return Err(Rejection::Revoked) };
        let state = match self.runs.get(run) {
            Some(state) if !state.is_stopped() => state,
            _ => return Err(Rejection::UnknownRun { run: run.clone() }),
        };
        match left_out(member, state, node) {
            None => state.cells(query).ok_or(Rejection::UnknownQuery { query }),
            Some(why) if member.speaks(2) => Err(Rejection::NotTakingPart { why }),
            Some(_) => Err(Rejection::UnknownQuery { query }),
        }
    }

    /// The query that is open, if one is.
    pub fn open_query(&self, run: &RunId) -> Option<QueryId> {
        self.runs.get(run)?.open_query().map(|open| open.id)
    }

    /// The first query that counts: those before it were asked before a contribution was removed.
    pub fn first_query(&self, run: &RunId) -> QueryId {
        self.runs.get(run).map_or(QueryId(0), RunState::first_query)
    }

    /// Whether a node takes part; none for one that is not known.
    pub fn membership(&self, node: NodeId) -> Option<Membership> {
        self.nodes.get(&node).map(|state| state.membership)
    }

    /// The queries of a run that were closed and count, in order: the blobs in which they are.
    pub fn asked(&self, run: &RunId) -> Vec<Digest> {
        let history = self.runs.get(run).map(|run| run.history.as_slice()).unwrap_or_default();
        history.iter().map(|closed| closed.body).collect()
    }

    /// What margins a run's samples have on the calibration part; none before they are known.
    pub fn quantiles(&self, run: &RunId) -> Option<&Quantiles> {
        self.runs.get(run)?.program.quantiles()
    }

    /// How many nodes may answer.
    pub fn members(&self) -> usize {
        self.nodes.len()
    }

    /// The runs, those that rest last.
    pub fn runs(&self) -> impl Iterator<Item = &RunId> {
        self.runs.keys().chain(self.resting.keys())
    }

    fn enrolled(&mut self, node: NodeId, name: String) {
        let before = self.nodes.entry(node).or_insert_with(|| NodeState::new(name.clone()));
        if before.name != name {
            before.name = name;
        }
    }

    fn member(&mut self, node: NodeId, membership: Membership) {
        let Some(state) = self.nodes.get_mut(&node) else { return };
        if std::mem::replace(&mut state.membership, membership) != membership {
            self.outputs.push_back(Output::PublishTo { node });
        }
        for run in self.runs.values_mut() {
            match membership {
                Membership::Quarantined => run.quarantined.insert(node),
                Membership::Active | Membership::Pending => run.quarantined.remove(&node),
            };
        }
    }

    fn quarantined(&self) -> BTreeSet<NodeId> {
        let out = |state: &NodeState| state.membership == Membership::Quarantined;
        self.nodes.iter().filter(|(_, state)| out(state)).map(|(node, _)| *node).collect()
    }

    fn revoked(&mut self, node: NodeId) {
        if self.nodes.remove(&node).is_some() {
            for run in self.runs.values_mut() {
                run.forget_activity(node);
                run.quarantined.remove(&node);
            }
            self.audit(None, Some(node), "node revoked".to_owned());
        }
    }

    fn connected(&mut self, now: Now, node: NodeId, hello: Hello) {
        let Some(state) = self.nodes.get_mut(&node) else { return };
        state.connected = true;
        state.last_seen_ms = Some(now.unix_ms);
        state.hello = Some(hello);
        self.outputs.push_back(Output::PublishTo { node });
    }

    fn disconnected(&mut self, now: Now, node: NodeId) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.connected = false;
            state.last_seen_ms = Some(now.unix_ms);
        }
        for run in self.runs.values_mut() {
            run.forget_activity(node);
        }
    }

    fn said(&mut self, now: Now, node: NodeId, word: FromNode) {
        let Some(state) = self.nodes.get_mut(&node) else { return };
        state.last_seen_ms = Some(now.unix_ms);
        match word {
            FromNode::Hello(hello) => state.hello = Some(hello),
            FromNode::Using { run, policy } => state.using = Some(UsedPolicy { run, version: policy }),
            FromNode::Live(counts) => {
                let whole = self.runs.get(&counts.run).map(|run| run.program.context().exits.len());
                let exits = whole.or_else(|| self.resting.get(&counts.run).map(|run| run.exits));
                match exits.map(|exits| counts.check(exits)) {
                    Some(Ok(())) => state.live.note(now.unix_ms, *counts),
                    Some(Err(error)) if state.live.refuse(&error.to_string()) => {
                        let text = format!("report of inference not taken: {error}");
                        self.audit(Some(&counts.run), Some(node), text);
                    }
                    // Said before; or of a run that is not here any more.
                    Some(Err(_)) | None => {}
                }
            }
            FromNode::Report { run, activity } => {
                if let Some(run) = self.runs.get_mut(&run) {
                    run.report(node, activity);
                }
            }
            FromNode::Decline { run, query, refusal } => {
                let refusal = refusal.clipped();
                let text = format!("declined {query}: {refusal}");
                let noted = self.runs.get_mut(&run).is_some_and(|state| state.decline(node, query, refusal));
                if noted {
                    self.audit(Some(&run), Some(node), text);
                }
            }
        }
    }

    fn arrived(&mut self, node: NodeId, contribution: Contribution, ticket: Ticket) {
        // Late answers are stored too; only what nobody asked for is turned away.
        let output = match self.expected_cells(node, &contribution.run, contribution.query) {
            Ok(_) => Output::Commit { node, contribution, ticket },
            Err(rejection) => Output::Acknowledge { ticket, ack: Ack::Rejected(rejection) },
        };
        self.outputs.push_back(output);
    }

    fn committed(&mut self, node: NodeId, contribution: &Contribution, ticket: Ticket, stored: Stored) {
        let ack = match stored {
            Stored::Kept => {
                if let Some(run) = self.runs.get_mut(&contribution.run)
                    && run.is_open(contribution.query)
                {
                    run.stored(node, contribution.dataset, contribution.table);
                }
                Ack::Stored
            }
            Stored::Refused(rejection) => {
                let text = format!("contribution to {} rejected: {rejection}", contribution.query);
                self.audit(Some(&contribution.run), Some(node), text);
                if let Some(run) = self.runs.get_mut(&contribution.run) {
                    run.turned_away(node, contribution.query, &rejection);
                }
                Ack::Rejected(rejection)
            }
        };
        self.outputs.push_back(Output::Acknowledge { ticket, ack });
    }

    fn close_what_is_complete(&mut self, now: Now) {
        for run in self.runs.values_mut() {
            let members = self.nodes.iter().filter(|(_, state)| state.takes_part()).map(|(node, _)| *node);
            run.close_if_complete(now, members, &mut self.outputs);
        }
    }

    fn run_mut(&mut self, run: &RunId) -> Result<&mut RunState, RunError> {
        if !self.runs.contains_key(run) {
            return Err(self.missing(run));
        }
        self.runs.get_mut(run).ok_or_else(|| RunError::Stopped { run: run.clone() })
    }

    /// A run that is whole.
    fn run(&self, run: &RunId) -> Result<&RunState, RunError> {
        self.runs.get(run).ok_or_else(|| self.missing(run))
    }

    /// Why a run is not whole.
    fn missing(&self, run: &RunId) -> RunError {
        if self.rests(run) {
            return RunError::Stopped { run: run.clone() };
        }
        let mut known: Vec<RunId> = self.runs().cloned().collect();
        known.sort_by(|a, b| b.cmp(a));
        RunError::Unknown { run: run.to_string(), known }
    }

    fn audit(&mut self, run: Option<&RunId>, node: Option<NodeId>, text: String) {
        self.outputs.push_back(Output::Audit { run: run.cloned(), node, text });
    }
}

/// Why a node is asked nothing in a run, if so.
fn left_out(member: &NodeState, run: &RunState, node: NodeId) -> Option<String> {
    match member.membership {
        Membership::Active => run.removed_at(node).map(|_| "its contribution was removed".to_owned()),
        other => Some(other.name().to_owned()),
    }
}

/// What a node does while nothing was heard of it.
fn describe(activity: Option<&Activity>) -> String {
    match activity {
        None => "connected, has not reported yet".to_owned(),
        Some(Activity::Idle) => "idle".to_owned(),
        Some(Activity::Fetching) => "fetching the network or a snapshot".to_owned(),
        Some(Activity::Computing { query, done, of }) => format!("computing {query}: {done} of {of} samples"),
        Some(Activity::Sending { query }) => format!("sending its answer to {query}"),
    }
}
