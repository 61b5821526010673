//! `exeunt bench`: what the clock says, side by side.

mod infer;
mod ingest;
mod measure;
mod merge;
mod segments;
mod sessions;
mod stats;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use exeunt_exits::Pool;
use exeunt_network::{EngineChoice, Lane, Network};
use exeunt_node::EngineOptions;
use ndarray::ArrayView2;

use crate::cli::Json;
use crate::failure::BadInput;
use crate::place::{self, Wanted};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// The network in segments, nobody leaving, beside the network in one piece
    Segments(segments::SegmentsArgs),
    /// Inference that leaves early beside the whole network, at one point below its accuracy
    Infer(infer::InferArgs),
    /// The pass that makes statistics beside a plain forward pass
    Stats(stats::StatsArgs),
    /// A fleet's sessions against a coordinator, beside a server that discards what it reads
    Sessions(sessions::SessionsArgs),
    /// Large tables over one connection, beside the same bytes thrown away and beside the disk
    Ingest(ingest::IngestArgs),
    /// Adding packed tables up, beside copying and adding plain ones
    Merge(merge::MergeArgs),
    /// The nodes of `sessions`, in a process of their own
    #[command(hide = true)]
    Nodes(sessions::NodesArgs),
    /// What `sessions` compares with, in a process of its own
    #[command(hide = true)]
    Discard(sessions::DiscardArgs),
}

pub(crate) fn bench(command: &BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Segments(arguments) => segments::segments(arguments),
        BenchCommand::Infer(arguments) => infer::infer(arguments),
        BenchCommand::Stats(arguments) => stats::stats(arguments),
        BenchCommand::Sessions(arguments) => sessions::sessions(arguments),
        BenchCommand::Ingest(arguments) => ingest::ingest(arguments),
        BenchCommand::Merge(arguments) => merge::merge(arguments),
        BenchCommand::Nodes(arguments) => sessions::nodes(arguments),
        BenchCommand::Discard(arguments) => sessions::discard(arguments),
    }
}

/// What all benchmarks are told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    engine: EngineOptions,
    /// Threads
    #[arg(long, env = "EXEUNT_THREADS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How long to measure, in seconds; at least nine rounds are run
    #[arg(long, value_name = "S", default_value_t = 10)]
    seconds: u64,
    #[command(flatten)]
    output: Json,
}

impl Common {
    fn engine(&self) -> anyhow::Result<EngineChoice> {
        let choice = self.engine.choose(Some(usize::from(self.threads)));
        Ok(choice.map_err(|error| BadInput(error.to_string()))?)
    }

    fn budget(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// A network and where to cut it.
#[derive(Debug, Args)]
pub(crate) struct CutArgs {
    /// ONNX file; random weights will do
    network: PathBuf,
    /// Number of exits, placed by time measured here, as `inspect --place` does; 0 for none
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "taps", value_parser = clap::value_parser!(u8).range(0..=exeunt_exits::MAX_PLACED as i64))]
    exits: u8,
    /// Exits at these taps instead, in the order they are reached
    #[arg(long, value_name = "TAP,…", value_delimiter = ',')]
    taps: Vec<String>,
    /// Average maps to POOL×POOL, or to what they have where that is less
    #[arg(long, value_name = "POOL", default_value_t = 4)]
    pool: u16,
}

/// A place to leave at, and what is read there.
#[derive(Clone, Debug)]
struct Exit {
    tap: String,
    shape: Vec<usize>,
    pool: Pool,
    dim: usize,
}

impl CutArgs {
    /// The exits to measure with.
    fn exits(&self, network: &Network, engine: &EngineChoice) -> anyhow::Result<Vec<Exit>> {
        let taps = if self.taps.is_empty() && self.exits > 0 {
            let (pool, classes) = (Pool::Grid(self.pool.max(1)), network.output().len());
            let wanted = Wanted { exits: usize::from(self.exits), pool, classes };
            place::choose(network, engine.engine(), wanted, None)?.taps()
        } else {
            self.taps.clone()
        };
        taps.iter().map(|tap| Exit::new(network, tap, self.pool)).collect()
    }
}

impl Exit {
    fn new(network: &Network, tap: &str, pool: u16) -> anyhow::Result<Self> {
        // The error of a cut says what is wrong with the name.
        network.cut(&[tap]).map_err(|error| BadInput(error.to_string()))?;
        let tap = network.tap(tap).ok_or_else(|| BadInput(format!("there is no tap {tap:?}")))?;
        let fits = tap.shape.get(1..).into_iter().flatten().min().copied().unwrap_or(1);
        let pool = match tap.shape.len() {
            1 | 3 => Pool::Grid(pool.min(u16::try_from(fits).unwrap_or(u16::MAX)).max(1)),
            _ => Pool::Full,
        };
        let (tap, dim) = (tap.clone(), pool.dim(&tap.shape)?);
        Ok(Self { tap: tap.name, shape: tap.shape, pool, dim })
    }
}

/// Takes `x` through the next `segments`.
fn pass(lane: &mut Lane<'_>, x: ArrayView2<'_, f32>, segments: usize) -> anyhow::Result<()> {
    lane.begin(x)?;
    (0..segments).try_for_each(|_| lane.run())?;
    Ok(())
}

/// Numbers between −1 and 1 without any pattern, the same every time: inputs and weights whose values do not matter.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        // Knuth's constants (MMIX); the upper bits are good enough here.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// The threads that a sample runs on: tract knows one.
fn threads_used(engine: &str, threads: u16) -> u16 {
    if engine.starts_with("tract") { 1 } else { threads }
}

/// A number of threads, in words.
fn in_threads(threads: u16) -> String {
    if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") }
}

/// `1.234`, for milliseconds.
fn ms(value: f64) -> String {
    format!("{value:.3}")
}

/// `1.05`, for ratios.
fn ratio(value: f64) -> String {
    format!("{value:.3}")
}

/// `12.3 %`.
fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}
