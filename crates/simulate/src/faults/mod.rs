//! Whole federations on a virtual clock, with everything going wrong that can.
//!
//! The coordinator's core, its store and every node's machine are the real ones, in one thread. What surrounds them is
//! made up: a network that loses, delays, doubles and reorders, partitions, processes that die at any step, a disk that
//! tears what was not synced and fills up, clocks that jump, data that grow, and an operator who starts runs, sets
//! policies and shuts nodes out (`scenario::Fault::KINDS`). Everything follows from a seed: the same seed gives the
//! same trace, event by event.
//!
//! Nodes answer from made-up samples, each with a cell of its own in the merged sums; the oracle holds every sealed table
//! against the sequential sum over the cohort that its seal names, bit for bit, and everything that was ever
//! acknowledged against the store. After 40 virtual seconds faults end; within four minutes more everything must have
//! come to rest.
//!
//! What breaks a promise is run again with less and less in it, until nothing can be left out.
//!
//! Deliberately not here: bytes on a wire and threads. Those are `tests/federation.rs`, on real processes.

mod device;
mod disk;
mod oracle;
mod samples;
mod scenario;
mod shrink;
mod site;
mod witness;
mod world;

use std::collections::BTreeMap;

use exeunt_coordinator::RunPlan;
use exeunt_exits::{CostModel, ExitContext, Pool, Rule, RunContext, SearchOptions};
use exeunt_protocol::coordinator::RunOptions;
use exeunt_protocol::message::BlobRef;
use exeunt_protocol::run_file::RunFileError;
use exeunt_protocol::spec::{ExitPlan, RunFile, RunSpec};
use exeunt_stats::{Digest, Macs};
use serde::Serialize;

pub use oracle::{Promise, Violation};
pub use witness::Mutation;

use samples::{CLASSES, Samples};
use scenario::{Fault, Scenario};
use site::Kit;
use world::{Outcome, World};

/// Runs that a failing scenario is shortened by at most.
const SHRINK_RUNS: usize = 400;

const RUN_FILE: &str = r#"
name = "simulated"
network = "none.onnx"
exits = [{ tap = "exit" }]
[input]
colour = "grey"
mean = [0.0]
std = [1.0]
[task]
class_count = 2
[exit]
pool = 1
rules = ["class-means"]
[data]
format = "npz"
[data.statistics]
files = ["a"]
[data.calibration]
files = ["b"]
[data.evaluation]
files = ["c"]
"#;

/// Why nothing can be simulated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FaultsError {
    /// The run file that comes with the simulation is wrong.
    #[error(transparent)]
    RunFile(#[from] RunFileError),
    /// Its specification cannot be written.
    #[error("the simulation's specification cannot be written")]
    Spec(#[from] serde_json::Error),
}

/// Simulates seed after seed, and counts.
#[derive(Debug)]
pub struct Explorer {
    file: RunFile,
    mutation: Option<Mutation>,
    kits: BTreeMap<(usize, u32, std::time::Duration), Kit>,
    tally: Tally,
}

/// What was simulated so far.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Tally {
    /// Seeds.
    pub seeds: u64,
    /// Things that happened.
    pub events: u64,
    /// Virtual time, in seconds.
    pub virtual_s: f64,
    /// Times that a coordinator's process ended, by a fault or by itself.
    pub coordinator_restarts: u64,
    /// Contributions that were acknowledged.
    pub acknowledged: u64,
    /// Contributions that were refused: conflicts, old editions, closed runs.
    pub rejected: u64,
    /// Queries that were sealed.
    pub seals: u64,
    /// Of them, queries that were withdrawn for a wider scale.
    pub withdrawn: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Seeds that broke a promise.
    pub violations: u64,
}

impl Tally {
    /// Adds what was simulated elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.virtual_s += other.virtual_s;
        self.coordinator_restarts += other.coordinator_restarts;
        self.acknowledged += other.acknowledged;
        self.rejected += other.rejected;
        self.seals += other.seals;
        self.withdrawn += other.withdrawn;
        self.violations += other.violations;
        for (kind, struck) in &other.faults {
            *self.faults.entry(kind).or_default() += struck;
        }
    }
}

/// A seed that breaks a promise.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Finding {
    /// The seed.
    pub seed: u64,
    /// What was seen under the seed.
    pub violation: Violation,
    /// The shortest scenario found that still breaks that promise, in words.
    pub shortest: String,
    /// What was seen there.
    pub in_short: Violation,
    /// Everything that happened there, a line each.
    pub trace: Vec<String>,
}

/// What one seed came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// Names everything that happened, in order: the same seed gives the same digest.
    pub digest: Digest,
    /// How many things happened.
    pub events: u64,
    /// Everything that happened, a line each.
    pub trace: Vec<String>,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
}

impl Explorer {
    /// Simulations of the software as it is.
    ///
    /// # Errors
    /// See [`FaultsError`].
    pub fn new() -> Result<Self, FaultsError> {
        let file = RunFile::parse(RUN_FILE, "simulated.toml")?;
        Ok(Self { file, mutation: None, kits: BTreeMap::new(), tally: Tally::default() })
    }

