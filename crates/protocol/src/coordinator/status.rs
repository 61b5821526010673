//! What a person may see of a run: plain values, made from the machine's state, the same for every interface.

use exeunt_exits::{CurvePoint, Policy, Rule, RunResult, Times};
use exeunt_stats::Digest;
use serde::{Deserialize, Serialize};

use super::run::{Phase, Purpose, RunState};
use super::{Coordinator, RunError, describe, unknown};
use crate::ids::{NodeId, PolicyVersion, QueryId, RunId};

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
}

impl RunStatus {
    /// The policy that nodes are to infer with.
    pub fn in_force(&self) -> Option<&PolicyStatus> {
        self.policies.iter().rfind(|policy| policy.purpose == Purpose::Force)
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
    /// [`RunError::Unknown`].
    pub fn run_status(&self, now: super::Now, run: &RunId) -> Result<RunStatus, RunError> {
        let state = self.runs.get(run).ok_or_else(|| unknown(&self.runs, run.as_str()))?;
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
            queries: queries(state),
            exits: exits(state),
            snapshot: state.snapshot(),
            result: state.program.result().cloned(),
            times: state
                .program
                .times()
                .zip(state.program.result())
                .map(|(times, result)| RunTimes::new(times, result)),
            policies: policies(state),
        })
    }

    fn waiting_for(&self, run: &RunState) -> Vec<Waiting> {
        let Phase::Asking(open) = &run.phase else { return Vec::new() };
        let missing = self
            .nodes
            .iter()
            .filter(|(node, _)| !open.stored.contains_key(node) && !open.declined.contains_key(node));
        missing
            .map(|(node, state)| Waiting {
                node: *node,
                name: state.name.clone(),
                reason: match (state.connected, state.last_seen_ms) {
                    (true, _) => describe(run.activity.get(node)),
                    (false, Some(_)) => "disconnected".to_owned(),
                    (false, None) => "not seen since the coordinator started".to_owned(),
                },
            })
            .collect()
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

fn queries(state: &RunState) -> Vec<QueryStatus> {
    let closed = state.history.iter().map(|closed| QueryStatus {
        query: closed.id,
        name: closed.name.to_owned(),
        withdrawn: closed.withdrawn,
        answered: closed.cohort.clone(),
        declined: closed
            .declined
            .iter()
            .map(|(node, reason)| NodeAnswer { node: *node, reason: reason.clone() })
            .collect(),
    });
    let open = state.open_query().map(|open| QueryStatus {
        query: open.id,
        name: open.name.to_owned(),
        withdrawn: false,
        answered: open.stored.keys().copied().collect(),
        declined: open
            .declined
            .iter()
            .map(|(node, why)| NodeAnswer { node: *node, reason: why.to_string() })
            .collect(),
    });
    closed.chain(open).collect()
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
    let measured = state.program.previews();
    let status = |(i, record): (usize, &super::PolicyRecord)| {
        let point = measured.get(i);
        PolicyStatus {
            version: record.version,
            purpose: record.purpose,
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
    state.policies.iter().enumerate().map(status).collect()
}
