//! With the network in the loop: which node holds a sample, and which thread meets it, cannot be seen in any merged
//! table. On the digits and the network that ship.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::path::Path;

use exeunt_data::Partition;
use exeunt_protocol::operator::RunReport;
use exeunt_simulate::{Plan, in_memory};

fn plan() -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/digits.toml");
    let mut plan = Plan::read(&path, None, None).unwrap();
    // What is withheld depends on who holds what.
    plan.file.floors.min_count = 0;
    plan.file.floors.second_factor = 0;
    plan
}

fn run(mut plan: Plan, nodes: u32, partition: Partition, seed: u64, threads: usize) -> RunReport {
    (plan.nodes, plan.partition, plan.seed, plan.threads) = (nodes, partition, seed, threads);
    plan.file.federation.quorum = nodes;
    in_memory(&plan, &mut |_query, _done, _of| {}).unwrap().report
}

#[test]
fn any_split_over_nodes_and_threads_gives_the_same_tables() {
    let alone = run(plan(), 1, Partition::Uniform, 0, 1);
    let result = alone.status.result.as_ref().expect("the run is ready");
    assert_eq!(result.samples[0], 900);
    assert_eq!(result.samples[1] + result.samples[2], 897);
    assert!(result.network_accuracy > 0.9, "{}", result.network_accuracy);

    let splits = [
        (1, Partition::Uniform, 0, 3),
        (3, Partition::Uniform, 1, 1),
        (3, Partition::Dirichlet(0.3), 2, 2),
        (8, Partition::Uniform, 3, 1),
        (8, Partition::ByClass(2), 4, 2),
        // Some of these nodes hold hardly anything.
        (8, Partition::Dirichlet(0.1), 5, 1),
    ];
    for (nodes, partition, seed, threads) in splits {
        let what = format!("{nodes} nodes, {partition}, seed {seed}, {threads} threads");
        let report = run(plan(), nodes, partition, seed, threads);
        assert_eq!(report.nodes.len(), nodes as usize, "{what}");
        let held = report.nodes.iter().map(|node| node.samples.expect("each node was counted")[0]);
        let held: Vec<u64> = held.collect();
        assert_eq!(held.iter().sum::<u64>(), 900, "{what}: {held:?}");
        assert!(nodes == 1 || held.iter().filter(|n| **n > 0).count() > 1, "{what}: {held:?}");
        assert_eq!(report.digest, alone.digest, "{what}");
        assert_eq!(report.status.result, alone.status.result, "{what}");
    }
}

/// The digest that is compared above tells other tables apart.
#[test]
fn other_samples_give_another_digest() {
    let mut other = plan();
    other.file.data.statistics.range = Some([0, 899]);
    let [first, second] = [plan(), other].map(|plan| run(plan, 1, Partition::Uniform, 0, 2).digest);
    assert_ne!(first, second);
}