    /// Simulations in which a promise is broken on purpose.
    ///
    /// # Errors
    /// See [`FaultsError`].
    pub fn broken(mutation: Mutation) -> Result<Self, FaultsError> {
        Ok(Self { mutation: Some(mutation), ..Self::new()? })
    }

    /// What there was so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Simulates a seed, and shortens what broke a promise.
    ///
    /// # Errors
    /// See [`FaultsError`].
    pub fn explore(&mut self, seed: u64) -> Result<Option<Finding>, FaultsError> {
        let scenario = Scenario::from_seed(seed);
        let outcome = self.simulate(&scenario, false)?;
        self.count(&outcome);
        let Some(violation) = outcome.violations.into_iter().next() else { return Ok(None) };
        let mut failed = None;
        let shortest =
            shrink::shrink(scenario, SHRINK_RUNS, |candidate| match self.simulate(candidate, false) {
                Ok(outcome) => outcome.violations.iter().any(|other| other.promise == violation.promise),
                Err(error) => {
                    failed = Some(error);
                    false
                }
            });
        if let Some(error) = failed {
            return Err(error);
        }
        let short = self.simulate(&shortest, true)?;
        let in_short = short.violations.first().unwrap_or(&violation).clone();
        let shortest = shortest.to_string();
        Ok(Some(Finding { seed, violation, shortest, in_short, trace: short.trace }))
    }

    /// Simulates a seed as it is, and tells everything.
    ///
    /// # Errors
    /// See [`FaultsError`].
    pub fn watch(&mut self, seed: u64) -> Result<Seen, FaultsError> {
        let outcome = self.simulate(&Scenario::from_seed(seed), true)?;
        self.count(&outcome);
        let Outcome { digest, events, trace, violations, .. } = outcome;
        Ok(Seen { digest, events, trace, violation: violations.into_iter().next() })
    }

    fn simulate(&mut self, scenario: &Scenario, trace: bool) -> Result<Outcome, FaultsError> {
        let key = (scenario.nodes.len(), scenario.quorum, scenario.deadline);
        if !self.kits.contains_key(&key) {
            // Deadlines differ from seed to seed: what is kept is for one seed and what it is shortened to.
            self.kits.clear();
        }
        let kit = match self.kits.entry(key) {
            std::collections::btree_map::Entry::Occupied(kit) => kit.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert(kit(&self.file, scenario)?),
        };
        Ok(World::new(scenario, kit, self.mutation, trace).run())
    }

    fn count(&mut self, outcome: &Outcome) {
        let tally = &mut self.tally;
        tally.seeds += 1;
        tally.events += outcome.events;
        tally.virtual_s += outcome.virtual_ms as f64 / 1000.0;
        tally.coordinator_restarts += outcome.restarts;
        tally.acknowledged += outcome.counts.acknowledged;
        tally.rejected += outcome.counts.rejected;
        tally.seals += outcome.counts.seals;
        tally.withdrawn += outcome.counts.withdrawn;
        tally.violations += u64::from(!outcome.violations.is_empty());
        for (kind, struck) in Fault::KINDS.into_iter().zip(outcome.faults) {
            *tally.faults.entry(kind).or_default() += struck;
        }
    }
}

/// A run over made-up samples: one exit, with a place in its vectors for every sample of the fleet.
fn kit(file: &RunFile, scenario: &Scenario) -> Result<Kit, FaultsError> {
    let dim = Samples::dim(scenario.nodes.len());
    let rules = vec![Rule::ClassMeans];
    let tap = "exit".to_owned();
    let context = RunContext {
        classes: CLASSES,
        class_names: file.task.names(),
        exits: vec![ExitContext { tap: tap.clone(), dim, rules: rules.clone() }],
        cost: CostModel {
            network: Macs::new(100),
            until: vec![Macs::new(40)],
            head: vec![Macs::new((CLASSES * dim) as u64)],
        },
        shrinkage: 0.01,
        prior: false,
        search: SearchOptions { rounds: 2, batch: 6, levels: 4, ..SearchOptions::default() },
        range_samples: 2048,
        second_factor: 2,
        timings: true,
    };
    let network = b"network".to_vec();
    let spec = RunSpec {
        network: Digest::of(&network),
        network_bytes: network.len() as u64,
        seed: 0,
        input: file.input.clone(),
        classes: file.task.names(),
        exits: vec![ExitPlan { tap, pool: Pool::Grid(1), rules, dim }],
        data: file.data.clone(),
        floors: file.floors,
        more: BTreeMap::new(),
    };
    let spec_bytes = serde_json::to_vec(&spec)?;
    let options = RunOptions {
        spec: BlobRef::of(&spec_bytes),
        network: BlobRef::of(&network),
        quorum: scenario.quorum,
        deadline: scenario.deadline,
        min_nodes: 1,
    };
    Ok(Kit { file: file.clone(), plan: RunPlan { spec, spec_bytes, context, options }, network })
}
