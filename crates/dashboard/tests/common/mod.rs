//! A federation as a coordinator would report it, of any size, the same every time.

#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod operator;

use std::sync::Arc;

use exeunt_dashboard::{
    Command, Commands, Dashboard, Level, Link, LogLine, Notice, Place, PlaceKind, Settings, State, Token,
};
use exeunt_exits::{
    Curve, CurvePoint, ExitReport, ExitRule, Policy, Quantiles, Rule, RunResult, static_line,
};
use exeunt_protocol::coordinator::{
    ExitStatus, NodeStatus, PolicyStatus, Purpose, QueryStatus, RunStatus, Standing, UsedPolicy, Waiting,
};
use exeunt_protocol::message::Membership;
use exeunt_protocol::operator::{
    AuditLine, ContributionState, Coverage, NodeContribution, NodePoint, NodePolicy, NodePolicyState,
    NodeReport, NodeRow, QueryTraffic, RunReport, RunRow,
};
use exeunt_protocol::{NodeId, PolicyVersion, QueryId};
use exeunt_stats::Digest;

/// The time in every test.
pub(crate) const NOW_MS: u64 = 1_764_000_000_000;
const EXITS: usize = 4;
const NETWORK: f64 = 0.962;
/// Cost of leaving at each exit.
const CUTS: [f64; EXITS] = [0.18, 0.36, 0.57, 0.79];

