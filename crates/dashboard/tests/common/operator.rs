//! What a coordinator reports once a fleet infers, measures time and is looked after.

use std::sync::Arc;

use exeunt_dashboard::State;
use exeunt_exits::{Drift, MARGIN_BINS, Times};
use exeunt_protocol::coordinator::{Purpose, RunTimes};
use exeunt_protocol::live::LiveCounts;
use exeunt_protocol::message::Membership;
use exeunt_protocol::operator::{
    ClassCounts, CostPoint, ExitShift, LiveMoment, NamedPolicy, NodeLive, NodeTimes, SnapshotDiff,
    SnapshotRow,
};
use exeunt_protocol::{NodeId, PolicyVersion, QueryId};
use exeunt_stats::Digest;

use super::{NOW_MS, node_id, noise};

fn change(state: &mut State, node: NodeId, change: impl FnOnce(&mut exeunt_protocol::operator::NodeRow)) {
    let mut rows = state.nodes.to_vec();
    change(rows.iter_mut().find(|row| row.status.node == node).expect("the node"));
    state.nodes = rows.into();
}

/// A node is in another standing.
pub(crate) fn member(state: &mut State, i: usize, membership: Membership) {
    change(state, node_id(i), |row| row.status.membership = membership);
}

/// A node has a policy of its own, which is not there yet.
pub(crate) fn overridden(state: &mut State, i: usize) {
    let mut report = (**state.report.as_ref().expect("a run")).clone();
    let mut own = report.status.policies.last().expect("a policy").clone();
    own.version = PolicyVersion(own.version.0 + 1);
    own.node = Some(node_id(i));
    own.purpose = Purpose::Force;
    let version = own.version;
    report.status.policies.push(own);
    let given = report.nodes.iter_mut().find(|given| given.node == node_id(i)).expect("the node");
    given.policy.wanted = Some(version);
    given.policy.overridden = true;
    state.report = Some(Arc::new(report));
}

/// The coordinator keeps the policy in force under a name.
pub(crate) fn named(state: &mut State, name: &str) {
    let mut report = (**state.report.as_ref().expect("a run")).clone();
    let force = report.status.in_force().expect("a policy").clone();
    report.named.push(NamedPolicy {
        name: name.to_owned(),
        version: force.version,
        policy: force.policy,
        saved_ms: NOW_MS,
    });
    state.report = Some(Arc::new(report));
}

/// Every node has measured its times.
pub(crate) fn timed(state: &mut State) {
    let mut report = (**state.report.as_ref().expect("a run")).clone();
    let times = |factor: f64| Times {
        nodes: 1,
        network_ms: 9.0 * factor,
        segments_ms: [2.1, 2.0, 2.2, 2.1, 2.0].map(|ms| ms * factor).to_vec(),
        decisions_ms: vec![0.12 * factor; 4],
    };
    let result = report.status.result.clone().expect("a result");
    let all = times(1.0);
    let along = |points: &[exeunt_exits::CurvePoint]| {
        points.iter().map(|point| all.mean_ms(&point.policy, &point.exit_share)).collect()
    };
    report.status.times = Some(RunTimes {
        exits_ms: vec![2.2, 4.3, 6.6, 8.8],
        curve_ms: along(result.curve.points()),
        static_line_ms: along(result.static_line.points()),
        times: all,
    });
    for (i, given) in report.nodes.iter_mut().enumerate() {
        let factor = 0.6 + noise(i as u64 + 77);
        let curve_ms = given.curve.iter().map(|point| point.cost * 9.6 * factor).collect();
        given.times = Some(NodeTimes { times: times(factor), curve_ms });
    }
    state.report = Some(Arc::new(report));
}

