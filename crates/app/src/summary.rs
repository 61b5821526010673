//! The object that `simulate --json` and `demo --json` end with.

use std::collections::BTreeMap;
use std::time::Duration;

use exeunt_exits::{ExitReport, Policy, Rule};
use exeunt_protocol::coordinator::RunTimes;
use exeunt_protocol::operator::{NodeReport, NodeTimes, QueryTraffic, RunReport};
use serde::Serialize;

/// See `docs/json.md`. Fields are added, never renamed.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    run: String,
    nodes: usize,
    samples: Samples,
    network_accuracy: f64,
    exits: Vec<Exit>,
    curve: Vec<Point>,
    calibration: Vec<Point>,
    #[serde(rename = "static")]
    static_line: Vec<Point>,
    times: Option<RunTimes>,
    digest: String,
    bytes_up: BTreeMap<String, u64>,
    bytes_down: BTreeMap<String, u64>,
    per_node: Vec<Node>,
    queries: Vec<Query>,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Samples {
    statistics: u64,
    calibration: u64,
    evaluation: u64,
}

#[derive(Debug, Serialize)]
struct Exit {
    tap: String,
    cost: f64,
    accuracy: BTreeMap<Rule, f64>,
    whitened_unavailable: Option<String>,
}

#[derive(Debug, Serialize)]
struct Point {
    cost: f64,
    accuracy: f64,
    policy: Policy,
    left: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Node {
    name: String,
    samples: Option<[u64; 3]>,
    withheld_classes: Option<u64>,
    without_second_moments: Vec<usize>,
    network_accuracy: Option<f64>,
    curve: Vec<exeunt_protocol::operator::NodePoint>,
    times: Option<NodeTimes>,
    traffic: Vec<QueryTraffic>,
}

#[derive(Debug, Serialize)]
struct Query {
    query: u32,
    name: String,
    answered: usize,
    declined: BTreeMap<String, String>,
    bytes_up: u64,
    bytes_down: u64,
}

impl Summary {
    /// None while the run is not ready.
    pub(crate) fn new(report: &RunReport, took: Duration) -> Option<Self> {
        let result = report.status.result.as_ref()?;
        let [statistics, calibration, evaluation] = result.samples;
        let exits = result.exits.iter().zip(&report.status.exits);
        Some(Self {
            run: report.status.run.to_string(),
            nodes: report.nodes.len(),
            samples: Samples { statistics, calibration, evaluation },
            network_accuracy: result.network_accuracy,
            exits: exits
                .map(|(ExitReport { tap, cost, accuracy }, status)| Exit {
                    tap: tap.clone(),
                    cost: *cost,
                    accuracy: accuracy.clone(),
                    whitened_unavailable: status.whitened_unavailable.clone(),
                })
                .collect(),
            curve: points(result.curve.points()),
            calibration: points(result.calibration.points()),
            static_line: points(result.static_line.points()),
            times: report.status.times.clone(),
            digest: report.digest.to_string(),
            bytes_up: total(&report.nodes, |traffic| traffic.up),
            bytes_down: total(&report.nodes, |traffic| traffic.down),
            per_node: report.nodes.iter().map(node).collect(),
            queries: queries(report),
            seconds: took.as_secs_f64(),
        })
    }
}

fn points(points: &[exeunt_exits::CurvePoint]) -> Vec<Point> {
    let point = |p: &exeunt_exits::CurvePoint| Point {
        cost: p.cost,
        accuracy: p.accuracy,
        policy: p.policy.clone(),
        left: p.exit_share.clone(),
    };
    points.iter().map(point).collect()
}

fn total(nodes: &[NodeReport], bytes: impl Fn(&QueryTraffic) -> u64) -> BTreeMap<String, u64> {
    nodes.iter().map(|node| (node.name.clone(), node.traffic.iter().map(&bytes).sum())).collect()
}

fn node(node: &NodeReport) -> Node {
    Node {
        name: node.name.clone(),
        samples: node.samples,
        withheld_classes: node.withheld_classes,
        without_second_moments: node.without_second_moments.clone(),
        network_accuracy: node.network_accuracy,
        curve: node.curve.clone(),
        times: node.times.clone(),
        traffic: node.traffic.clone(),
    }
}

fn queries(report: &RunReport) -> Vec<Query> {
    let name = |id| {
        let node = report.nodes.iter().find(|node| node.node == id);
        node.map_or_else(|| id.to_string(), |node| node.name.clone())
    };
    let query = |query: &exeunt_protocol::coordinator::QueryStatus| {
        let traffic =
            || report.nodes.iter().flat_map(|node| &node.traffic).filter(|t| t.query == query.query);
        Query {
            query: query.query.0,
            name: query.name.clone(),
            answered: query.answered.len(),
            declined: query.declined.iter().map(|d| (name(d.node), d.reason.clone())).collect(),
            bytes_up: traffic().map(|t| t.up).sum(),
            bytes_down: traffic().map(|t| t.down).sum(),
        }
    };
    report.status.queries.iter().map(query).collect()
}
