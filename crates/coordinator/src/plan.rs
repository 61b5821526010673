//! From a run file and a network to a run: every tap checked, every dimension and cost known, before any node is
//! asked anything.

use std::collections::BTreeMap;
use std::time::Duration;

use exeunt_exits::{CostModel, ExitContext, PoolError, Rule, RunContext, SearchOptions};
use exeunt_network::{CutError, Network, Tap};
use exeunt_protocol::coordinator::RunOptions;
use exeunt_protocol::message::BlobRef;
use exeunt_protocol::spec::{ExitPlan, RunFile, RunSpec};
use exeunt_stats::{Macs, packed};

/// Longest table that is taken from a node, in bytes as it travels.
pub(crate) const MAX_TABLE: u64 = 256 << 20;

/// Why a run cannot be made of this run file and this network.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A value makes no sense.
    #[error("run file '{run}': {source}")]
    Value {
        /// Name in the run file.
        run: String,
        /// Which, and what would be right.
        source: exeunt_protocol::run_file::WrongValue,
    },
    /// The exits are still to be placed: whoever starts the run measures, and names them.
    #[error(
        "run file '{run}', exits: found \"auto\", expected exits placed by the program that starts the run"
    )]
    NotPlaced {
        /// Name in the run file.
        run: String,
    },
    /// A tap cannot be an exit.
    #[error("run file '{run}', exits: {source}")]
    Tap {
        /// Name in the run file.
        run: String,
        /// What is wrong with the tap.
        source: CutError,
    },
    /// The pooling does not fit the tap's shape.
    #[error("run file '{run}', exit '{tap}': {source}")]
    Pool {
        /// Name in the run file.
        run: String,
        /// The tap.
        tap: String,
        /// What is wrong.
        source: PoolError,
    },
    /// The network has another number of outputs than the run has classes.
    #[error(
        "run file '{run}', task.classes: found {found} classes, expected {expected}, the outputs of the network"
    )]
    Classes {
        /// Name in the run file.
        run: String,
        /// Classes in the run file.
        found: usize,
        /// Outputs of the network.
        expected: usize,
    },
    /// The network's input is not an image of the run's colour.
    #[error(
        "run file '{run}', input.colour: found {found} channels, expected {expected:?}, the input of the network"
    )]
    Input {
        /// Name in the run file.
        run: String,
        /// Channels in the run file.
        found: usize,
        /// The network's input without its batch.
        expected: Vec<usize>,
    },
    /// The largest table of the run may be longer than a coordinator takes.
    #[error(
        "run file '{run}', exits: found a table of up to {found} bytes, expected at most {expected}; most of it is for \
         '{tap}' with {dim} numbers: give it a smaller pool, or the rule class-means alone"
    )]
    TooLarge {
        /// Name in the run file.
        run: String,
        /// Most bytes that class sums and second moments can take.
        found: u64,
        /// Bytes that a table may have.
        expected: u64,
        /// The exit with the most cells.
        tap: String,
        /// Numbers per sample there.
        dim: usize,
    },
    /// The specification cannot be written down.
    #[error("run file '{run}' cannot be written as a specification")]
    Encode {
        /// Name in the run file.
        run: String,
        /// What the encoder said.
        source: serde_json::Error,
    },
}

/// A run, ready to start.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// What nodes receive.
    pub spec: RunSpec,
    /// The same, as the bytes they fetch.
    pub spec_bytes: Vec<u8>,
    /// What the program needs.
    pub context: RunContext,
    /// What the state machine needs.
    pub options: RunOptions,
}

impl RunPlan {
    /// Checks `file` against `network`.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn new(file: &RunFile, network: &Network) -> Result<Self, PlanError> {
        let run = || file.name.clone();
        // It may have come from anybody's operator, not through this program's reader.
        file.check().map_err(|source| PlanError::Value { run: run(), source })?;
        let classes = file.task.names();
        let outputs: usize = network.output().shape.iter().product();
        if classes.len() != outputs {
            return Err(PlanError::Classes { run: run(), found: classes.len(), expected: outputs });
        }
        let input = &network.input().shape;
        if input.len() != 3 || input[0] != file.input.colour.channels() {
            let found = file.input.colour.channels();
            return Err(PlanError::Input { run: run(), found, expected: input.clone() });
        }
        let named = file.exits.named();
        if named.is_empty() {
            return Err(PlanError::NotPlaced { run: run() });
        }
        let taps: Vec<&str> = named.iter().map(|exit| exit.tap.as_str()).collect();
        network.cut(&taps).map_err(|source| PlanError::Tap { run: run(), source })?;
        let cut: Vec<&Tap> = taps.iter().filter_map(|tap| network.tap(tap)).collect();

