//! A federation that nobody else will join: it goes on without whoever declines, and says so when nobody is left.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::path::Path;

use exeunt_data::Partition;
use exeunt_protocol::coordinator::Standing;
use exeunt_simulate::{LocalError, LocalFederation, Plan, SimulateError, in_memory};
use tokio::task::JoinSet;

fn plan(nodes: u32, partition: Partition, min_count: u64) -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/digits.toml");
    let mut plan = Plan::read(&path, None, None).unwrap();
    (plan.nodes, plan.partition, plan.seed, plan.threads) = (nodes, partition, 5, 1);
    plan.file.floors.min_count = min_count;
    plan.close_membership();
    plan
}

#[test]
fn a_node_below_a_floor_is_not_waited_for() {
    let plan = plan(8, Partition::Dirichlet(0.1), 20);
    let report = in_memory(&plan, &mut |_query, _done, _of| {}).unwrap().report;
    assert_eq!(report.status.standing, Standing::Ready);
    let declined = report.status.queries.iter().flat_map(|query| &query.declined);
    let reasons: Vec<&str> = declined.map(|answer| answer.reason.as_str()).collect();
    assert!(!reasons.is_empty(), "the split leaves no node below the floor");
    assert!(reasons.iter().all(|reason| reason.starts_with("below_min_count: ")), "{reasons:?}");
    // Everybody who may answer has: nobody was left out by a deadline.
    assert!(report.status.queries.iter().all(|query| query.answered.len() + query.declined.len() == 8));
}

#[test]
fn a_federation_in_memory_that_declines_altogether_says_who_and_why() {
    let plan = plan(2, Partition::Uniform, 100_000);
    let error = in_memory(&plan, &mut |_query, _done, _of| {}).unwrap_err();
    assert!(matches!(error, SimulateError::Stuck { .. }), "{error}");
    assert!(error.to_string().contains("declined: below_min_count: "), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federation_on_loopback_that_declines_altogether_is_not_waited_for() {
    let plan = plan(2, Partition::Uniform, 100_000);
    let folder = tempfile::tempdir().unwrap();
    let federation = LocalFederation::start(folder.path()).await.unwrap();
    let mut nodes = JoinSet::new();
    for place in federation.join(&plan, 1).await.unwrap() {
        nodes.spawn(exeunt_node::run(exeunt_node::Home::new(place.home), std::future::pending()));
    }
    let run = federation.start_run(&plan).await.unwrap();
    let waited = federation.wait(&run, |_report| {});
    let error = tokio::time::timeout(std::time::Duration::from_secs(240), waited).await.unwrap().unwrap_err();
    assert!(
        matches!(&error, LocalError::Stuck { answers: 0, declined, .. } if declined.len() == 2),
        "{error}"
    );
    assert!(error.to_string().contains("range has 0 of 1 answers"), "{error}");
    nodes.shutdown().await;
    federation.stop().await.unwrap();
}
