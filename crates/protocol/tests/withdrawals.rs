//! What becomes of a query when nodes say that their activations do not fit: it is asked again with a wider scale where
//! that can help, and goes on without them where it cannot.

#![expect(clippy::unwrap_used, reason = "helpers outside of test functions fail the test, too")]

use std::time::Duration;

use exeunt_exits::{CostModel, ExitContext, Rule, RunContext, SearchOptions};
use exeunt_protocol::coordinator::{Coordinator, Input, Now, Output, RunOptions, Stored, Ticket};
use exeunt_protocol::message::{BlobRef, Contribution, FromNode, Hello, OLDEST_VERSION, Refusal, VERSION};
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::{Macs, RangeLayout, Table};

const NOW: Now = Now { monotonic: Duration::ZERO, unix_ms: 0 };
const HONEST: NodeId = NodeId::from_bytes([1; 16]);
const OTHER: NodeId = NodeId::from_bytes([2; 16]);

fn run() -> RunId {
    "r-1".parse().unwrap()
}

/// A run of two nodes that has just begun.
fn begun() -> Coordinator {
    let mut coordinator = Coordinator::new();
    for node in [HONEST, OTHER] {
        let name = node.to_string();
        coordinator.handle(NOW, Input::Enrolled { node, name: name.clone() });
        let (software, engine) = ("test".to_owned(), "none".to_owned());
        let hello = Hello { oldest: OLDEST_VERSION, newest: VERSION, name, software, engine };
        coordinator.handle(NOW, Input::Connected { node, hello });
    }
    let context = RunContext {
        classes: 2,
        class_names: vec!["a".to_owned(), "b".to_owned()],
        exits: vec![ExitContext { tap: "tap".to_owned(), dim: 2, rules: vec![Rule::ClassMeans] }],
        cost: CostModel { network: Macs::new(100), until: vec![Macs::new(50)], head: vec![Macs::new(4)] },
        shrinkage: 0.01,
        prior: false,
        search: SearchOptions::default(),
        range_samples: 2048,
        second_factor: 2,
        timings: true,
    };
    let options = RunOptions {
        spec: BlobRef::of(b"spec"),
        network: BlobRef::of(b"network"),
        quorum: 1,
        deadline: Duration::from_secs(600),
        min_nodes: 1,
    };
    coordinator.start_run(NOW, run(), context, options);
    coordinator
}

/// One node answers, the other says that it is out of range. Whether the query is sealed with a sum.
fn counted(coordinator: &mut Coordinator, query: u32) -> bool {
    let query = QueryId(query);
    let refusal = Refusal::OutOfRange { left_out: 5, samples: 10 };
    let word = FromNode::Decline { run: run(), query, refusal };
    coordinator.handle(NOW, Input::Said { node: OTHER, word });
    let table = BlobRef::of(&query.0.to_le_bytes());
    let contribution = Contribution { run: run(), query, dataset: DatasetVersion(1), table };
    let ticket = Ticket(1);
    let stored = Stored::Kept;
    coordinator.handle(NOW, Input::Committed { node: HONEST, contribution, ticket, stored });
    let mut sealed = None;
    while let Some(output) = coordinator.poll_output() {
        if let Output::Seal { query: of, cells, .. } = output {
            assert_eq!((of, sealed), (query, None));
            sealed = Some(cells.is_some());
        }
    }
    sealed.unwrap()
}

fn seal(coordinator: &mut Coordinator, query: u32, merged: Option<Vec<i64>>) {
    let merged = merged.map(Table::from_cells);
    coordinator.handle(NOW, Input::Sealed { run: run(), query: QueryId(query), merged });
}

#[test]
fn a_scale_is_widened_a_few_times_and_one_node_never_ends_a_run() {
    let mut coordinator = begun();
    assert!(counted(&mut coordinator, 0), "a census has no scale to widen");
    seal(&mut coordinator, 0, Some(vec![900, 50, 50]));
    assert!(counted(&mut coordinator, 1), "nor has a range");
    let mut range = vec![0; RangeLayout { exits: 1 }.layout().cells()];
    range[40] = 900;
    seal(&mut coordinator, 1, Some(range));
    for query in 2..6 {
        assert!(!counted(&mut coordinator, query), "{query} is asked again with a wider scale");
        seal(&mut coordinator, query, None);
    }
    assert!(
        counted(&mut coordinator, 6),
        "widened often enough: the run goes on with the node that answered"
    );
}
