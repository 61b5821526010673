//! `exeunt bench stats`.

use std::cell::RefCell;

use clap::Args;
use exeunt_network::{EngineChoice, Lane, Network, Segments};
use exeunt_node::Features;
use exeunt_protocol::spec::ExitPlan;
use exeunt_stats::{ExitShape, Floors, MomentsAccumulator, MomentsShape, Scale};
use ndarray::{Array2, ArrayView2};
use serde::Serialize;

use super::measure::{Contestant, Times, side_by_side};
use super::{Common, CutArgs, Exit, in_threads, ms, noise, pass, ratio};
use crate::failure::BadInput;
use crate::show::{grid, right};

/// Batches that every thread passes per round.
const BATCHES: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    cut: CutArgs,
    /// Samples per batch; default: as many as suit the network
    #[arg(long, env = "EXEUNT_BATCH", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Option<u16>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Serialize)]
struct Measured {
    network: String,
    engine: String,
    threads: u16,
    batch: usize,
    samples_per_round: usize,
    taps: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    #[serde(flatten)]
    times: Times,
    samples_per_s: f64,
    /// Throughput as a share of the plain forward pass's.
    throughput: f64,
}

/// What one thread of a pass works with.
struct Hand<'a> {
    lane: Lane<'a>,
    features: Features,
    accumulator: MomentsAccumulator,
}

pub(crate) fn stats(arguments: &StatsArgs) -> anyhow::Result<()> {
    let network = Network::load(&arguments.cut.network)?;
    let threads = usize::from(arguments.common.threads);
    // A pass runs a sample on one thread, and as many samples at a time as there are threads.
    let engine = arguments.common.engine.choose(Some(1)).map_err(|error| BadInput(error.to_string()))?;
    let exits = arguments.cut.exits(&network, &engine)?;
    let bench = Bench::new(arguments, &network, &engine, &exits)?;

    let sums = RefCell::new(bench.hands(threads, false)?);
    let products = RefCell::new(bench.hands(threads, true)?);
    let mut plain = (0..threads).map(|_| bench.whole.lane()).collect::<Result<Vec<_>, _>>()?;
    let mut contestants: Vec<Contestant<'_>> = vec![
        Box::new(|| on_threads(&mut plain, |lane| pass(lane, bench.x.view(), 1))),
        Box::new(|| on_threads(&mut sums.borrow_mut(), |hand| bench.pass(hand))),
        Box::new(|| on_threads(&mut products.borrow_mut(), |hand| bench.pass(hand))),
    ];
    let times = side_by_side(arguments.common.budget(), &mut contestants)?;
    drop(contestants);

    let samples = threads * BATCHES * bench.x.nrows();
    let names = ["plain forward pass", "with class sums", "with class sums and second moments"];
    let rows = names.into_iter().zip(times).map(|(what, times)| Row {
        what,
        times,
        samples_per_s: samples as f64 / times.median_ms * 1e3,
        throughput: 1.0 / times.ratio,
    });
    let measured = Measured {
        network: arguments.cut.network.display().to_string(),
        engine: bench.cut.engine().to_owned(),
        threads: arguments.common.threads,
        batch: bench.x.nrows(),
        samples_per_round: samples,
        taps: exits.iter().map(|exit| exit.tap.clone()).collect(),
        rows: rows.collect(),
    };
    if arguments.common.output.json {
        crate::out!("{}", serde_json::to_string(&measured)?);
    } else {
        crate::out!("{}", table(&measured).trim_end());
    }
    Ok(())
}

struct Bench {
    whole: Segments,
    cut: Segments,
    exits: Vec<ExitPlan>,
    x: Array2<f32>,
    labels: Vec<u32>,
    classes: usize,
    scales: Vec<Scale>,
}