/// Every node reports what its inference does; every ninth of them drifts.
pub(crate) fn live(state: &mut State) {
    let report = state.report.clone().expect("a run");
    let force = report.status.in_force().expect("a policy");
    let of = |i: usize| {
        let drifts = i % 9 == 4;
        let expected = &force.left;
        let total = 400.0 + 4_000.0 * noise(i as u64 + 31);
        let share = |e: usize, t: f64| {
            let late = if drifts && t > 0.3 { 0.8 } else { 0.0 };
            expected[e] * (1.0 - late) + if e + 1 == expected.len() { late } else { 0.0 }
        };
        let mut left = vec![0_u64; expected.len()];
        let history: Vec<LiveMoment> = (0..48_u64)
            .map(|k| {
                let t = k as f64 / 48.0;
                let busy = 0.4 + 0.6 * (t * 9.0 + i as f64).sin().abs();
                left.iter_mut()
                    .enumerate()
                    .for_each(|(e, n)| *n += (total / 30.0 * busy * share(e, t)) as u64);
                LiveMoment { at_ms: NOW_MS - 60_000 * (48 - k), left: left.clone(), sampled: 0, agreed: 0 }
            })
            .collect();
        let mut counts = LiveCounts::new(
            report.status.run.clone(),
            force.version,
            expected.len() - 1,
            NOW_MS - 49 * 60_000,
        );
        counts.left = left;
        let samples = counts.samples();
        counts.bare_macs = samples * 1_000;
        counts.macs = (samples as f64 * 460.0) as u64;
        counts.sampled = samples / 50;
        counts.agreed = counts.sampled * 97 / 100;
        counts.margins = vec![Some([counts.sampled / MARGIN_BINS as u64; MARGIN_BINS]); 4];
        (counts.busy_ns, counts.timed) = (samples * 4_100_000, samples);
        counts.milliwatts = Some(4_500);
        NodeLive {
            node: node_id(i),
            name: format!("node-{i}"),
            at_ms: NOW_MS - 20_000,
            cost: counts.cost(),
            agreement: counts.agreement(),
            mean_ms: counts.mean_ms(),
            joules: counts.joules(),
            joules_saved: counts.joules_saved(),
            drift: Drift::of(expected, &counts.left),
            margin_drift: vec![None; 4],
            counts,
            history,
        }
    };
    state.live = (0..state.nodes.len()).map(of).collect();
}

/// What a node gave was removed: there is a second snapshot, and it was compared with the first.
pub(crate) fn snapshots(state: &mut State) {
    let run = state.run().expect("a run").clone();
    let all: Vec<NodeId> = state.nodes.iter().map(|row| row.status.node).collect();
    let row = |version: u32, cohort: Vec<NodeId>, reason: &str| SnapshotRow {
        version,
        at_ms: NOW_MS - 3_600_000 * u64::from(3 - version),
        query: QueryId(version),
        samples: cohort.len() as u64 * 610,
        cohort,
        digest: Digest::of(reason.as_bytes()),
        reason: reason.to_owned(),
    };
    let first = row(1, all.clone(), "first");
    let second = row(2, all[1..].to_vec(), "contribution of node-0 removed");
    state.snapshots = Arc::new([first.clone(), second.clone()]);
    state.diff = Some(Arc::new(SnapshotDiff {
        run,
        from: first,
        to: second,
        joined: Vec::new(),
        left: vec![node_id(0)],
        classes: (0..10)
            .map(|k| ClassCounts { class: k.to_string(), from: 480 + k, to: 480 - 5 * k })
            .collect(),
        exits: (0..4)
            .map(|e| ExitShift {
                tap: format!("/stage{e}/stage{e}.1/relu2/Relu_output_0"),
                mean: Some(0.011 + 0.002 * f64::from(e)),
                farthest: Some("7".to_owned()),
                most: Some(0.041),
            })
            .collect(),
        accuracy_at_cost: [0.25, 0.5, 0.75]
            .map(|cost| CostPoint { cost, from: Some(0.9 + cost / 20.0), to: Some(0.899 + cost / 20.0) })
            .to_vec(),
    }));
}
