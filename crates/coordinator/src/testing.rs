//! A fleet for tests: a real core over a real store, and nodes that answer from made-up activations.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use exeunt_exits::{Heads, Measured, OutcomesBuilder, Part, Query, RunContext};
use exeunt_network::Network;
use exeunt_protocol::coordinator::{Input, Now, Standing, Ticket};
use exeunt_protocol::message::{Ack, BlobRef, Contribution, Hello, Membership};
use exeunt_protocol::spec::RunFile;
use exeunt_protocol::{DatasetVersion, NodeId, QueryId, RunId};
use exeunt_stats::{Floors, MomentsAccumulator, RangeCounter, SpreadAccumulator, Table, packed};
use exeunt_store::NodeRecord;
use exeunt_store::failing::failing;
use ndarray::{Array2, ArrayView2};

use crate::core::{Core, Effect};
use crate::plan::RunPlan;

/// Samples of every part at every node: 20 of each class.
const SAMPLES: usize = 200;
const CLASSES: usize = 10;

pub(crate) const RUN_FILE: &str = r#"
name = "made-up"
network = "digits_resnet.onnx"
exits = [{ tap = "/stage1/stage1.0/relu_1/Relu_output_0" }, { tap = "/stage3/stage3.2/relu_1/Relu_output_0" }]
[input]
colour = "grey"
mean = [0.305]
std = [0.376]
[task]
class_count = 10
[exit]
pool = 1
rules = ["class-means", "whitened"]
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
[method]
search_rounds = 1
"#;

pub(crate) fn network() -> Network {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/digits_resnet.onnx");
    Network::load(path.as_ref()).unwrap()
}

pub(crate) fn run_file() -> RunFile {
    RunFile::parse(RUN_FILE, "made-up.toml").unwrap()
}

pub(crate) struct Fleet {
    pub(crate) core: Core,
    pub(crate) run: RunId,
    /// Makes the store fail from now on.
    pub(crate) broken: Arc<AtomicBool>,
    pub(crate) nodes: Vec<NodeId>,
    pub(crate) context: RunContext,
    pub(crate) now: Now,
    tickets: u64,
}

impl Fleet {
    /// Nodes that are enrolled and connected, and a run that has begun.
    pub(crate) fn new(nodes: u8) -> Self {
        let now = Now { monotonic: Duration::ZERO, unix_ms: 1 };
        let (store, broken) = failing().unwrap();
        let mut core = Core::open(Box::new(store), now).unwrap();
        let nodes: Vec<NodeId> = (1..=nodes).map(|i| NodeId::from_bytes([i; 16])).collect();
        for node in &nodes {
            enrol(&mut core, now, *node);
        }
        let (file, network) = (run_file(), network());
        let run = core.start_run(now, &file, &network).unwrap();
        core.work(now).unwrap();
        let context = RunPlan::new(&file, &network).unwrap().context;
        Self { core, run, broken, nodes, context, now, tickets: 0 }
    }

    /// One more node, which is connected.
    pub(crate) fn enrol(&mut self) {
        let node = NodeId::from_bytes([self.nodes.len() as u8 + 1; 16]);
        enrol(&mut self.core, self.now, node);
        self.nodes.push(node);
    }

    /// The open query, if a node has still to answer it.
    pub(crate) fn open(&self) -> Option<(QueryId, Query, Option<Heads>)> {
        let desired = self.nodes.iter().flat_map(|node| self.core.machine.desired(*node).runs);
        let wanted = desired.into_iter().find_map(|run| run.query)?;
        let blob = |blob: BlobRef| self.core.store.read_blob(blob.digest, 0, usize::MAX).unwrap().unwrap();
        let heads = wanted.heads.map(|heads| Heads::decode(&blob(heads)).unwrap());
        Some((wanted.id, Query::decode(&blob(wanted.body)).unwrap(), heads))
    }

