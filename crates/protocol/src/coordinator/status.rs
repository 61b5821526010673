//! What a person may see of a run: plain values, made from the machine's state, the same for every interface.

use exeunt_exits::{CurvePoint, Policy, Rule, RunResult, Times};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use super::run::{Closed, Phase, Purpose, RunState};
use super::{Coordinator, RunError, describe, left_out};
use crate::ids::{NodeId, PolicyVersion, QueryId, RunId};
use crate::message::{Activity, Membership};
use crate::operator::{ContributionState, NodeContribution, NodePolicyState};

/// Where a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum Standing {
    /// A query is open.
    Asking {
        /// Which.
        query: QueryId,
        /// Its name.
        name: String,
    },
    /// A query is being merged and sealed.
    Sealing {
        /// Which.
        query: QueryId,
    },
    /// Everything is measured; a policy may be set.
    Ready,
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
    /// The operator ended it.
    Stopped,
}

/// Somebody the open query waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The node.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// What keeps it.
    pub reason: String,
}

/// Who answered a query, and who declined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueryStatus {
    /// Which.
    pub query: QueryId,
    /// Its name.
    pub name: String,
    /// Whether it was withdrawn for a wider scale.
    pub withdrawn: bool,
    /// Whether it belongs to a snapshot before a contribution was removed, and counts no more.
    #[serde(default)]
    pub superseded: bool,
    /// The earlier query whose answers are counted, without those that were removed: nobody was asked again.
    #[serde(default)]
    pub reused: Option<QueryId>,
    /// When it closed, in milliseconds since 1970; none while it is open. The coordinator's store knows, not the machine.
    #[serde(default)]
    pub closed_ms: Option<u64>,
    /// Nodes whose tables were counted, or are stored so far.
    pub answered: Vec<NodeId>,
    /// Nodes that declined.
    pub declined: Vec<NodeAnswer>,
}

/// A node that declined, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub reason: String,
}

/// A policy that was set or tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its version; of those that were set, the highest is in force.
    pub version: PolicyVersion,
    /// Whether it was set or only tried. It is measured on the evaluation part or on the calibration part accordingly.
    pub purpose: Purpose,
    /// The node it was set for alone; none where it is the fleet's.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Whether it was set for one node and taken back.
    #[serde(default)]
    pub cleared: bool,
    /// Whether it belongs to a snapshot before a contribution was removed: it is not measured with this one.
    #[serde(default)]
    pub superseded: bool,
    /// When, in milliseconds since 1970.
    pub set_at_ms: u64,
    /// The wish it came from.
    pub asked: String,
    /// The policy.
    pub policy: Policy,
    /// Mean cost, once measured; a share of the bare network's MACs.
    pub cost: Option<f64>,
    /// Accuracy, once measured.
    pub accuracy: Option<f64>,
    /// Share of the samples that left at each exit; the network's own output is last.
    pub left: Vec<f64>,
    /// Mean milliseconds of a sample, once measured: the cost on the clock (see [`RunTimes`]).
    #[serde(default)]
    pub mean_ms: Option<f64>,
}

/// What samples cost on the clock, as a mean over the nodes that measured it on their own hardware, batch 1.
///
/// The milliseconds axis of every chart: `curve_ms[i]` is where `result.curve`'s point `i` lies, `network_ms` where the
/// bare network does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunTimes {
    /// The network in one piece, its segments, and deciding at each exit.
    #[serde(flatten)]
    pub times: Times,
    /// Per exit, a sample if everyone leaves there.
    pub exits_ms: Vec<f64>,
    /// Mean milliseconds of a sample, for every point of `result.curve`, in its order.
    pub curve_ms: Vec<f64>,
    /// The same for every point of `result.static_line`.
    pub static_line_ms: Vec<f64>,
}

impl RunTimes {
    fn new(times: &Times, result: &RunResult) -> Self {
        let exits = result.exits.len();
        // Either rule costs the same: one matrix product.
        let cut = |e| Policy::static_cut(exits, e, Rule::Whitened);
        Self {
            exits_ms: (0..exits).map(|e| times.ms(&cut(e), e)).collect(),
            curve_ms: along(times, result.curve.points()),
            static_line_ms: along(times, result.static_line.points()),
            times: times.clone(),
        }
    }
}

