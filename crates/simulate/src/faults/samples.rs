//! Made-up samples, and the tables that nodes make of them.
//!
//! The accumulators are the real ones, so every table is what a node with such activations would send. What is made
//! up is which activations there are: in the statistics part, sample `i` of node `n` is 1 in a place of the vector that
//! no other sample of the fleet has, and 0 everywhere else. In the merged sums, the cell of that place then holds one
//! unit if the sample was counted once, two if twice, nothing if it was lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exeunt_exits::{Heads, Measured, OutcomesBuilder, Part, Query, RunContext};
use exeunt_protocol::message::Refusal;
use exeunt_stats::{Digest, Floors, MomentsAccumulator, RangeCounter, Scale, SpreadAccumulator, Table};
use ndarray::{Array2, ArrayView2};

pub(crate) const CLASSES: usize = 2;
/// Fewest samples of a node in a part: one of each class, so that no class is ever missing.
pub(crate) const FEWEST: usize = CLASSES;
/// Most samples of a node in a part.
pub(crate) const ROOM: usize = 6;
/// Bits by which a run's program widens a scale at a time.
const WIDER_BITS: u8 = 2;

/// Makes tables for a fleet of a certain size.
#[derive(Debug)]
pub(crate) struct Samples {
    context: RunContext,
    queries: BTreeMap<Digest, Query>,
    heads: BTreeMap<Digest, Arc<Heads>>,
    tables: BTreeMap<(usize, usize, Digest), Table>,
}

/// What a node answers from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Holding {
    /// Its place in the fleet.
    pub(crate) node: usize,
    /// How many samples it holds in every part.
    pub(crate) samples: usize,
    /// How often a scale must be widened before its activations fit.
    pub(crate) needs_wider: u8,
    /// Whether it answers nothing but the census: too few samples to say more.
    pub(crate) shy: bool,
}

impl Samples {
    pub(crate) fn new(context: RunContext) -> Self {
        Self { context, queries: BTreeMap::new(), heads: BTreeMap::new(), tables: BTreeMap::new() }
    }

    /// Length of a vector: a place for every sample there can be.
    pub(crate) fn dim(nodes: usize) -> usize {
        nodes * ROOM
    }

    /// The query of these bytes.
    pub(crate) fn query(&mut self, body: Digest, bytes: &[u8]) -> Result<Query, Refusal> {
        if let Some(query) = self.queries.get(&body) {
            return Ok(query.clone());
        }
        let query = Query::decode(bytes).map_err(failed)?;
        self.queries.insert(body, query.clone());
        Ok(query)
    }

    /// The query named `body`, if a node has read it.
    pub(crate) fn known(&self, body: Digest) -> Option<&Query> {
        self.queries.get(&body)
    }

    /// What a node answers to the query named `body`.
    pub(crate) fn answer(
        &mut self,
        holding: Holding,
        (body, query): (Digest, &Query),
        heads: Option<(Digest, &[u8])>,
    ) -> Result<Table, Refusal> {
        if holding.shy && *query != Query::Census {
            return Err(Refusal::BelowMinCount { found: holding.samples as u64, needed: 10 });
        }
        if let Query::Moments { scales, .. } | Query::Spread { scales, .. } = query {
            let mut narrow = Scale::for_exponent(0);
            for _ in 0..holding.needs_wider {
                if scales.contains(&narrow) {
                    return Err(Refusal::OutOfRange { left_out: 1, samples: holding.samples as u64 });
                }
                narrow = narrow.wider(WIDER_BITS);
            }
        }
        let key = (holding.node, holding.samples, body);
        if let Some(table) = self.tables.get(&key) {
            return Ok(table.clone());
        }
        let heads = match heads {
            Some((digest, bytes)) => Some(self.heads(digest, bytes)?),
            None => None,
        };
        let table = self.table(holding, query, heads.as_deref())?;
        self.tables.insert(key, table.clone());
        Ok(table)
    }

    fn heads(&mut self, digest: Digest, bytes: &[u8]) -> Result<Arc<Heads>, Refusal> {
        if let Some(heads) = self.heads.get(&digest) {
            return Ok(Arc::clone(heads));
        }
        let heads = Arc::new(Heads::decode(bytes).map_err(failed)?);
        self.heads.insert(digest, Arc::clone(&heads));
        Ok(heads)
    }

