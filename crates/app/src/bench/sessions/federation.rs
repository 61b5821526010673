//! A coordinator's folder with a fleet and runs that wait for it, made without a network; and what is in it afterwards.

use std::time::Duration;

use anyhow::Context as _;
use exeunt_coordinator::{Core, Effect, Home, RunPlan};
use exeunt_exits::{CostModel, ExitContext, Pool, Rule, RunContext, SearchOptions};
use exeunt_protocol::coordinator::{Now, RunOptions, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Membership};
use exeunt_protocol::moment::unix_ms;
use exeunt_protocol::spec::{ExitPlan, RunFile, RunSpec};
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::{Macs, RangeCounter, Table, packed};
use exeunt_store::{NodeRecord, RedbStore, Store as _};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::tables::{CLASSES, Counted, Tables};

/// Only its name and what describes its input go anywhere; nobody computes.
const RUN_FILE: &str = r#"
name = "bench"
network = "none.onnx"
exits = [{ tap = "made-up" }]
[input]
colour = "grey"
mean = [0.5]
std = [0.5]
[task]
class_count = 10
[exit]
rules = ["class-means"]
[data]
format = "idx"
[data.statistics]
files = ["images"]
labels = ["labels"]
range = [0, 900]
[data.calibration]
files = ["images"]
labels = ["labels"]
range = [900, 1797]
share = [0.0, 0.5]
[data.evaluation]
files = ["images"]
labels = ["labels"]
range = [900, 1797]
share = [0.5, 1.0]
"#;
const NETWORK: &[u8] = b"no network: nobody computes here";
/// No query closes before everybody has answered.
const PATIENCE: Duration = Duration::from_secs(30 * 86_400);

/// Runs that wait for class sums.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Runs {
    /// One per round.
    pub(super) runs: Vec<RunId>,
    /// The query of each that asks for class sums.
    pub(super) query: QueryId,
}

/// Enrols the nodes and starts the runs. The first node alone answers what comes before class sums, so that a run asks
/// for those of everybody when it is first seen.
pub(super) fn prepare(home: &Home, nodes: &[NodeId], tables: &Tables, rounds: usize) -> anyhow::Result<Runs> {
    let now = now();
    let mut store = RedbStore::unsynced(home.store())?;
    let (first, others) = nodes.split_first().context("a fleet without nodes")?;
    enrol(&mut store, &[*first], 0, now)?;
    let mut core = Core::open(Box::new(store), now)?;
    let (file, plan) = plan(tables)?;
    let runs = (0..rounds)
        .map(|_| Ok(core.start_planned(now, &file, plan.clone(), NETWORK)?))
        .collect::<anyhow::Result<Vec<RunId>>>()?;
    core.work(now)?;
    let census = Table::from_cells(vec![SAMPLES; 3]);
    let mut range = RangeCounter::new(1);
    range.add(&[Array2::from_elem((1, tables.dim()), 1.0_f32).view()])?;
    let range = range.finish();
    for (run, number) in runs.iter().zip(1..) {
        answer(&mut core, now, *first, run, &census, Ticket(2 * number))?;
        answer(&mut core, now, *first, run, &range, Ticket(2 * number + 1))?;
    }
    let query = runs.first().and_then(|run| core.machine().open_query(run)).context("no query is open")?;
    drop(core);
    let mut store = RedbStore::unsynced(home.store())?;
    enrol(&mut store, others, 1, now)?;
    store.sync()?;
    Ok(Runs { runs, query })
}

/// Samples that the first node claims to hold of each part.
const SAMPLES: i64 = 1000;

fn now() -> Now {
    Now { monotonic: Duration::ZERO, unix_ms: unix_ms(std::time::SystemTime::now()) }
}

/// What a node is called.
pub(super) fn name(node: usize) -> String {
    format!("node-{node}")
}

fn enrol(store: &mut RedbStore, nodes: &[NodeId], first: usize, now: Now) -> anyhow::Result<()> {
    for (number, node) in (first..).zip(nodes) {
        let (name, enrolled_ms) = (name(number), now.unix_ms);
        let record = NodeRecord { name, enrolled_ms, revoked: false, membership: Membership::Active };
        store.save_node(*node, &record, now.unix_ms)?;
    }
    Ok(())
}

fn answer(
    core: &mut Core,
    now: Now,
    node: NodeId,
    run: &RunId,
    table: &Table,
    ticket: Ticket,
) -> anyhow::Result<()> {
    let query = core.machine().open_query(run).context("no query is open")?;
    let bytes = packed::encode(table.cells());
    let table = BlobRef::of(&bytes);
    let contribution = Contribution { run: run.clone(), query, dataset: DatasetVersion(1), table };
    core.arrived(now, node, contribution, bytes, ticket);
    let effects = core.work(now)?;
    let stored = |effect: &Effect| matches!(effect, Effect::Acknowledge { ack: Ack::Stored, .. });
    anyhow::ensure!(effects.iter().any(stored), "{query} of '{run}' was not answered");
    Ok(())
}

fn plan(tables: &Tables) -> anyhow::Result<(RunFile, RunPlan)> {
    let file = RunFile::parse(RUN_FILE, "bench.toml")?;
    let (tap, rules, dim) = ("made-up".to_owned(), vec![Rule::ClassMeans], tables.dim());
    let context = RunContext {
        classes: CLASSES,
        class_names: file.task.names(),
        exits: vec![ExitContext { tap: tap.clone(), dim, rules: rules.clone() }],
        cost: CostModel {
            network: Macs::new(1 << 40),
            until: vec![Macs::new(1)],
            head: vec![Macs::new((CLASSES * dim) as u64)],
        },
        shrinkage: file.method.shrinkage,
        prior: file.method.prior,
        search: SearchOptions::default(),
        range_samples: file.method.range_samples,
        second_factor: file.floors.second_factor,
        timings: true,
    };
    let network = BlobRef::of(NETWORK);
    let spec = RunSpec {
        network: network.digest,
        network_bytes: network.bytes,
        seed: file.seed,
        input: file.input.clone(),
        classes: file.task.names(),
        exits: vec![ExitPlan { tap, pool: Pool::Full, rules, dim }],
        data: file.data.clone(),
        floors: file.floors,
        more: std::collections::BTreeMap::new(),
    };
    let spec_bytes = serde_json::to_vec(&spec)?;
    let options =
        RunOptions { spec: BlobRef::of(&spec_bytes), network, quorum: 1, deadline: PATIENCE, min_nodes: 1 };
    Ok((file, RunPlan { spec, spec_bytes, context, options }))
}

/// Opens the store again, whatever became of the coordinator, and looks at every run's sum.
pub(super) fn check(home: &Home, tables: &Tables, runs: &Runs) -> anyhow::Result<Vec<Counted>> {
    let store = RedbStore::open(home.store())?;
    // A seal that was not made before the coordinator was killed is made now.
    let core = Core::open(Box::new(store), now())?;
    runs.runs.iter().map(|run| check_run(&core, tables, run, runs.query)).collect()
}

fn check_run(core: &Core, tables: &Tables, run: &RunId, query: QueryId) -> anyhow::Result<Counted> {
    let seals = core.store().seals(run)?;
    let Some((_, seal)) = seals.into_iter().find(|(id, _)| *id == query) else {
        let stored = core.store().contributions(run, query)?.len() as u64;
        return Ok(Counted { lost: tables.nodes() as u64 - stored, twice: 0, exact: false });
    };
    let merged = seal.merged.with_context(|| format!("{query} of '{run}' was withdrawn"))?;
    Ok(tables.check(&Table::from_cells(packed::decode(&merged, tables.cells())?)))
}