fn along(times: &Times, points: &[CurvePoint]) -> Vec<f64> {
    points.iter().map(|point| times.mean_ms(&point.policy, &point.exit_share)).collect()
}

/// An exit and the rules it ended up with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// ONNX value name.
    pub tap: String,
    /// Numbers per sample after pooling.
    pub dim: usize,
    /// Why it lacks the whitened rule, if it was asked for and could not be made.
    pub whitened_unavailable: Option<String>,
}

/// A run, as seen from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunStatus {
    /// The run.
    pub run: RunId,
    /// Where it stands.
    pub standing: Standing,
    /// Whom the open query waits for.
    pub waiting_for: Vec<Waiting>,
    /// Tables the open query has, and how many it needs before its deadline may close it.
    pub answers: usize,
    /// See `answers`.
    pub quorum: usize,
    /// Seconds until the deadline may close the open query.
    pub deadline_in_s: Option<u64>,
    /// Every query so far, the open one last.
    pub queries: Vec<QueryStatus>,
    /// The exits.
    pub exits: Vec<ExitStatus>,
    /// The snapshot in force.
    pub snapshot: Option<Digest>,
    /// What was measured, when everything is.
    pub result: Option<RunResult>,
    /// What that costs on the clock; none before nodes have measured it, and in runs that were begun before they could.
    #[serde(default)]
    pub times: Option<RunTimes>,
    /// Every policy that was set or tried, oldest first.
    pub policies: Vec<PolicyStatus>,
    /// Nodes whose contribution was removed, in that order.
    #[serde(default)]
    pub removed: Vec<NodeId>,
}

/// A node, as seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node: NodeId,
    /// What its operator calls it.
    pub name: String,
    /// Whether its control stream is up.
    pub connected: bool,
    /// When it was last heard of since the coordinator started, in milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
    /// Name and version of its software.
    pub software: Option<String>,
    /// Name and version of its engine.
    pub engine: Option<String>,
    /// Whether it takes part.
    #[serde(default)]
    pub membership: Membership,
    /// The run and version of the policy that it has said it infers with.
    #[serde(default)]
    pub using: Option<UsedPolicy>,
    /// When the certificate it connected with expires, in milliseconds since 1970. It renews it by itself before.
    #[serde(default)]
    pub certificate_expires_ms: Option<u64>,
}

/// The policy that a node has said it infers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedPolicy {
    /// The run it belongs to.
    pub run: RunId,
    /// Its version.
    pub version: PolicyVersion,
}

impl RunStatus {
    /// The policy that nodes are to infer with, those excepted that have one of their own.
    pub fn in_force(&self) -> Option<&PolicyStatus> {
        self.policies.iter().rfind(|policy| policy.purpose == Purpose::Force && policy.node.is_none())
    }

    /// The policy that a node is to infer with: its own, or else the fleet's.
    pub fn in_force_at(&self, node: NodeId) -> Option<&PolicyStatus> {
        let own = |policy: &&PolicyStatus| {
            policy.purpose == Purpose::Force && policy.node == Some(node) && !policy.cleared
        };
        self.policies.iter().rev().find(own).or_else(|| self.in_force())
    }
}

impl Coordinator {
    /// Every node, by id.
    pub fn node_statuses(&self) -> Vec<NodeStatus> {
        let status = |(node, state): (&NodeId, &super::NodeState)| NodeStatus {
            node: *node,
            name: state.name.clone(),
            connected: state.connected,
            last_seen_ms: state.last_seen_ms,
            software: state.hello.as_ref().map(|hello| hello.software.clone()),
            engine: state.hello.as_ref().map(|hello| hello.engine.clone()),
            membership: state.membership,
            using: state.using.clone(),
            certificate_expires_ms: state.certificate_expires_ms,
        };
        self.nodes.iter().map(status).collect()
    }

