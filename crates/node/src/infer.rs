//! Inference that leaves early: run a segment, ask the exit, stop or go on.

mod whole;

use std::sync::{Arc, Mutex, PoisonError};

use exeunt_data::{Image, Preprocess};
use exeunt_exits::{Asking, CostModel, Decision, Heads, Policy, Rule};
use exeunt_network::{Engine, EngineError, Lane, Network, Segments, TensorInfo};
use exeunt_protocol::spec::RunSpec;
use exeunt_stats::Macs;
use ndarray::{ArrayView2, Axis};
use serde::Serialize;

pub use whole::Whole;

/// Why an image could not be classified, or a policy not be put to use.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// The network cannot be cut or run here.
    #[error("the network cannot run here")]
    Network(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The image does not become the network's input.
    #[error("the image cannot be used")]
    Image(#[source] exeunt_data::DataError),
    /// Policy, snapshot and run do not belong together.
    #[error("{what}: found {found}, expected {expected}")]
    Mismatch {
        /// What differs.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// An exit lacks the rule that the policy names.
    #[error("exit '{tap}' has no {rule} rule in this snapshot")]
    Rule {
        /// The exit's tap.
        tap: String,
        /// The rule.
        rule: Rule,
    },
}

/// What was decided for one sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    /// The class.
    pub class: u32,
    /// The exit it left at, from 0; none where the whole network ran.
    pub exit: Option<usize>,
    /// Log-odds of the class where it was decided.
    pub margin: f64,
    /// MACs spent, as a share of the bare network's.
    pub cost: f64,
}

impl Verdict {
    /// The margin as a probability, for showing (see [`Decision::confidence`]).
    pub fn confidence(&self) -> f64 {
        Decision { class: self.class, margin: self.margin }.confidence()
    }
}

/// A network with its exits and a policy, ready to classify.
///
/// The network is cut only where the policy has a rule: an exit that is off costs nothing.
#[derive(Debug)]
pub struct Inference {
    spec: Arc<RunSpec>,
    input: TensorInfo,
    segments: Arc<Segments>,
    /// The exit behind each segment but the last.
    cuts: Vec<usize>,
    preprocess: Preprocess,
    heads: Arc<Heads>,
    policy: Policy,
    cost: CostModel,
    /// Buffers that are not in use.
    idle: Mutex<Vec<Scratch>>,
}

impl Inference {
    /// Loads the network, using it up where nobody else has it, and checks that snapshot and policy fit it.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn new(
        spec: RunSpec,
        network: Network,
        engine: &dyn Engine,
        heads: Arc<Heads>,
        policy: Policy,
    ) -> Result<Self, InferError> {
        check(&spec, &heads, &policy)?;
        let boxed = |error: Box<dyn std::error::Error + Send + Sync>| InferError::Network(error);
        let cuts = cuts(&policy);
        let taps: Vec<&str> = cuts.iter().map(|e| spec.exits[*e].tap.as_str()).collect();
        let mut until = Vec::with_capacity(spec.exits.len());
        for exit in &spec.exits {
            // Every exit of the run, and not only those in use: a policy may be exchanged for one that uses others.
            let tap = network
                .tap(&exit.tap)
                .ok_or_else(|| boxed(format!("the network cannot be cut at '{}'", exit.tap).into()))?;
            until.push(tap.macs_until);
        }
        let head = spec.exits.iter().map(|exit| Macs::new((spec.classes.len() * exit.dim) as u64)).collect();
        let cost = CostModel { network: network.macs(), until, head };
        let preprocess = Preprocess::new(&spec.input).map_err(InferError::Image)?;
        let input = network.input().clone();
        let segments =
            Segments::prepare_and_drop(engine, network, &taps).map_err(|error| boxed(error.into()))?;
        let (spec, segments) = (Arc::new(spec), Arc::new(segments));
        Ok(Self { spec, input, segments, cuts, preprocess, heads, policy, cost, idle: Mutex::default() })
    }

    /// The same network with another policy, or another snapshot of the same run. The network is not loaded again;
    /// nothing comes back where it has to be, because the policy uses other exits.
    ///
    /// # Errors
    /// When snapshot and policy do not fit it.
    pub fn with_policy(&self, heads: Arc<Heads>, policy: Policy) -> Result<Option<Self>, InferError> {
        check(&self.spec, &heads, &policy)?;
        Ok((cuts(&policy) == self.cuts).then(|| Self {
            spec: Arc::clone(&self.spec),
            input: self.input.clone(),
            segments: Arc::clone(&self.segments),
            cuts: self.cuts.clone(),
            preprocess: self.preprocess.clone(),
            heads,
            policy,
            cost: self.cost.clone(),
            idle: Mutex::default(),
        }))
    }

    /// Makes what `threads` threads need to run at the same time, so that none of them has to when it begins.
    ///
    /// # Errors
    /// When the engine cannot make it.
    pub fn warm(&self, threads: usize) -> Result<(), InferError> {
        let lanes = (0..threads).map(|_| self.segments.lane()).collect::<Result<Vec<_>, _>>();
        lanes.map(drop).map_err(failed)
    }

    /// The engine that runs the network, with its version.
    pub fn engine(&self) -> &str {
        self.segments.engine()
    }

    /// What the network takes: one sample.
    pub fn input(&self) -> &TensorInfo {
        &self.input
    }

    /// The snapshot it decides with.
    pub fn heads(&self) -> &Arc<Heads> {
        &self.heads
    }

    /// What the run is.
    pub fn spec(&self) -> &RunSpec {
        &self.spec
    }

    /// Classifies one image; `name` stands in errors.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn classify(&self, image: &Image, name: &str) -> Result<Verdict, InferError> {
        let mut flat = Vec::new();
        let shape = self.segments.input_shape();
        self.preprocess.append(image, shape, name, &mut flat).map_err(InferError::Image)?;
        let x = ArrayView2::from_shape((1, flat.len()), &flat)
            .map_err(|error| InferError::Network(error.into()))?;
        let mut verdicts = self.run(x)?;
        verdicts.pop().ok_or(InferError::Mismatch { what: "verdicts", found: 0, expected: 1 })
    }

    /// Classifies preprocessed samples, one per row, in batches that suit the network: memory does not follow the
    /// number of rows. Between segments only the undecided ones are kept. Buffers are kept from one call to the next.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn run(&self, x: ArrayView2<'_, f32>) -> Result<Vec<Verdict>, InferError> {
        let mut verdicts = Vec::with_capacity(x.nrows());
        let mut scratch = self.scratch();
        for batch in x.axis_chunks_iter(Axis(0), self.segments.batch()) {
            self.run_batch(batch, &mut scratch)?;
            verdicts.extend(scratch.verdicts.drain(..).flatten());
        }
        self.put_back(scratch);
        Ok(verdicts)
    }

    /// Leaves the verdicts in `scratch`.
    fn run_batch(&self, x: ArrayView2<'_, f32>, scratch: &mut Scratch) -> Result<(), InferError> {
        scratch.verdicts.clear();
        scratch.verdicts.resize(x.nrows(), None);
        scratch.undecided.clear();
        scratch.undecided.extend(0..x.nrows());
        let mut lane = self.segments.lane().map_err(failed)?;
        lane.begin(x).map_err(failed)?;
        for (segment, e) in self.cuts.iter().enumerate() {
            lane.run().map_err(failed)?;
            self.decide_at_exit((*e, segment), &lane, scratch)?;
            lane.keep(&scratch.staying);
            for (place, row) in scratch.staying.iter().enumerate() {
                scratch.undecided[place] = scratch.undecided[*row];
            }
            scratch.undecided.truncate(scratch.staying.len());
            if scratch.undecided.is_empty() {
                return Ok(());
            }
        }
        lane.run().map_err(failed)?;
        self.decide_by_network(&lane, scratch);
        Ok(())
    }

    fn scratch(&self) -> Scratch {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn put_back(&self, scratch: Scratch) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
    }

    /// Gives verdicts to the rows that leave at exit `e`, behind `segment`; the others are `staying`.
    fn decide_at_exit(
        &self,
        (e, segment): (usize, usize),
        lane: &Lane<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), InferError> {
        let Scratch { asking, undecided, staying, verdicts, .. } = scratch;
        staying.clear();
        let Some(rule) = self.policy.exits[e].as_ref() else {
            staying.extend(0..lane.rows());
            return Ok(());
        };
        for (row, sample) in undecided.iter().enumerate() {
            let Decision { class, margin } = self.ask((e, segment), rule.rule, lane.row(row), asking)?;
            if rule.leaves(margin) {
                let cost = self.cost.cost(&self.policy, e);
                verdicts[*sample] = Some(Verdict { class, exit: Some(e), margin, cost });
            } else {
                staying.push(row);
            }
        }
        Ok(())
    }

    /// What exit `e`, behind `segment`, says of one sample.
    fn ask(
        &self,
        (e, segment): (usize, usize),
        rule: Rule,
        map: &[f32],
        asking: &mut Asking,
    ) -> Result<Decision, InferError> {
        let (head, pool) = (&self.heads.exits()[e], self.spec.exits[e].pool);
        let decision = asking.ask((head, rule), pool, self.segments.tap_shape(segment), map);
        decision.map_err(|error| InferError::Network(error.into()))
    }

    fn decide_by_network(&self, lane: &Lane<'_>, scratch: &mut Scratch) {
        let cost = self.cost.cost(&self.policy, self.policy.exits.len());
        let Scratch { scores, undecided, verdicts, .. } = scratch;
        for (row, sample) in undecided.iter().enumerate() {
            scores.clear();
            scores.extend(lane.row(row).iter().map(|v| f64::from(*v)));
            let (class, margin) = (best(scores), exeunt_exits::margin(scores));
            verdicts[*sample] = Some(Verdict { class, exit: None, margin, cost });
        }
    }
}

