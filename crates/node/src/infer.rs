//! Inference that leaves early: run a segment, ask the exit, stop or go on.

use std::sync::Arc;

use exeunt_data::{Image, Preprocess};
use exeunt_exits::{CostModel, Decision, Heads, Policy, Rule};
use exeunt_network::{Engine, Network, Segments, Tap, TensorInfo};
use exeunt_protocol::spec::RunSpec;
use exeunt_stats::Macs;
use ndarray::{Array2, ArrayView2, Axis};
use serde::Serialize;

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
#[derive(Debug)]
pub struct Inference {
    spec: Arc<RunSpec>,
    input: TensorInfo,
    segments: Arc<Segments>,
    preprocess: Preprocess,
    heads: Arc<Heads>,
    policy: Policy,
    cost: CostModel,
}

impl Inference {
    /// Loads the network and checks that snapshot and policy fit it.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn new(
        spec: RunSpec,
        network: &Network,
        engine: &dyn Engine,
        heads: Arc<Heads>,
        policy: Policy,
    ) -> Result<Self, InferError> {
        check(&spec, &heads, &policy)?;
        let boxed = |error: Box<dyn std::error::Error + Send + Sync>| InferError::Network(error);
        let taps: Vec<&str> = spec.exits.iter().map(|exit| exit.tap.as_str()).collect();
        // Fails on a tap that is none, so that every one is found below.
        let segments = Segments::prepare(engine, network, &taps).map_err(|error| boxed(error.into()))?;
        let cut: Vec<&Tap> = taps.iter().filter_map(|tap| network.tap(tap)).collect();
        let cost = CostModel {
            network: network.macs(),
            until: cut.iter().map(|tap| tap.macs_until).collect(),
            head: spec.exits.iter().map(|exit| Macs::new((spec.classes.len() * exit.dim) as u64)).collect(),
        };
        let preprocess = Preprocess::new(&spec.input).map_err(InferError::Image)?;
        let (spec, input, segments) = (Arc::new(spec), network.input().clone(), Arc::new(segments));
        Ok(Self { spec, input, segments, preprocess, heads, policy, cost })
    }

    /// The same network with another policy, or another snapshot of the same run. The network is not loaded again.
    ///
    /// # Errors
    /// When snapshot and policy do not fit it.
    pub fn with_policy(&self, heads: Arc<Heads>, policy: Policy) -> Result<Self, InferError> {
        check(&self.spec, &heads, &policy)?;
        Ok(Self {
            spec: Arc::clone(&self.spec),
            input: self.input.clone(),
            segments: Arc::clone(&self.segments),
            preprocess: self.preprocess.clone(),
            heads,
            policy,
            cost: self.cost.clone(),
        })
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

    /// Classifies preprocessed samples, one per row. Between segments only the undecided ones are kept.
    ///
    /// # Errors
    /// See [`InferError`].
    pub fn run(&self, x: ArrayView2<'_, f32>) -> Result<Vec<Verdict>, InferError> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; x.nrows()];
        let mut undecided: Vec<usize> = (0..x.nrows()).collect();
        let mut activations = x.to_owned();
        for segment in 0..self.segments.len() {
            if undecided.is_empty() {
                break;
            }
            activations = self
                .segments
                .run_segment(segment, activations.view())
                .map_err(|error| InferError::Network(error.into()))?;
            if segment + 1 == self.segments.len() {
                self.decide_by_network(&activations, &undecided, &mut verdicts);
            } else if self.policy.exits[segment].is_some() {
                let staying = self.decide_at_exit(segment, &activations, &undecided, &mut verdicts)?;
                if staying.len() < undecided.len() {
                    activations = activations.select(Axis(0), &staying);
                    undecided = staying.iter().map(|row| undecided[*row]).collect();
                }
            }
        }
        Ok(verdicts.into_iter().flatten().collect())
    }

    /// Gives verdicts to the rows that leave here; returns the others.
    fn decide_at_exit(
        &self,
        e: usize,
        maps: &Array2<f32>,
        undecided: &[usize],
        verdicts: &mut [Option<Verdict>],
    ) -> Result<Vec<usize>, InferError> {
        let Some(rule) = self.policy.exits[e].as_ref() else { return Ok((0..maps.nrows()).collect()) };
        let mut z = vec![0.0; self.spec.exits[e].dim];
        let mut staying = Vec::with_capacity(maps.nrows());
        for (row, map) in maps.outer_iter().enumerate() {
            let map = map.to_slice().unwrap_or_default();
            self.spec.exits[e]
                .pool
                .apply(self.segments.tap_shape(e), map, &mut z)
                .map_err(|error| InferError::Network(error.into()))?;
            let decision =
                self.heads.decide(e, rule.rule, &z).map_err(|error| InferError::Network(error.into()))?;
            if decision.margin > rule.threshold {
                verdicts[undecided[row]] = Some(Verdict {
                    class: decision.class,
                    exit: Some(e),
                    margin: decision.margin,
                    cost: self.cost.cost(&self.policy, e),
                });
            } else {
                staying.push(row);
            }
        }
        Ok(staying)
    }

    fn decide_by_network(&self, logits: &Array2<f32>, undecided: &[usize], verdicts: &mut [Option<Verdict>]) {
        let cost = self.cost.cost(&self.policy, self.policy.exits.len());
        for (row, logits) in logits.outer_iter().enumerate() {
            let scores: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
            let best = (0..scores.len()).rev().max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap_or(0);
            verdicts[undecided[row]] = Some(Verdict {
                class: u32::try_from(best).unwrap_or(u32::MAX),
                exit: None,
                margin: exeunt_exits::margin(&scores),
                cost,
            });
        }
    }
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