    /// What a node is called.
    pub fn node_name(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|state| state.name.as_str())
    }

    /// Where a run stands.
    ///
    /// # Errors
    /// [`RunError::Unknown`]; [`RunError::Stopped`] when the run rests.
    pub fn run_status(&self, now: super::Now, run: &RunId) -> Result<RunStatus, RunError> {
        let state = self.run(run)?;
        let open = state.open_query();
        Ok(RunStatus {
            run: run.clone(),
            standing: standing(&state.phase),
            waiting_for: self.waiting_for(state),
            answers: open.map_or(0, |open| open.stored.len()),
            quorum: open.map_or(state.options.quorum as usize, |open| state.needed(open)),
            deadline_in_s: match &state.phase {
                Phase::Asking(open) => Some(state.closes(open).saturating_sub(now.monotonic).as_secs()),
                _ => None,
            },
            queries: self.queries_of(state),
            exits: exits(state),
            snapshot: state.snapshot(),
            result: state.program.result().cloned(),
            times: state
                .program
                .times()
                .zip(state.program.result())
                .map(|(times, result)| RunTimes::new(times, result)),
            policies: policies(state),
            removed: state.removed.iter().map(|removal| removal.node).collect(),
        })
    }

    fn waiting_for(&self, run: &RunState) -> Vec<Waiting> {
        let Phase::Asking(open) = &run.phase else { return Vec::new() };
        let missing = self.nodes.iter().filter(|(node, state)| {
            !open.stored.contains_key(node)
                && !open.declined.contains_key(node)
                && left_out(state, run, **node).is_none()
        });
        missing
            .map(|(node, state)| Waiting {
                node: *node,
                name: state.name.clone(),
                reason: keeps(state, run, *node),
            })
            .collect()
    }

    fn queries_of(&self, state: &RunState) -> Vec<QueryStatus> {
        let status = |closed: &Closed, superseded: bool| QueryStatus {
            query: closed.id,
            name: closed.name.to_owned(),
            withdrawn: closed.withdrawn,
            superseded,
            reused: closed.reused,
            closed_ms: None,
            answered: closed.cohort.clone(),
            declined: closed
                .declined
                .iter()
                .map(|(node, reason)| NodeAnswer { node: *node, reason: reason.clone() })
                .collect(),
        };
        let superseded = state.superseded.iter().map(|closed| status(closed, true));
        let closed = state.history.iter().map(|closed| status(closed, false));
        let open = state.open_query().map(|open| {
            let declined = open.declined.iter().map(|(node, why)| (*node, why.to_string()));
            // Who is not asked is named with those who declined: neither is waited for.
            let silent = self.nodes.iter().filter(|(node, _)| !open.declined.contains_key(node));
            let not_asked = silent.filter_map(|(node, known)| Some((*node, left_out(known, state, *node)?)));
            QueryStatus {
                query: open.id,
                name: open.name.to_owned(),
                withdrawn: false,
                superseded: false,
                reused: open.reused.as_ref().map(|reused| reused.origin),
                closed_ms: None,
                answered: open.stored.keys().copied().collect(),
                declined: declined
                    .chain(not_asked)
                    .map(|(node, reason)| NodeAnswer { node, reason })
                    .collect(),
            }
        });
        superseded.chain(closed).chain(open).collect()
    }

    /// What became of a node's answer to the query that is open, or else to the last one. None before anything was
    /// asked, and for a node that is not known.
    pub fn contribution(&self, run: &RunId, node: NodeId) -> Option<NodeContribution> {
        let (state, known) = (self.runs.get(run)?, self.nodes.get(&node)?);
        let refused = |query: QueryId| state.turned_away.get(&node).filter(|turned| turned.query == query);
        if let Phase::Asking(open) = &state.phase {
            let answer = if let Some(reason) = left_out(known, state, node) {
                ContributionState::LeftOut { reason }
            } else if open.stored.contains_key(&node) {
                ContributionState::Stored
            } else if let Some(why) = open.declined.get(&node) {
                ContributionState::Declined { reason: why.to_string() }
            } else if let Some(turned) = refused(open.id) {
                ContributionState::Rejected { reason: turned.reason.clone() }
            } else {
                match state.activity.get(&node) {
                    Some(Activity::Computing { query, done, of }) if *query == open.id => {
                        ContributionState::Computing { done: *done, of: *of }
                    }
                    Some(Activity::Sending { query }) if *query == open.id => ContributionState::Sending,
                    _ => ContributionState::Waiting { reason: keeps(known, state, node) },
                }
            };
            return Some(NodeContribution { query: open.id, state: answer });
        }
        let last = state.history.iter().rfind(|closed| !closed.withdrawn)?;
        let declined = last.declined.iter().find(|(who, _)| *who == node);
        let answer = match declined {
            _ if last.cohort.contains(&node) => ContributionState::Counted,
            Some((_, reason)) => ContributionState::Declined { reason: reason.clone() },
            None => match (refused(last.id), left_out(known, state, node)) {
                (Some(turned), _) => ContributionState::Rejected { reason: turned.reason.clone() },
                (None, Some(reason)) => ContributionState::LeftOut { reason },
                (None, None) => ContributionState::Missing,
            },
        };
        Some(NodeContribution { query: last.id, state: answer })
    }

    /// Which policy of a run a node is to infer with, and does.
    pub fn policy_state(&self, run: &RunId, node: NodeId) -> NodePolicyState {
        let record = self.runs.get(run).and_then(|state| state.record_in_force(node));
        let using = self.nodes.get(&node).and_then(|known| known.using.as_ref());
        NodePolicyState {
            wanted: record.map(|record| record.version),
            overridden: record.is_some_and(|record| record.node.is_some()),
            using: using.filter(|using| using.run == *run).map(|using| using.version),
        }
    }
}

