//! What an operator does with a fleet, over real QUIC: see which policy nodes use, hear of their inference, take a
//! contribution out, let nodes in and out.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::path::Path;
use std::time::Duration;

use exeunt_coordinator::OperatorClient;
use exeunt_data::Partition;
use exeunt_exits::PolicyRequest;
use exeunt_node::{Decided, Ledger, LiveSettings, Verdict};
use exeunt_protocol::message::Membership;
use exeunt_protocol::operator::{NodeDetail, NodeLive, NodeRow, OperatorRequest, OperatorResponse};
use exeunt_protocol::{PolicyVersion, RunId};
use exeunt_simulate::{LocalFederation, Plan};
use tokio::task::JoinSet;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(240);

fn plan(nodes: u32) -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/digits.toml");
    let mut plan = Plan::read(&path, None, None).unwrap();
    (plan.nodes, plan.partition, plan.seed, plan.threads) = (nodes, Partition::Uniform, 5, 1);
    // All of them are needed, and whoever is taken out is not any more.
    plan.file.federation.quorum = nodes;
    plan
}

async fn nodes(operator: &OperatorClient) -> Vec<NodeRow> {
    match operator.ask(&OperatorRequest::Nodes).await.unwrap() {
        OperatorResponse::Nodes(rows) => rows,
        other => panic!("{other:?}"),
    }
}

async fn live(operator: &OperatorClient) -> Vec<NodeLive> {
    match operator.ask(&OperatorRequest::Live { run: None }).await.unwrap() {
        OperatorResponse::Live(nodes) => nodes,
        other => panic!("{other:?}"),
    }
}

/// Waits until every node that is let in says that it uses a version.
async fn until_used(operator: &OperatorClient, version: u32) {
    let used = async {
        loop {
            let rows = nodes(operator).await;
            let uses =
                |row: &NodeRow| row.status.using.as_ref().is_some_and(|used| used.version.0 == version);
            if rows.iter().all(uses) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, used).await.expect("the nodes use the policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_works_with_a_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let federation = LocalFederation::start(folder.path()).await.unwrap();
    let operator = federation.operator();
    let plan = plan(3);
    let places = federation.join(&plan, 1).await.unwrap();
    let mut running = JoinSet::new();
    for place in &places {
        running.spawn(exeunt_node::run(exeunt_node::Home::new(&place.home), std::future::pending()));
    }
    let run = federation.start_run(&plan).await.unwrap();
    let ready = async || {
        let waited = federation.wait(&run, |_report| {});
        tokio::time::timeout(DEADLINE, waited).await.expect("the run is ready in time").unwrap()
    };
    let before = ready().await;
    let wish = PolicyRequest::MaxDrop(5.0);
    operator.ask(&OperatorRequest::SetPolicy { run: None, wish, node: None }).await.unwrap();
    ready().await;
    until_used(operator, 1).await;
    let rows = nodes(operator).await;
    assert!(rows.iter().all(|row| row.status.certificate_expires_ms.is_some() && row.bytes_up > 0));

    hears_of_inference(operator, &run, &places[0].home, before.status.exits.len()).await;

    let gone = rows.iter().find(|row| row.status.name == "node-2").unwrap().status.node;
    operator.ask(&OperatorRequest::Remove { run: None, node: gone }).await.unwrap();
    let after = ready().await;
    until_used(operator, 2).await;
    assert_ne!(after.digest, before.digest);
    assert_eq!(after.status.removed, [gone]);
    let OperatorResponse::Snapshots(made) =
        operator.ask(&OperatorRequest::Snapshots { run: None }).await.unwrap()
    else {
        panic!()
    };
    let cohorts: Vec<usize> = made.iter().map(|row| row.cohort.len()).collect();
    assert_eq!(cohorts, [3, 2]);

    operator.ask(&OperatorRequest::Quarantine { node: gone }).await.unwrap();
    let told = async {
        let home = exeunt_node::Home::new(&places[2].home);
        while home.report().unwrap().is_none_or(|report| report.membership != Membership::Quarantined) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, told).await.expect("the node hears that it is quarantined");
    running.shutdown().await;
    federation.stop().await.unwrap();
}

/// What a process at the node counts arrives at the coordinator, once it is enough.
async fn hears_of_inference(operator: &OperatorClient, run: &RunId, home: &Path, exits: usize) {
    assert!(live(operator).await.is_empty());
    let ledger = Ledger::new(exeunt_node::Home::new(home), LiveSettings::default(), 1);
    let by = Decided { run, policy: PolicyVersion(1), exits, network_macs: 1000 };
    let verdicts = vec![Verdict { class: 3, exit: Some(0), margin: 4.0, cost: 0.25 }; 200];
    ledger.decided(by, &verdicts, Duration::from_millis(100));
    ledger.flush().unwrap();
    let arrives = async {
        loop {
            if let [heard] = live(operator).await.as_slice() {
                return heard.clone();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let heard = tokio::time::timeout(DEADLINE, arrives).await.expect("the counters arrive");
    assert_eq!((heard.name.as_str(), heard.counts.samples()), ("node-0", 200));
    assert_eq!((heard.cost, heard.mean_ms), (Some(0.25), Some(0.5)));
    let request = OperatorRequest::Node { node: heard.node, run: None };
    let OperatorResponse::Node(detail) = operator.ask(&request).await.unwrap() else { panic!() };
    let NodeDetail { report, live, log, .. } = *detail;
    assert_eq!(live.unwrap().counts, heard.counts);
    assert!(!log.is_empty());
    let policy = report.unwrap().policy;
    assert_eq!((policy.wanted, policy.using), (Some(PolicyVersion(1)), Some(PolicyVersion(1))));
}
