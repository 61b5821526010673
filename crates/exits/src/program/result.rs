//! What a run found out.

use std::collections::BTreeMap;

use exeunt_stats::Table;
use serde::{Deserialize, Serialize};

use crate::Rule;
use crate::context::RunContext;
use crate::curve::{Curve, CurvePoint, read_points, static_line};
use crate::query::Query;
use crate::tally::{TallyShape, TallyView};

/// What a run found out. Thresholds were chosen on the calibration part; everything here is read on the evaluation
/// part, unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Samples of the fleet: statistics, calibration, evaluation.
    pub samples: [u64; 3],
    /// Share of the samples that the bare network gets right.
    pub network_accuracy: f64,
    /// The exits, in order.
    pub exits: Vec<ExitReport>,
    /// The front that the search found, in order of cost; its last policy is the bare network.
    pub curve: Curve,
    /// The same policies on the calibration part.
    pub calibration: Curve,
    /// "Everyone stops at exit e", and the bare network.
    pub static_line: Curve,
}

/// One exit, if everyone left there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExitReport {
    /// ONNX value name.
    pub tap: String,
    /// Cost of running that far and asking the exit, a share of the bare network's MACs.
    pub cost: f64,
    /// Share of the samples that are right, by every rule that is available.
    pub accuracy: BTreeMap<Rule, f64>,
}

impl RunResult {
    pub(super) fn new(
        context: &RunContext,
        samples: [u64; 3],
        points: Vec<CurvePoint>,
        calibration: Curve,
        tally: &TallyView,
    ) -> Self {
        let exits = context.exits.iter().enumerate().map(|(e, exit)| {
            let cuts = points.iter().filter_map(|point| match point.policy.as_static_cut() {
                Some((at, rule)) if at == e => Some((rule, point.accuracy)),
                _ => None,
            });
            ExitReport { tap: exit.tap.clone(), cost: context.cost.static_cut(e), accuracy: cuts.collect() }
        });
        Self {
            samples,
            network_accuracy: tally.network_accuracy().unwrap_or_default(),
            exits: exits.collect(),
            static_line: static_line(&points),
            curve: Curve::new(front_of(points)),
            calibration,
        }
    }
}

/// The points of a report before its static cuts: up to the bare network.
fn front_of(mut points: Vec<CurvePoint>) -> Vec<CurvePoint> {
    if let Some(network) = points.iter().position(|point| point.policy.is_off()) {
        points.truncate(network + 1);
    }
    points
}

/// The fleet's policies on one node's evaluation part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeCurve {
    /// Share of its samples that the bare network gets right.
    pub network_accuracy: f64,
    /// The policies of the front, in order of their cost on this node.
    pub points: Vec<CurvePoint>,
}

/// One node's curve, from its answer to the query that read the fleet's; `None` when it has no samples, or the query is
/// another.
#[must_use]
pub fn node_curve(context: &RunContext, query: &Query, table: &Table) -> Option<NodeCurve> {
    let Query::Evaluate { policies, .. } = query else { return None };
    let shape = TallyShape { policies: policies.len(), exits: context.exits.len() };
    let tally = TallyView::new(shape, table).ok()?;
    let network_accuracy = tally.network_accuracy()?;
    let points = front_of(read_points(&context.cost, policies, &tally));
    Some(NodeCurve { network_accuracy, points: Curve::new(points).points().to_vec() })
}