        let mut exits = Vec::with_capacity(cut.len());
        for (exit, tap) in named.iter().zip(&cut) {
            let pool = exit.pool.unwrap_or(file.exit.pool);
            let dim = pool.dim(&tap.shape).map_err(|source| PlanError::Pool {
                run: run(),
                tap: exit.tap.clone(),
                source,
            })?;
            let mut rules: Vec<Rule> = exit.rules.clone().unwrap_or_else(|| file.exit.rules.clone());
            rules.sort_unstable();
            rules.dedup();
            exits.push(ExitPlan { tap: exit.tap.clone(), pool, rules, dim });
        }
        let cost = CostModel {
            network: network.macs(),
            until: cut.iter().map(|tap| tap.macs_until).collect(),
            head: exits.iter().map(|exit| Macs::new((classes.len() * exit.dim) as u64)).collect(),
        };
        let context = RunContext {
            classes: classes.len(),
            class_names: classes.clone(),
            exits: exits
                .iter()
                .map(|exit| ExitContext { tap: exit.tap.clone(), dim: exit.dim, rules: exit.rules.clone() })
                .collect(),
            cost,
            shrinkage: file.method.shrinkage,
            prior: file.method.prior,
            search: SearchOptions { rounds: file.method.search_rounds as usize, ..SearchOptions::default() },
            range_samples: file.method.range_samples,
            second_factor: file.floors.second_factor,
            timings: true,
        };
        check_size(file, &context, MAX_TABLE)?;
        let spec = RunSpec {
            network: network.hash(),
            network_bytes: network.bytes().len() as u64,
            seed: file.seed,
            input: file.input.clone(),
            classes,
            exits,
            data: file.data.clone(),
            floors: file.floors,
            more: BTreeMap::new(),
        };
        let spec_bytes =
            serde_json::to_vec(&spec).map_err(|source| PlanError::Encode { run: run(), source })?;
        let options = RunOptions {
            spec: BlobRef::of(&spec_bytes),
            network: BlobRef { digest: network.hash(), bytes: network.bytes().len() as u64 },
            quorum: file.federation.quorum,
            deadline: Duration::from_secs(file.federation.deadline_s),
            min_nodes: file.floors.min_nodes,
        };
        Ok(Self { spec, spec_bytes, context, options })
    }
}

/// Whether nodes will be able to deliver the largest table there is: class sums with second moments.
fn check_size(file: &RunFile, context: &RunContext, limit: u64) -> Result<(), PlanError> {
    let second: Vec<bool> = context.exits.iter().map(|exit| exit.rules.contains(&Rule::Whitened)).collect();
    let shape = context.moments_shape(&second);
    let found = packed::max_len(shape.layout().cells()) as u64;
    let cells =
        |exit: usize| shape.exits[exit].triangle() * usize::from(second[exit]) + shape.exits[exit].dim;
    let widest = (0..shape.exits.len()).max_by_key(|exit| cells(*exit));
    match widest.map(|exit| &context.exits[exit]) {
        Some(exit) if found > limit => Err(PlanError::TooLarge {
            run: file.name.clone(),
            found,
            expected: limit,
            tap: exit.tap.clone(),
            dim: exit.dim,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{network, run_file};

    #[test]
    fn a_run_whose_tables_nobody_would_take_is_not_started() {
        let (file, network) = (run_file(), network());
        let context = RunPlan::new(&file, &network).unwrap().context;
        let error = check_size(&file, &context, 100).unwrap_err();
        let PlanError::TooLarge { found, expected: 100, tap, dim, .. } = &error else { panic!("{error}") };
        // The deeper of the two exits is the wider one.
        assert_eq!((tap, *dim), (&context.exits[1].tap, context.exits[1].dim));
        assert!(check_size(&file, &context, *found).is_ok());
        assert!(error.to_string().contains("give it a smaller pool"), "{error}");
    }
}