fn failed(error: EngineError) -> InferError {
    InferError::Network(error.into())
}

/// The class with the highest score, the first of equal ones.
fn best(scores: &[f64]) -> u32 {
    let best = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
    u32::try_from(best).unwrap_or(u32::MAX)
}

/// Buffers that the samples of a batch share.
#[derive(Debug, Default)]
struct Scratch {
    asking: Asking,
    scores: Vec<f64>,
    /// The sample that each row on its way is.
    undecided: Vec<usize>,
    /// The rows that an exit did not let go.
    staying: Vec<usize>,
    /// What was decided, by sample.
    verdicts: Vec<Option<Verdict>>,
}

/// The exits that have a rule.
fn cuts(policy: &Policy) -> Vec<usize> {
    policy.exits.iter().enumerate().filter_map(|(e, rule)| rule.as_ref().map(|_| e)).collect()
}

/// Whether snapshot and policy fit the run.
fn check(spec: &RunSpec, heads: &Heads, policy: &Policy) -> Result<(), InferError> {
    let exits = spec.exits.len();
    for (what, found) in [("exits of the policy", policy.exits.len()), ("exits of the snapshot", heads.len())]
    {
        if found != exits {
            return Err(InferError::Mismatch { what, found, expected: exits });
        }
    }
    for (e, rule) in policy.exits.iter().enumerate().filter_map(|(e, rule)| Some((e, rule.as_ref()?.rule))) {
        if !heads.has(e, rule) {
            return Err(InferError::Rule { tap: spec.exits[e].tap.clone(), rule });
        }
    }
    Ok(())
}