    /// What an honest node answers to the open query.
    pub(crate) fn answer(&self, node: usize) -> Table {
        let (_, query, heads) = self.open().unwrap();
        let heads = || heads.as_ref().unwrap();
        let part = query.part().unwrap_or(Part::Statistics);
        let labels: Vec<u32> = (0..SAMPLES).map(|s| (s % CLASSES) as u32).collect();
        let pooled: Vec<Array2<f32>> = self.pooled(node, part);
        let views: Vec<ArrayView2<'_, f32>> = pooled.iter().map(Array2::view).collect();
        let outcomes = || {
            let mut builder = OutcomesBuilder::new(&self.context.rules());
            let logits = Array2::from_shape_fn((SAMPLES, CLASSES), |(s, class)| {
                // One in five is wrong.
                f32::from(u8::from(class == (s + usize::from(s % 5 == 0)) % CLASSES))
            });
            builder.add(heads(), &labels, &views, logits.view()).unwrap();
            builder.finish()
        };
        match &query {
            Query::Census => Table::from_cells(vec![SAMPLES as i64; 3]),
            Query::Range { .. } => {
                let mut counter = RangeCounter::new(views.len());
                counter.add(&views).unwrap();
                counter.finish()
            }
            Query::Moments { scales, second } => {
                let counts = [(SAMPLES / CLASSES) as u64; CLASSES];
                let shape = self.context.moments_shape(second);
                let mut moments =
                    MomentsAccumulator::new(shape, scales.clone(), &counts, &Floors::OFF).unwrap();
                moments.add(&labels, &views).unwrap();
                moments.finish().unwrap()
            }
            Query::Spread { scales, .. } => {
                let (means, present) = (heads().means(), heads().present());
                let shape = self.context.spread_shape();
                let mut spread = SpreadAccumulator::new(shape, scales.clone(), means, present).unwrap();
                spread.add(&views).unwrap();
                spread.finish(&Floors::OFF).unwrap()
            }
            Query::Confidence { edges, .. } => outcomes().histograms(edges).unwrap(),
            Query::Evaluate { policies, .. } => outcomes().tally(policies).unwrap(),
            Query::Timings { .. } => {
                let ms = |count| vec![Duration::from_millis(1 + node as u64); count];
                let exits = self.context.exits.len();
                let network = Duration::from_millis(1 + node as u64) * exits as u32;
                Measured { network, segments: ms(exits + 1), decisions: ms(exits) }.table()
            }
        }
    }

    fn pooled(&self, node: usize, part: Part) -> Vec<Array2<f32>> {
        let exits = self.context.exits.iter().enumerate();
        exits
            .map(|(e, exit)| {
                Array2::from_shape_fn((SAMPLES, exit.dim), |(s, d)| {
                    let signal = ((s % CLASSES * 7 + d * 3) % 5) as f32;
                    signal + noise([node, part as usize, e, s, d]) * 3.0 / (e + 1) as f32
                })
            })
            .collect()
    }

    pub(crate) fn send(&mut self, node: usize, query: QueryId, table: &Table) -> Ack {
        self.send_edition(node, query, table, 1)
    }

    /// Delivers a table that was made from an edition of the node's data.
    pub(crate) fn send_edition(&mut self, node: usize, query: QueryId, table: &Table, edition: u64) -> Ack {
        let ticket = self.arrive(node, query, table, edition);
        let effects = self.core.work(self.now).unwrap();
        let of = |effect: &Effect| match effect {
            Effect::Acknowledge { ticket: of, ack } if *of == ticket => Some(ack.clone()),
            _ => None,
        };
        effects.iter().find_map(of).unwrap()
    }

    /// Hands a table over, and leaves the core to work later.
    pub(crate) fn arrive(&mut self, node: usize, query: QueryId, table: &Table, edition: u64) -> Ticket {
        self.tickets += 1;
        let bytes = packed::encode(table.cells());
        let contribution = Contribution {
            run: self.run.clone(),
            query,
            dataset: DatasetVersion(edition),
            table: BlobRef::of(&bytes),
        };
        let ticket = Ticket(self.tickets);
        self.core.arrived(self.now, self.nodes[node], contribution, bytes, ticket);
        ticket
    }

    /// Every node that has not done so answers the open query, honestly.
    pub(crate) fn all_answer(&mut self) {
        let (query, ..) = self.open().unwrap();
        for node in 0..self.nodes.len() {
            let desired = self.core.machine.desired(self.nodes[node]).runs;
            if desired.iter().any(|run| run.query.as_ref().is_some_and(|wanted| wanted.id == query)) {
                let table = self.answer(node);
                assert_eq!(self.send(node, query, &table), Ack::Stored);
            }
        }
    }

    pub(crate) fn run_until_ready(&mut self) {
        while self.open().is_some() {
            self.all_answer();
        }
        assert_eq!(self.standing(), Standing::Ready);
    }

    pub(crate) fn standing(&self) -> Standing {
        self.core.machine.run_status(self.now, &self.run).unwrap().standing
    }
}

fn enrol(core: &mut Core, now: Now, node: NodeId) {
    let name = format!("node-{}", node.as_bytes()[0]);
    let record =
        NodeRecord { name: name.clone(), enrolled_ms: 1, revoked: false, membership: Membership::Active };
    core.store_mut().save_node(node, &record, now.unix_ms).unwrap();
    core.handle(now, Input::Enrolled { node, name: name.clone() });
    let hello = Hello { oldest: 1, newest: 1, name, software: "test".to_owned(), engine: "none".to_owned() };
    core.handle(now, Input::Connected { node, hello });
    core.work(now).unwrap();
}

/// In −1..1, the same for the same place (the finaliser of SplitMix64).
fn noise(place: [usize; 5]) -> f32 {
    let mix = |x: u64| {
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    let bits = place.iter().fold(1_u64, |bits, at| mix(bits.wrapping_mul(31).wrapping_add(*at as u64)));
    (bits >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
}