/// A number in 0..1 that looks random and never changes.
pub(crate) fn noise(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

pub(crate) fn node_id(i: usize) -> NodeId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(i as u64).to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn row(i: usize) -> NodeRow {
    let connected = noise(i as u64) > 0.06;
    NodeRow {
        short: format!("{:04x}-{:04x}", (noise(i as u64 + 7) * 65_535.0) as u32, i),
        status: NodeStatus {
            node: node_id(i),
            name: format!("node-{i}"),
            connected,
            last_seen_ms: Some(NOW_MS - (noise(i as u64 + 3) * 5e6) as u64),
            software: Some("exeunt-node 0.1.0".to_owned()),
            engine: Some("tract 0.23".to_owned()),
            membership: Membership::Active,
            using: Some(UsedPolicy { run: "digits-1".parse().expect("a run id"), version: PolicyVersion(2) }),
            certificate_expires_ms: Some(NOW_MS + 20 * 86_400_000),
        },
        revoked: i % 97 == 96,
        enrolled_ms: NOW_MS - 86_400_000,
        bytes_up: 1_200_000,
        bytes_down: 48_000,
    }
}

fn shares(cost: f64) -> Vec<f64> {
    let early = ((1.0 - cost) / (1.0 - CUTS[0])).clamp(0.0, 1.0);
    let parts = [0.42, 0.27, 0.19, 0.12].map(|part| part * early);
    parts.into_iter().chain([1.0 - early]).collect()
}

fn accuracy(cost: f64, top: f64) -> f64 {
    top - 0.46 * (1.0 - cost).max(0.0).powf(2.7) - 0.02 * (1.0 - cost).max(0.0)
}

/// Thresholds that let more leave the cheaper the policy is.
fn policy(cost: f64) -> Policy {
    let rule = |e: usize| ExitRule::new(Rule::Whitened, 1.0 + 9.0 * cost - e as f64 * 0.6);
    Policy { exits: (0..EXITS).map(|e| Some(rule(e))).collect() }
}

fn point(cost: f64, top: f64) -> CurvePoint {
    let policy = if cost >= 1.0 { Policy::off(EXITS) } else { policy(cost) };
    let accuracy = if cost >= 1.0 { top } else { accuracy(cost, top) };
    CurvePoint { cost, accuracy, loss: 0.0, exit_share: shares(cost), policy }
}

fn result() -> RunResult {
    let costs: Vec<f64> = (0..60).map(|i| 0.21 + 0.79 * f64::from(i) / 59.0).collect();
    let curve = |top: f64| Curve::new(costs.iter().map(|cost| point(*cost, top)).collect());
    let cuts = CUTS.iter().enumerate().map(|(e, cost)| CurvePoint {
        policy: Policy::static_cut(EXITS, e, Rule::Whitened),
        accuracy: accuracy(*cost, NETWORK) - 0.055,
        ..point(*cost, NETWORK)
    });
    let fixed: Vec<CurvePoint> = cuts.chain([point(1.0, NETWORK)]).collect();
    RunResult {
        samples: [14_400, 1_800, 1_800],
        network_accuracy: NETWORK,
        exits: CUTS
            .iter()
            .enumerate()
            .map(|(e, cost)| ExitReport {
                tap: tap(e),
                cost: *cost,
                accuracy: [(Rule::Whitened, accuracy(*cost, NETWORK) - 0.055)].into(),
            })
            .collect(),
        curve: curve(NETWORK),
        calibration: curve(NETWORK + 0.004),
        static_line: static_line(&fixed),
    }
}

fn tap(e: usize) -> String {
    format!("/stage{}/stage{}.1/relu2/Relu_output_0", e + 1, e + 1)
}

fn given(i: usize, in_force: Option<PolicyVersion>) -> NodeReport {
    let shift = (noise(i as u64 + 11) - 0.5) * 0.07;
    let samples = 40 + (noise(i as u64 + 5) * 400.0) as u64;
    let curve = (0..40_u32).map(|k| {
        let cost = 0.2 + 0.8 * f64::from(k) / 39.0;
        let wobble = (noise(i as u64 * 40 + u64::from(k)) - 0.5) * 0.006;
        NodePoint { cost, accuracy: accuracy(cost, NETWORK + shift) + wobble }
    });
    let force = in_force.map(|version| NodePolicy {
        version,
        cost: 0.46 + shift,
        accuracy: accuracy(0.46, NETWORK + shift),
        left: shares(0.46 + shift),
    });
    NodeReport {
        node: node_id(i),
        name: format!("node-{i}"),
        samples: Some([samples * 8, samples, samples]),
        withheld_classes: Some(u64::from(noise(i as u64 + 2) > 0.8)),
        withheld: Vec::new(),
        without_second_moments: if noise(i as u64 + 9) > 0.9 { vec![3] } else { Vec::new() },
        network_accuracy: Some(NETWORK + shift),
        policies: force.into_iter().collect(),
        contribution: Some(NodeContribution { query: QueryId(15), state: ContributionState::Counted }),
        policy: NodePolicyState { wanted: in_force, overridden: false, using: in_force },
        curve: curve.collect(),
        times: None,
        traffic: (0..16)
            .map(|q| QueryTraffic { query: QueryId(q), up: 1_000 + samples * 7, down: 3_000 })
            .collect(),
    }
}

/// When each of the queries closed, in seconds after the first was asked.
const ENDS: [u64; 16] = [1, 4, 190, 240, 300, 350, 390, 460, 530, 610, 690, 770, 850, 930, 1_010, 1_090];
const QUERIES: [&str; 16] = [
    "census",
    "range",
    "moments",
    "spread",
    "confidence",
    "confidence",
    "confidence",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
    "evaluate",
];

/// A run of `nodes` nodes of which every query is answered, with a policy in force.
pub(crate) fn report(nodes: usize) -> RunReport {
    let result = result();
    let force = result.curve.points()[18].clone();
    let in_force = Some(PolicyVersion(2));
    let set = |version: u32, point: &CurvePoint| PolicyStatus {
        version: PolicyVersion(version),
        purpose: Purpose::Force,
        node: None,
        cleared: false,
        superseded: false,
        set_at_ms: NOW_MS - 600_000 * u64::from(4 - version),
        asked: "thresholds at 4 exits".to_owned(),
        policy: point.policy.clone(),
        cost: Some(point.cost),
        accuracy: Some(point.accuracy),
        left: point.exit_share.clone(),
        mean_ms: None,
    };
    let policies = vec![set(1, &result.curve.points()[30]), set(2, &force)];
    RunReport {
        status: RunStatus {
            run: "digits-1".parse().expect("a run id"),
            standing: Standing::Ready,
            waiting_for: Vec::new(),
            answers: 0,
            quorum: nodes,
            deadline_in_s: None,
            queries: QUERIES
                .iter()
                .enumerate()
                .map(|(q, name)| QueryStatus {
                    query: QueryId(q as u32),
                    name: (*name).to_owned(),
                    withdrawn: false,
                    superseded: false,
                    reused: None,
                    closed_ms: Some(NOW_MS - 3_900_000 + ENDS[q] * 1_000),
                    answered: (0..nodes).map(node_id).collect(),
                    declined: Vec::new(),
                })
                .collect(),
            exits: (0..EXITS)
                .map(|e| ExitStatus { tap: tap(e), dim: 64, whitened_unavailable: None })
                .collect(),
            snapshot: Some(Digest::of(b"snapshot")),
            result: Some(result),
            times: None,
            policies,
            removed: Vec::new(),
        },
        digest: Digest::of(b"tables"),
        nodes: (0..nodes).map(|i| given(i, in_force)).collect(),
        late: Vec::new(),
        named: Vec::new(),
    }
}

/// Margins as the run would have measured them: the surer, the more often right.
pub(crate) fn margins() -> Quantiles {
    let edges: Vec<f64> = (0..200).map(|i| -2.0 + f64::from(i) * 0.08).collect();
    let exits: Vec<_> = (0..EXITS)
        .map(|e| {
            let bins = 0..=edges.len();
            let mass = |b: usize| {
                let x = (b as f64 - 90.0 - 8.0 * e as f64) / 42.0;
                (60.0 * (-x * x).exp()) as u64
            };
            let sure = |b: usize| (0.35 + 0.08 * e as f64 + b as f64 / 200.0).min(0.995);
            let right: Vec<u64> = bins.clone().map(|b| (mass(b) as f64 * sure(b)) as u64).collect();
            let wrong: Vec<u64> = bins.map(|b| mass(b) - (mass(b) as f64 * sure(b)) as u64).collect();
            let whitened = serde_json::json!({ "edges": edges, "right": right, "wrong": wrong });
            let means = serde_json::json!({ "edges": edges, "right": wrong.iter().map(|w| w * 3).collect::<Vec<_>>(), "wrong": right.iter().map(|r| r / 3).collect::<Vec<_>>() });
            serde_json::json!([["class-means", means], ["whitened", whitened]])
        })
        .collect();
    serde_json::from_value(serde_json::Value::Array(exits)).expect("quantiles")
}

pub(crate) fn coverage(nodes: usize) -> Coverage {
    let count = |i: usize, k: usize| {
        let n = noise((i * 31 + k * 7) as u64);
        if n < 0.25 { 0 } else { (n * n * n * 240.0) as u64 }
    };
    Coverage {
        classes: (0..10).map(|k| k.to_string()).collect(),
        nodes: (0..nodes).map(|i| (node_id(i), (0..10).map(|k| count(i, k)).collect())).collect(),
    }
}

fn place() -> Place {
    Place {
        name: "This window".to_owned(),
        kind: PlaceKind::Here,
        address: Some("192.168.1.20:4711".to_owned()),
    }
}

/// A federation without a node.
pub(crate) fn fresh() -> State {
    State { link: Link::Up(place()), ..State::default() }
}

/// A federation of `nodes` nodes whose run is ready.
pub(crate) fn fleet(nodes: usize) -> State {
    let report = Arc::new(report(nodes));
    let noted = (0..40).map(|n| AuditLine {
        number: n,
        at_ms: NOW_MS - 60_000 * (40 - n),
        run: Some(report.status.run.clone()),
        node: Some(node_id(n as usize % nodes.max(1))),
        text: [
            "contribution to q7 rejected: stale",
            "declined q3: below_min_count: 4 samples, at least 10 needed",
        ][n as usize % 2]
            .to_owned(),
    });
    let audit = noted.collect();
    let log = (0..20).map(|n| LogLine {
        at_ms: NOW_MS - 50_000 * (20 - n),
        level: if n % 7 == 3 { Level::Warn } else { Level::Info },
        text: format!("'node-{n}' joined as 4f2a-{n:04x}"),
    });
    State {
        link: Link::Up(place()),
        nodes: (0..nodes).map(row).collect(),
        runs: Arc::new([RunRow {
            run: report.status.run.clone(),
            standing: "ready".to_owned(),
            started_ms: NOW_MS - 4_000_000,
        }]),
        report: Some(report),
        margins: Some(Arc::new(margins())),
        coverage: Some(Arc::new(coverage(nodes))),
        audit,
        log: log.collect(),
        ..State::default()
    }
}

/// The same while a query is open.
pub(crate) fn asking(nodes: usize) -> State {
    let mut state = fleet(nodes);
    let mut report = report(nodes);
    report.status.result = None;
    report.status.policies.clear();
    report.status.queries.truncate(3);
    report.status.standing = Standing::Asking { query: QueryId(2), name: "moments".to_owned() };
    let half = nodes / 2;
    report.status.answers = nodes - half;
    report.status.quorum = nodes * 3 / 4;
    report.status.deadline_in_s = Some(540);
    report.status.queries[2].answered = (half..nodes).map(node_id).collect();
    report.status.waiting_for = (0..half)
        .map(|i| Waiting {
            node: node_id(i),
            name: format!("node-{i}"),
            reason: format!("computing q2: {} of {} samples", 12 * i, 600),
        })
        .collect();
    state.report = Some(Arc::new(report));
    state.margins = None;
    state
}

/// A state that a test changes as a coordinator would.
pub(crate) struct World {
    pub(crate) dashboard: Dashboard,
    pub(crate) state: State,
    pub(crate) now_ms: u64,
    /// Every wish so far.
    pub(crate) wished: Vec<Command>,
}

impl World {
    pub(crate) fn new(state: State, settings: Settings) -> Self {
        Self { dashboard: Dashboard::new(settings), state, now_ms: NOW_MS, wished: Vec::new() }
    }

    pub(crate) fn ui(&mut self, ui: &mut egui::Ui) {
        let mut commands = Commands::default();
        self.dashboard.ui(ui, &self.state, self.now_ms, &mut commands);
        self.wished.extend(commands.drain());
    }

    /// The last wish of a person: not what the window wants by itself, to keep settings or to stay with a run.
    pub(crate) fn last_wish(&self) -> Option<&Command> {
        self.wished.iter().rev().find(|wish| !matches!(wish, Command::Keep(_) | Command::ShowRun(_)))
    }

    pub(crate) fn notice(&mut self, level: Level, text: &str) {
        let number = self.state.notices.len() as u64 + 1;
        let notice = Notice { number, at_ms: self.now_ms, level, text: text.to_owned() };
        self.state.notices = self.state.notices.iter().cloned().chain([notice]).collect();
    }

    pub(crate) fn token(&mut self, left_s: u64) {
        let text = "exeunt1-mfrggzdfmztwq2lknnwg23tpobyxe43uov3ho6dzpiydcmrtgq2tmnzyhe4tcmjrgezdgnbvgy3tqojqgeydamjqgeydcmbrga4tcmjrgezdgnbvgy3tqojq".to_owned();
        self.state.token = Some(Arc::new(Token { text, expires: self.now_ms / 1000 + left_s }));
    }
}