impl Bench {
    fn new(
        arguments: &StatsArgs,
        network: &Network,
        engine: &EngineChoice,
        exits: &[Exit],
    ) -> anyhow::Result<Self> {
        let taps: Vec<&str> = exits.iter().map(|exit| exit.tap.as_str()).collect();
        let cut = Segments::prepare_exact(engine.engine(), network, &taps, arguments.batch.map(usize::from))?;
        let whole = Segments::prepare_fast(engine.engine(), network, &[])?;
        let (rows, numbers) = (cut.batch(), network.input().len());
        let x = Array2::from_shape_vec((rows, numbers), noise(5, rows * numbers))?;
        let classes = network.output().len();
        let labels = (0..rows).map(|row| u32::try_from(row % classes).unwrap_or(0)).collect();
        let exits = exits.iter().map(|exit| ExitPlan {
            tap: exit.tap.clone(),
            pool: exit.pool,
            rules: Vec::new(),
            dim: exit.dim,
        });
        let mut bench = Self { whole, cut, exits: exits.collect(), x, labels, classes, scales: Vec::new() };
        let mut features = Features::default();
        bench.take(&mut features, &mut bench.cut.lane()?)?;
        bench.scales = features.pooled.iter().map(|z| scale(z.view())).collect();
        Ok(bench)
    }

    fn take(&self, features: &mut Features, lane: &mut Lane<'_>) -> anyhow::Result<()> {
        features
            .take(&self.exits, &self.cut, lane, self.x.view())
            .map_err(|refusal| anyhow::anyhow!("{refusal}"))
    }

    fn hands(&self, threads: usize, second: bool) -> anyhow::Result<Vec<Hand<'_>>> {
        let exits = self.exits.iter().map(|exit| ExitShape { dim: exit.dim, second }).collect();
        let shape = MomentsShape { classes: self.classes, exits };
        let counts = vec![u64::from(u32::MAX); self.classes];
        let floors = Floors { min_count: 0, second_factor: 0 };
        let empty = MomentsAccumulator::new(shape, self.scales.clone(), &counts, &floors)?;
        let hand = |_| {
            Ok(Hand { lane: self.cut.lane()?, features: Features::default(), accumulator: empty.sibling() })
        };
        (0..threads).map(hand).collect()
    }

    fn pass(&self, hand: &mut Hand<'_>) -> anyhow::Result<()> {
        self.take(&mut hand.features, &mut hand.lane)?;
        let views: Vec<ArrayView2<'_, f32>> = hand.features.pooled.iter().map(Array2::view).collect();
        Ok(hand.accumulator.add(&self.labels, &views)?)
    }
}

/// A scale that all these numbers fit.
fn scale(z: ArrayView2<'_, f32>) -> Scale {
    let largest = z.iter().fold(f32::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    Scale::for_exponent(largest.log2().floor().clamp(-100.0, 100.0) as i8)
}

/// Every thread passes its batches.
fn on_threads<H: Send>(
    hands: &mut [H],
    pass: impl Fn(&mut H) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let work = |hand: &mut H| (0..BATCHES).try_for_each(|_| pass(hand));
    std::thread::scope(|scope| {
        let Some((mine, others)) = hands.split_first_mut() else { return Ok(()) };
        let others: Vec<_> = others.iter_mut().map(|hand| scope.spawn(|| work(hand))).collect();
        work(mine)?;
        others
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))?)
    })
}

fn table(measured: &Measured) -> String {
    let Measured { network, engine, threads, batch, .. } = measured;
    let exits = measured.taps.len();
    let threads = in_threads(*threads);
    let mut text = format!("{network}\n{engine}, {threads}, batches of {batch}, {exits} exits\n\n");
    let mut rows = grid(&["", "median ms", "p95 ms", "samples/s", "of the plain pass"]);
    for row in &measured.rows {
        let Row { what, times, samples_per_s, throughput } = row;
        let (median, p95) = (ms(times.median_ms), ms(times.p95_ms));
        rows.add_row([(*what).to_owned(), median, p95, format!("{samples_per_s:.0}"), ratio(*throughput)]);
    }
    right(&mut rows, &[1, 2, 3, 4]);
    text.push_str(&format!("{rows}\n"));
    text
}