/// What keeps a node that is waited for.
fn keeps(state: &super::NodeState, run: &RunState, node: NodeId) -> String {
    match (state.connected, state.last_seen_ms) {
        (true, _) => describe(run.activity.get(&node)),
        (false, Some(_)) => "disconnected".to_owned(),
        (false, None) => "not seen since the coordinator started".to_owned(),
    }
}

fn standing(phase: &Phase) -> Standing {
    match phase {
        Phase::Asking(open) => Standing::Asking { query: open.id, name: open.name.to_owned() },
        Phase::Sealing(open) => Standing::Sealing { query: open.id },
        Phase::Ready => Standing::Ready,
        Phase::Failed { why } => Standing::Failed { why: why.clone() },
        Phase::Stopped => Standing::Stopped,
    }
}

fn exits(state: &RunState) -> Vec<ExitStatus> {
    let heads = state.program.heads();
    let context = state.program.context();
    let status = |(e, exit): (usize, &exeunt_exits::ExitContext)| ExitStatus {
        tap: exit.tap.clone(),
        dim: exit.dim,
        whitened_unavailable: heads
            .and_then(|heads| heads.whitened_unavailable(e))
            .map(|why| why.to_string()),
    };
    context.exits.iter().enumerate().map(status).collect()
}

fn policies(state: &RunState) -> Vec<PolicyStatus> {
    let generation = state.generation();
    let status = |record: &super::PolicyRecord| {
        let point = state.point_of(record.version);
        PolicyStatus {
            version: record.version,
            purpose: record.purpose,
            node: record.node,
            cleared: record.cleared,
            superseded: record.generation != generation,
            set_at_ms: record.set_at_ms,
            asked: record.asked.clone(),
            policy: record.policy.clone(),
            cost: point.map(|point| point.cost),
            accuracy: point.map(|point| point.accuracy),
            left: point.map(|point| point.exit_share.clone()).unwrap_or_default(),
            mean_ms: point
                .zip(state.program.times())
                .map(|(point, times)| times.mean_ms(&point.policy, &point.exit_share)),
        }
    };
    state.policies.iter().map(status).collect()
}

impl RunState {
    /// What a policy did when it was measured, if it was since the last contribution was removed.
    pub(super) fn point_of(&self, version: PolicyVersion) -> Option<&CurvePoint> {
        let generation = self.generation();
        let mut of_this = self.policies.iter().filter(|record| record.generation == generation);
        self.program.previews().get(of_this.position(|record| record.version == version)?)
    }
}