    fn table(&self, holding: Holding, query: &Query, heads: Option<&Heads>) -> Result<Table, Refusal> {
        let heads = || heads.ok_or_else(|| Refusal::Failed { what: "no snapshot".to_owned() });
        let samples = holding.samples;
        let labels: Vec<u32> = (0..samples).map(label).collect();
        let pooled = self.activations(holding, query.part().unwrap_or(Part::Statistics));
        let views: Vec<ArrayView2<'_, f32>> = pooled.iter().map(Array2::view).collect();
        let outcomes = || {
            let mut builder = OutcomesBuilder::new(&self.context.rules());
            // The network itself is wrong on one sample in three.
            let logits = Array2::from_shape_fn((samples, CLASSES), |(s, class)| {
                let right = label(s) as usize == class;
                f32::from(u8::from(right != (s % 3 == 2)))
            });
            builder.add(heads()?, &labels, &views, logits.view()).map_err(failed)?;
            Ok(builder.finish())
        };
        match query {
            Query::Census => Ok(Table::from_cells(vec![samples as i64; Part::ALL.len()])),
            Query::Range { .. } => {
                let mut counter = RangeCounter::new(views.len());
                counter.add(&views).map_err(failed)?;
                Ok(counter.finish())
            }
            Query::Moments { scales, second } => {
                let mut counts = [0; CLASSES];
                labels.iter().for_each(|class| counts[*class as usize] += 1);
                let shape = self.context.moments_shape(second);
                let mut moments =
                    MomentsAccumulator::new(shape, scales.clone(), &counts, &Floors::OFF).map_err(failed)?;
                moments.add(&labels, &views).map_err(failed)?;
                moments.finish().map_err(failed)
            }
            Query::Spread { scales, .. } => {
                let (means, present) = (heads()?.means(), heads()?.present());
                let shape = self.context.spread_shape();
                let mut spread =
                    SpreadAccumulator::new(shape, scales.clone(), means, present).map_err(failed)?;
                spread.add(&views).map_err(failed)?;
                spread.finish(&Floors::OFF).map_err(failed)
            }
            Query::Confidence { edges, .. } => outcomes()?.histograms(edges).map_err(failed),
            Query::Evaluate { policies, .. } => outcomes()?.tally(policies).map_err(failed),
            // What a device has measured it keeps, so it is the same whenever it is asked for.
            Query::Timings { .. } => {
                let exits = self.context.exits.len();
                let each = |count| vec![Duration::from_millis(1 + holding.node as u64); count];
                let network = Duration::from_millis(5);
                Ok(Measured { network, segments: each(exits + 1), decisions: each(exits) }.table())
            }
        }
    }

    fn activations(&self, holding: Holding, part: Part) -> Vec<Array2<f32>> {
        let height = match part {
            Part::Statistics => 1.0,
            Part::Calibration => 0.75,
            Part::Evaluation => 0.5,
        };
        let at = |(s, d): (usize, usize)| if d == place(holding.node, s) { height } else { 0.0 };
        self.context.exits.iter().map(|exit| Array2::from_shape_fn((holding.samples, exit.dim), at)).collect()
    }

    /// Whether a merged answer to `query` counts exactly these samples, and each once. Only class sums have a cell of
    /// its own for every sample; of any other answer there is nothing to say here.
    ///
    /// # Errors
    /// The first cell that is wrong, in words.
    pub(crate) fn check_units(
        &self,
        query: &Query,
        merged: &Table,
        counted: &[(usize, usize)],
    ) -> Result<(), String> {
        let Query::Moments { scales, second } = query else { return Ok(()) };
        let layout = self.context.moments_shape(second).layout();
        for (e, (exit, scale)) in self.context.exits.iter().zip(scales).enumerate() {
            let unit = scale.sum_factor() as i64;
            let mut expected = vec![0; CLASSES * exit.dim];
            for (node, samples) in counted {
                for sample in 0..*samples {
                    expected[label(sample) as usize * exit.dim + place(*node, sample)] = unit;
                }
            }
            let cells = layout.range(&format!("e{e}.alone.sum")).and_then(|range| merged.cells().get(range));
            let found = cells.ok_or_else(|| format!("a table of {} cells has no sums", merged.len()))?;
            if let Some(at) = (0..expected.len()).find(|at| found[*at] != expected[*at]) {
                let (node, sample) = (at % exit.dim / ROOM, at % exit.dim % ROOM);
                let times = found[at] as f64 / unit as f64;
                let wanted = expected[at] / unit;
                return Err(format!(
                    "sample {sample} of node {node} is counted {times} times, expected {wanted}"
                ));
            }
        }
        Ok(())
    }
}

fn label(sample: usize) -> u32 {
    u32::from(sample % CLASSES == 1)
}

/// The place of a node's sample in every vector.
fn place(node: usize, sample: usize) -> usize {
    node * ROOM + sample
}

fn failed(error: impl std::fmt::Display) -> Refusal {
    Refusal::Failed { what: error.to_string() }
}
